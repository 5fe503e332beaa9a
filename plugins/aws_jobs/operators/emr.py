"""Operators for EMR clusters and steps that submit once, wait in the triggerer and say why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import TaskDeferred

from aws_jobs.aws_errors import call_patiently, error_code, error_message
from aws_jobs.aws_task import backstop, in_future, require_id
from aws_jobs.emr_failures import EmrFailuresMixin
from aws_jobs.exceptions import TaskKilled
from aws_jobs.identity import TAG_ENDS_BY
from aws_jobs.job_flow import (
    CLUSTER_ENDING,
    ClusterJob,
    StepsJob,
    cancel_steps,
    is_unknown_id,
    step_verdict,
    terminate_cluster,
)
from aws_jobs.job_flow_spec import conform_job_flow, conform_steps
from aws_jobs.submit_once import finish
from aws_jobs.triggers.emr import EmrClusterTrigger, EmrStepTrigger
from aws_jobs.verdicts import FailureClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

# Ending a cluster or step is repeated this long, in seconds, while EMR throttles.
_END_BUDGET = 900.0


class EmrCreateClusterOperator(EmrFailuresMixin, BaseOperator):
    """Start a cluster, wait until it is ready, and return its id.

    Use it as a setup, with :class:`EmrTerminateClusterOperator` as its teardown. Airflow runs no
    teardown for a setup that failed, so this task ends its cluster on every way out but success;
    its retry starts another. A retry of a task that died reconnects to the cluster it had started.

    :param job_flow: RunJobFlow's arguments, without Tags. (templated)
    :param wait_until_ready: False to return the id at once, for a sensor to wait.
    :param startup_budget: how long the cluster may take until it is ready.
    :param lifetime: when the cluster's ``ends-by`` tag falls due, after which it may be ended
        whatever Airflow says of its run.
    """

    template_fields: Sequence[str] = ("job_flow",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"job_flow": "json"}
    ui_color = "#f9d9b0"

    def __init__(
        self,
        *,
        job_flow: dict[str, Any],
        wait_until_ready: bool = True,
        startup_budget: timedelta = timedelta(hours=1),
        lifetime: timedelta = timedelta(hours=24),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_flow = job_flow
        self.wait_until_ready = wait_until_ready
        self.startup_budget = startup_budget
        self.lifetime = lifetime

    def execute(self, context: Context) -> str:
        """Submit the job flow and wait for the cluster.

        :raises InvalidRequestError: with every problem of the job flow, before it costs money.
        """
        with self.working():
            try:
                cluster_id = self._start(context)
                if self.wait_until_ready:
                    self._wait(cluster_id)
                finish(context, self.interruption)
            except TaskDeferred:
                raise
            except BaseException as error:
                self._end_what_was_made(context, error)
                raise
        return cluster_id

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

    def end_started(self, emr: Any) -> None:
        """Terminate the cluster; a protected one is left to the next layers."""
        emr.terminate_job_flows(JobFlowIds=self.started)

    def execute_complete(self, context: Context, event: dict[str, Any], cluster_id: str) -> str:
        """Return the id of a cluster that is ready; end and explain one that is not."""
        self.show_links(cluster_id)
        if event["outcome"] == "ready":
            finish(context, self.interruption)
            self.log.info("Cluster %s is %s", cluster_id, event["state"])
            return cluster_id
        finding = self.judge_cluster(cluster_id, event["outcome"])
        self._end(cluster_id)
        self.explain(finding)

    def _start(self, context: Context) -> str:
        job_flow, warnings = conform_job_flow(self.job_flow)
        for warning in warnings:
            self.log.warning("%s", warning)
        ends_by = datetime.now(UTC) + self.lifetime
        tags = {
            "owner": self.settings.owner,
            "cost-centre": self.settings.cost_centre,
            # Without it AWS's own policy for the service role lets EMR start nothing.
            # https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-managed-iam-policies.html
            "for-use-with-amazon-emr-managed-policies": "true",
            TAG_ENDS_BY: ends_by.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        submission = self.submit(context, ClusterJob(self.emr, job_flow, tags))
        (cluster_id,) = self.started
        self.log.info("Cluster %s, run key %s", cluster_id, submission.digest)
        self.show_links(cluster_id)
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
        try:
            self._end(self.started[0])
        except Exception as end_error:
            self.log.error("Cluster %s could not be ended: %s", self.started[0], end_error)

    def _end(self, cluster_id: str) -> None:
        self.log.info("Ending cluster %s", cluster_id)
        call_patiently(lambda: terminate_cluster(self.emr, cluster_id), budget=_END_BUDGET)


class EmrStepOperator(EmrFailuresMixin, BaseOperator):
    """Run one step on a cluster and return its id; ``cluster_id`` is a second XCom.

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

    def _submit(self, context: Context, cluster_id: str, steps: list[dict[str, Any]]) -> str:
        try:
            submission = self.submit(context, StepsJob(self.emr, cluster_id, steps))
        except Exception as error:
            self._explain_refusal(cluster_id, error)
            raise
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
            self.submit(context, StepsJob(self.emr, cluster_id, steps))
            finish(context, self.interruption)
        self.log.info("Steps %s of cluster %s", ", ".join(self.started), cluster_id)
        self.show_links(cluster_id)
        return self.started

    def end_started(self, emr: Any) -> None:
        """Cancel the steps."""
        cancel_steps(emr, self.cluster_id, self.started)


class EmrTerminateClusterOperator(EmrFailuresMixin, BaseOperator):
    """Terminate a cluster and wait until it is gone.

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
        """Terminate, then wait."""
        cluster_id = require_id(self.cluster_id, "cluster_id")
        try:
            call_patiently(lambda: terminate_cluster(self.emr, cluster_id), budget=_END_BUDGET)
        except Exception as error:
            if not is_unknown_id(error):
                raise
            self.log.warning("EMR does not know cluster %s: %s", cluster_id, error)
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
