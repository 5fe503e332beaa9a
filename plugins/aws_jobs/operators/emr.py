"""Operators for EMR clusters and steps that submit once, wait in the triggerer and say why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import TaskDeferred

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import call_patiently, error_code, error_message
from aws_jobs.aws_task import backstop, in_future, require_id
from aws_jobs.cluster_lease import Lease, LeaseError, LeaseTable, Pool, end_or_release, lease_user
from aws_jobs.emr_failures import EmrFailuresMixin
from aws_jobs.exceptions import SettingsError, TaskKilled
from aws_jobs.identity import TAG_ENDS_BY, TAG_POOL, tag_value
from aws_jobs.job_flow import (
    CLUSTER_ENDING,
    ClusterJob,
    StepsJob,
    cancel_steps,
    is_unknown_id,
    step_verdict,
)
from aws_jobs.job_flow_spec import conform_job_flow, conform_steps
from aws_jobs.lease_pool import ClusterPool, ClusterReuse, LeasedClusterJob
from aws_jobs.submit_once import HeldStore, Submission, current_epoch, finish
from aws_jobs.triggers.emr import EmrClusterTrigger, EmrPoolTrigger, EmrStepTrigger
from aws_jobs.verdicts import FailureClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

# Ending a cluster or step is repeated this long, in seconds, while EMR throttles.
_END_BUDGET = 900.0
# Seconds between two looks, at the most, at who founds a cluster.
_POOL_INTERVAL = 5.0


class EmrCreateClusterOperator(EmrFailuresMixin, BaseOperator):
    """Start a cluster, wait until it is ready, and return its id.

    Use it as a setup, with :class:`EmrTerminateClusterOperator` as its teardown. Airflow runs no
    teardown for a setup that failed, so this task ends its cluster on every way out but success;
    its retry starts another. A retry of a task that died reconnects to the cluster it had started.

    With ``reuse`` it takes a lease on a cluster that another run has started, where there is one;
    then every way of ending the cluster gives back the lease, and the last one ends the cluster. A
    second XCom, ``cluster_use``, is then new at each acquisition: write below it what may not be
    mixed with what a cleared task wrote on the same cluster.

    :param job_flow: RunJobFlow's arguments, without Tags. (templated)
    :param wait_until_ready: False to return the id at once, for a sensor to wait.
    :param startup_budget: how long the cluster may take until it is ready.
    :param lifetime: when the cluster's ``ends-by`` tag falls due, after which it may be ended
        whatever Airflow says of its run.
    :param reuse: share clusters; needs the setting ``leases_table``. (its pool is templated)
    """

    template_fields: Sequence[str] = ("job_flow", "pool_name")
    template_fields_renderers: ClassVar[dict[str, str]] = {"job_flow": "json"}
    ui_color = "#f9d9b0"

    def __init__(
        self,
        *,
        job_flow: dict[str, Any],
        wait_until_ready: bool = True,
        startup_budget: timedelta = timedelta(hours=1),
        lifetime: timedelta = timedelta(hours=24),
        reuse: ClusterReuse | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_flow = job_flow
        self.wait_until_ready = wait_until_ready
        self.startup_budget = startup_budget
        self.lifetime = lifetime
        self.reuse = reuse
        self.pool_name = reuse.pool if reuse else ""
        self._urgent_leases: LeaseTable | None = None

    def execute(self, context: Context) -> str:
        """Submit the job flow and wait for the cluster.

        :raises InvalidRequestError: with every problem of the job flow, before it costs money.
        """
        with self.working():
            try:
                return self._take_cluster(context, in_future(self.startup_budget))
            except TaskDeferred:
                raise
            except BaseException as error:
                self._end_what_was_made(context, error)
                raise

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Go on after a wait, and end the cluster on every way out but success."""
        with self.working():
            try:
                self.recall(context)
                self.prepare_for_a_kill()
                return super().resume_execution(next_method, next_kwargs, context)
            except TaskDeferred:
                raise
            except BaseException as error:
                self._end_what_was_made(context, error)
                raise

    def prepare_for_a_kill(self) -> None:
        """Make the clients for the last calls now."""
        table = self.settings.leases_table
        if table and (self.lease is not None or self.pool_name.strip()):
            region = self.settings.region
            dynamodb = aws_client("dynamodb", self.aws_conn_id, region, urgent=True)
            self._urgent_leases = LeaseTable(dynamodb, table, budget=1.0)
        super().prepare_for_a_kill()

    def recall(self, context: Context) -> None:
        """Know the cluster that this task instance has started or joined."""
        submission = self._remembered(context)
        if submission is not None and submission.external_ids:
            self._hold(context, submission)

    def end_started(self, emr: Any) -> None:
        """Terminate the cluster or give back its lease; a protected one is for the next layers."""
        if self.lease is None:
            emr.terminate_job_flows(JobFlowIds=self.started)
        else:
            end_or_release(emr, self._urgent_leases, self.lease)

    def take_cluster(self, context: Context, event: dict[str, Any], deadline: float) -> str:
        """Go on after another run was waited for, which founded a cluster, or did not.

        :raises LeaseError: where others found clusters all the time that there is.
        """
        if event["outcome"] == "free":
            return self._take_cluster(context, deadline)
        why = event.get("message") or f"others did for all of {self.startup_budget}"
        raise LeaseError(
            f"No cluster of the pool {self.pool_name} could be joined or founded: {why}"
        )

    def execute_complete(self, context: Context, event: dict[str, Any], cluster_id: str) -> str:
        """Return the id of a cluster that is ready; end and explain one that is not."""
        self.show_links(cluster_id)
        if event["outcome"] == "ready":
            self.log.info("Cluster %s is %s", cluster_id, event["state"])
            self._require_lease()
            return self._hand_over(context, cluster_id)
        finding = self.judge_cluster(cluster_id, event["outcome"])
        self._try_to_end(has_ended=event["outcome"] == "ended")
        self.explain(finding)

    def _require_lease(self) -> None:
        """Renew the lease on a shared cluster; where the table does not answer, go on.

        :raises LeaseError: where it is over, so that the retry takes another cluster.
        """
        if self.lease is None or self.leases is None:
            return
        try:
            renewed = self.leases.renew(self.lease)
        except Exception as error:
            self.log.warning("The lease on %s was not renewed: %s", self.lease.cluster_id, error)
            return
        if not renewed:
            raise LeaseError(
                f"The lease on cluster {self.lease.cluster_id} is over: it was closed while this "
                "task waited. The retry takes another."
            )

    def _take_cluster(self, context: Context, deadline: float) -> str:
        cluster_id = self._start(context, deadline)
        if self.wait_until_ready:
            self._wait(cluster_id)
        return self._hand_over(context, cluster_id)

    def _start(self, context: Context, deadline: float) -> str:
        job_flow, warnings = conform_job_flow(self.job_flow)
        for warning in warnings:
            self.log.warning("%s", warning)
        pool = self._pool(job_flow)
        self.recall(context)
        if pool is not None:
            job = self._leased_job(context, job_flow, pool)
            submission = self._share(context, job, pool, deadline)
        elif self.lease is not None:
            submission = self.submit(context, self._leased_job(context, job_flow, None))
        else:
            submission = self.submit(context, ClusterJob(self.emr, job_flow, self._tags(None)))
        self._hold(context, submission)
        (cluster_id,) = self.started
        self.log.info("Cluster %s, run key %s", cluster_id, submission.digest)
        self.show_links(cluster_id)
        return cluster_id

    def _pool(self, job_flow: dict[str, Any]) -> ClusterPool | None:
        """Return the pool that the cluster is shared in, if it is."""
        name = self.pool_name.strip()
        if self.reuse is None or not name:
            return None
        deployment_id = self.settings.deployment_id
        return ClusterPool.of(self.reuse, name, deployment_id, job_flow, self.lifetime)

    def _leased_job(
        self, context: Context, job_flow: dict[str, Any], pool: ClusterPool | None
    ) -> LeasedClusterJob:
        """Return a cluster that is shared, or that is not after the one before was.

        :raises SettingsError: where no table of leases is set.
        """
        if self.leases is None:
            raise SettingsError(
                "Clusters cannot be shared",
                ["leases_table is not set: it is the output LeasesTable of include/infra/emr.yaml"],
            )
        before = self._remembered(context)
        return LeasedClusterJob(
            self.emr,
            job_flow,
            self._tags(pool),
            pool.pool_id if pool else "",
            leases=self.leases,
            user=_user(context),
            use=before.digest if before else "",
        )

    def _tags(self, pool: ClusterPool | None) -> dict[str, str]:
        ends_by = datetime.now(UTC) + self.lifetime
        return {
            "owner": self.settings.owner,
            "cost-centre": self.settings.cost_centre,
            # Without it AWS's own policy for the service role lets EMR start nothing.
            # https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-managed-iam-policies.html
            "for-use-with-amazon-emr-managed-policies": "true",
            TAG_ENDS_BY: ends_by.strftime("%Y-%m-%dT%H:%M:%SZ"),
            **({TAG_POOL: tag_value(pool.name)} if pool else {}),
        }

    def _share(
        self, context: Context, job: LeasedClusterJob, pool: ClusterPool, deadline: float
    ) -> Submission:
        """Reconnect to this task's cluster, join another's, or found one for others to join.

        Whatever this task may hold is in its memory before it holds it, so a try that died at any
        point is found out: what it holds is gone on with, or given back.
        """
        self.prepare_for_a_kill()
        before = self._remembered(context)
        if not self._goes_on(context, job, before):
            if before is not None:
                ids = before.external_ids or []
                left = job.at(before.scope)
                call_patiently(lambda: left.end_job(ids), budget=_END_BUDGET)
            if joined := self._join_or_claim(context, job, pool, deadline):
                return joined
        try:
            submission = self.submit(context, job)
            self._hold(context, submission)
            lease = self._lease(context, submission)
            with self.interruption.held_back():
                job.leases.register(pool.pool_id, self.settings.deployment_id, lease)
        except Exception:
            self._give_up_founding(job, pool)
            raise
        return submission

    def _goes_on(self, context: Context, job: LeasedClusterJob, before: Submission | None) -> bool:
        """Whether the try before left a cluster to go on with, or may have started one."""
        if before is None or not before.external_ids:
            return before is not None
        if before.epoch != current_epoch(context, self.interruption) or before.scope != job.scope:
            return False
        ids = before.external_ids
        status = call_patiently(lambda: job.get_job_status(ids), budget=_END_BUDGET)
        return status is None or job.is_job_active(status)

    def _join_or_claim(
        self, context: Context, job: LeasedClusterJob, pool: ClusterPool, deadline: float
    ) -> Submission | None:
        """Join a cluster; None where there was none, and it is this task's to found the next."""
        while True:
            read = job.leases.pool(pool.pool_id)
            if joined := self._join(context, job, pool, read):
                return joined
            if job.leases.claim_founding(pool.pool_id, read, job.user):
                return None
            now = job.leases.pool(pool.pool_id)
            if now.is_being_founded and now.founder != job.user:
                self._wait_for_founder(job.leases, pool, deadline)

    def _join(
        self, context: Context, job: LeasedClusterJob, pool: ClusterPool, read: Pool
    ) -> Submission | None:
        """Become a user of a cluster that others use; None where there is none that takes one."""
        for shared in pool.joinable(job.leases, read, job.user):
            lease = pool.new_lease(shared.cluster_id, job.user)
            with self.interruption.held_back():
                submission = self._remember_join(context, pool, lease)
                joined = pool.join(job.leases, shared, lease)
            if not joined:
                continue
            self._hold(context, submission)
            if why := pool.unfit(self.emr, job.leases, lease.cluster_id):
                self.log.info("Cluster %s is not shared: %s", lease.cluster_id, why)
                self._end()
                continue
            self.log.info("Joined cluster %s of the pool %s", lease.cluster_id, pool.name)
            return submission
        return None

    def _remember_join(self, context: Context, pool: ClusterPool, lease: Lease) -> Submission:
        """Note what is about to be joined, as ``submit_once`` notes what is about to be started."""
        ti, before = context["ti"], self._remembered(context)
        epoch = current_epoch(context, self.interruption)
        again = before is not None and before.epoch == epoch
        submission = Submission(
            epoch=epoch,
            generation=before.generation + 1 if before is not None and again else 0,
            max_tries=ti.max_tries or 0,
            clear_number=getattr(context["dag_run"], "clear_number", 0) or 0,
            claimed_at=datetime.now(UTC).isoformat(),
            scope=pool.pool_id,
            digest=lease.use,
            external_ids=[lease.cluster_id],
            born=before.born if before is not None else f"{datetime.now(UTC).timestamp():.0f}",
        )
        return submission.remember(HeldStore(context["task_state_store"], self.interruption))

    def _wait_for_founder(self, leases: LeaseTable, pool: ClusterPool, deadline: float) -> NoReturn:
        self.log.info("Another run is founding a cluster of the pool %s", pool.name)
        self.defer(
            trigger=EmrPoolTrigger(
                table=leases.name,
                pool_id=pool.pool_id,
                deadline=deadline,
                interval=_POOL_INTERVAL,
                aws_conn_id=self.aws_conn_id,
                region=self.settings.region,
            ),
            method_name="take_cluster",
            kwargs={"deadline": deadline},
            timeout=backstop(deadline),
        )

    def _give_up_founding(self, job: LeasedClusterJob, pool: ClusterPool) -> None:
        try:
            job.leases.give_up_founding(pool.pool_id, job.user)
        except Exception as error:
            self.log.warning("Others wait for a founder in vain for a while: %s", error)

    def _hold(self, context: Context, submission: Submission) -> None:
        """Know the task's cluster, and what its lease on it is if it is shared."""
        self.started = list(submission.external_ids or [])
        self.lease = self._lease(context, submission) if submission.scope else None

    def _lease(self, context: Context, submission: Submission) -> Lease:
        (cluster_id,) = submission.external_ids or []
        seconds = (self.reuse or ClusterReuse("")).lease.total_seconds()
        return Lease(cluster_id, _user(context), submission.digest, seconds)

    def _remembered(self, context: Context) -> Submission | None:
        return Submission.recall(HeldStore(context["task_state_store"], self.interruption))

    def _hand_over(self, context: Context, cluster_id: str) -> str:
        if self.lease is not None:
            with self.interruption.held_back():
                context["ti"].xcom_push(key="cluster_use", value=self.lease.cluster_use)
        finish(context, self.interruption)
        return cluster_id

    def _wait(self, cluster_id: str) -> NoReturn:
        deadline = in_future(self.startup_budget)
        self.defer(
            trigger=EmrClusterTrigger(
                cluster_id=cluster_id,
                target="ready",
                **self.trigger_arguments(deadline=deadline, end_on_kill=True),
            ),
            method_name="execute_complete",
            kwargs={"cluster_id": cluster_id},
            timeout=backstop(deadline),
        )

    def _end_what_was_made(self, context: Context, error: BaseException) -> None:
        self.recall(context)
        if not self.started:
            return
        if isinstance(error, TaskKilled):
            self.urgently()
            return
        self._try_to_end()

    def _try_to_end(self, *, has_ended: bool = False) -> None:
        """End the cluster; where that fails, what led to it is the task's error."""
        try:
            if has_ended and self.lease and self.leases:
                self.leases.close(self.lease.cluster_id)
            self._end()
        except Exception as error:
            self.log.error("Cluster %s could not be ended: %s", self.started[0], error)

    def _end(self) -> None:
        """End the cluster, or give back the lease on it."""
        (cluster_id,) = self.started
        lease = self.lease or Lease(cluster_id, user="", use="")
        leases = self.leases if self.lease else None
        self.log.info("Ending cluster %s, or giving back the lease on it", cluster_id)
        try:
            call_patiently(lambda: end_or_release(self.emr, leases, lease), budget=_END_BUDGET)
        except Exception as error:
            if not is_unknown_id(error):
                raise


class EmrStepOperator(EmrFailuresMixin, BaseOperator):
    """Run one step on a cluster and return its id; ``cluster_id`` is a second XCom.

    On a cluster that the run shares with others there is a third, ``cluster_use``, as the create
    task had it when the step was submitted.

    Submission and wait are one task, so that its retry submits a step that failed again, and
    clearing it after its cluster has ended runs it on the new one. A retry of a task that died
    reconnects to the step.

    :param cluster_id: the cluster. (templated)
    :param step: one of AddJobFlowSteps' ``Steps``. (templated)
    :param queued_budget: how long the step may be PENDING.
    :param running_budget: how long it may run.
    """

    template_fields: Sequence[str] = ("cluster_id", "step")
    template_fields_renderers: ClassVar[dict[str, str]] = {"step": "json"}
    ui_color = "#f9eab0"
    no_retry = frozenset({FailureClass.CLUSTER_LOST})

    def __init__(
        self,
        *,
        cluster_id: str,
        step: dict[str, Any],
        queued_budget: timedelta = timedelta(hours=6),
        running_budget: timedelta = timedelta(hours=12),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.step = step
        self.queued_budget = queued_budget
        self.running_budget = running_budget

    def execute(self, context: Context) -> str:
        """Submit the step and wait for it.

        :raises InvalidRequestError: with every problem of the step.
        """
        cluster_id = require_id(self.cluster_id, "cluster_id")
        steps = conform_steps([self.step])
        with self.interruption.held_back():
            context["ti"].xcom_push(key="cluster_id", value=cluster_id)
        with self.ending_if_killed(context):
            self.keep_lease(context, cluster_id)
            self._show_use(context)
            step_id = self._submit(context, cluster_id, steps)
            self._wait(cluster_id, step_id)

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Go on after a wait."""
        with self.ending_if_killed(context):
            self.recall(context)
            return super().resume_execution(next_method, next_kwargs, context)

    def end_started(self, emr: Any) -> None:
        """Cancel the step."""
        cancel_steps(emr, self.cluster_id, self.started)

    def execute_complete(
        self, context: Context, event: dict[str, Any], cluster_id: str, step_id: str
    ) -> str:
        """Return the id of a step that completed; explain one that did not."""
        self.show_links(cluster_id, step_id)
        late = event["outcome"] == "timeout"
        if event["state"] == "COMPLETED" or (late and self._completed(cluster_id, step_id)):
            finish(context, self.interruption)
            self.log.info("Step %s of cluster %s has completed", step_id, cluster_id)
            return step_id
        if late:
            self._cancel(cluster_id, step_id)
        self.explain(self.judge_step(cluster_id, step_id, event["outcome"]))

    def _show_use(self, context: Context) -> None:
        if self.lease is not None:
            with self.interruption.held_back():
                context["ti"].xcom_push(key="cluster_use", value=self.lease.cluster_use)

    def _submit(self, context: Context, cluster_id: str, steps: list[dict[str, Any]]) -> str:
        try:
            job = StepsJob(self.emr, self.scope_of_steps(cluster_id), steps)
            submission = self.submit(context, job)
        except Exception as error:
            self._explain_refusal(cluster_id, error)
            raise
        self.note_steps(self.started)
        (step_id,) = self.started
        self.log.info("Step %s of cluster %s, run key %s", step_id, cluster_id, submission.digest)
        self.show_links(cluster_id, step_id)
        return step_id

    def _completed(self, cluster_id: str, step_id: str) -> bool:
        """Ask once more: a step may complete while its waiter gives up."""
        step = self.describe_step(cluster_id, step_id)
        return bool(step) and step["Status"]["State"] == "COMPLETED"

    def _cancel(self, cluster_id: str, step_id: str) -> None:
        """End a step that has used up its time; where that fails, the failure is told anyway."""
        self.log.info("Cancelling step %s, whose time budget is used up", step_id)
        try:
            refused = call_patiently(
                lambda: cancel_steps(self.emr, cluster_id, [step_id], force=True),
                budget=_END_BUDGET,
            )
        except Exception as error:
            self.log.warning("Step %s could not be cancelled: %s", step_id, error)
        else:
            for reason in refused.values():
                self.log.warning("EMR did not cancel step %s: %s", step_id, reason)

    def _explain_refusal(self, cluster_id: str, error: Exception) -> None:
        """Say so where EMR takes no step because the cluster has ended: no retry can help."""
        if error_code(error) not in {"ValidationException", "InvalidRequestException"}:
            return
        cluster = self.describe_cluster(cluster_id)
        if cluster.get("Status", {}).get("State") in CLUSTER_ENDING:
            verdict = step_verdict(cluster_id, "(not submitted)", {}, cluster)
            reason = f"{error_message(error)} {verdict.reason}"
            self.fail(replace(verdict, state="REFUSED", reason=reason))

    def _wait(self, cluster_id: str, step_id: str) -> NoReturn:
        deadline = in_future(self.queued_budget + self.running_budget)
        self.defer(
            trigger=EmrStepTrigger(
                cluster_id=cluster_id,
                step_id=step_id,
                queued_until=in_future(self.queued_budget),
                running_seconds=self.running_budget.total_seconds(),
                **self.trigger_arguments(deadline=deadline, end_on_kill=True),
            ),
            method_name="execute_complete",
            kwargs={"cluster_id": cluster_id, "step_id": step_id},
            timeout=backstop(deadline),
        )


class EmrSubmitStepsOperator(EmrFailuresMixin, BaseOperator):
    """Submit steps to a cluster by one call, and return their ids for sensors to wait for.

    Use it as a setup of the cluster's teardown, as ``docs/emr.md`` says: then clearing a sensor
    submits the steps again, to a cluster that exists.

    :param cluster_id: the cluster. (templated)
    :param steps: AddJobFlowSteps' ``Steps``. (templated)
    """

    template_fields: Sequence[str] = ("cluster_id", "steps")
    template_fields_renderers: ClassVar[dict[str, str]] = {"steps": "json"}
    ui_color = "#f9eab0"

    def __init__(self, *, cluster_id: str, steps: list[dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.steps = steps

    def execute(self, context: Context) -> list[str]:
        """Submit the steps and return their ids, in the order of the steps.

        :raises InvalidRequestError: with every problem of every step.
        """
        cluster_id = require_id(self.cluster_id, "cluster_id")
        steps = conform_steps(self.steps)
        with self.ending_if_killed(context):
            self.keep_lease(context, cluster_id)
            self.submit(context, StepsJob(self.emr, self.scope_of_steps(cluster_id), steps))
            self.note_steps(self.started)
            finish(context, self.interruption)
        self.log.info("Steps %s of cluster %s", ", ".join(self.started), cluster_id)
        self.show_links(cluster_id)
        return self.started

    def end_started(self, emr: Any) -> None:
        """Cancel the steps."""
        cancel_steps(emr, self.cluster_id, self.started)


class EmrTerminateClusterOperator(EmrFailuresMixin, BaseOperator):
    """Terminate a cluster and wait until it is gone; of a shared one give back the run's lease.

    Use it with ``as_teardown(setups=..., on_failure_fail_dagrun=True)``, in a DAG that has another
    leaf. Nothing is asked before the cluster is terminated; protection is lifted where EMR refuses.

    :param cluster_id: the cluster. (templated)
    :param budget: how long the cluster may take to end.
    """

    template_fields: Sequence[str] = ("cluster_id",)
    ui_color = "#f9c6b0"

    def __init__(
        self, *, cluster_id: str, budget: timedelta = timedelta(hours=1), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.budget = budget

    def execute(self, context: Context) -> None:
        """Terminate, then wait; or leave the cluster to those who share it."""
        cluster_id = require_id(self.cluster_id, "cluster_id")
        try:
            is_ending = self._end_or_release(context, cluster_id)
        except Exception as error:
            if not is_unknown_id(error):
                raise
            self.log.warning("EMR does not know cluster %s: %s", cluster_id, error)
            return
        if not is_ending:
            self.log.info("This run is done with cluster %s, which others use", cluster_id)
            return
        self.log.info("Cluster %s is told to terminate", cluster_id)
        self.show_links(cluster_id)
        deadline = in_future(self.budget)
        self.defer(
            trigger=EmrClusterTrigger(
                cluster_id=cluster_id,
                target="ended",
                **self.trigger_arguments(deadline=deadline, end_on_kill=False),
            ),
            method_name="execute_complete",
            kwargs={"cluster_id": cluster_id},
            timeout=backstop(deadline),
        )

    def _end_or_release(self, context: Context, cluster_id: str) -> bool:
        """Give back the run's lease, or terminate a cluster that nobody shares."""
        shared, ti = self.shared_cluster(cluster_id), context["ti"]
        held = shared.lease_of_run(ti.dag_id, ti.run_id) if shared else None
        # Nobody's lease changes nothing.
        lease = held or Lease(cluster_id, user="", use="")
        leases = self.leases if shared else None
        return call_patiently(lambda: end_or_release(self.emr, leases, lease), budget=_END_BUDGET)

    def execute_complete(self, context: Context, event: dict[str, Any], cluster_id: str) -> None:
        """Note the end.

        :raises ExternalJobError: where the cluster has not ended in time.
        """
        self.show_links(cluster_id)
        if event["outcome"] != "timeout":
            self.log.info("Cluster %s is %s", cluster_id, event["state"] or "unknown to EMR")
            return
        verdict = self.judge_cluster(cluster_id, "timeout").verdict
        told = "it was told to terminate and has not: end it in the EMR console."
        self.fail(replace(verdict, reason=f"{told} {verdict.reason}"))


def _user(context: Context) -> str:
    """Return the name under which a task instance takes leases."""
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return lease_user(ti.dag_id, ti.run_id, ti.task_id, map_index)
