"""Operators for AWS Batch that submit once, wait in the triggerer and say why."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from aws_jobs.aws_errors import call_patiently, error_code, error_message, is_throttled
from aws_jobs.aws_task import AwsTaskMixin, backstop
from aws_jobs.batch_attempts import Attempt, attempts_of, done_by_its_array, lost
from aws_jobs.batch_job import (
    GAVE_UP,
    JOB_ACTIVE,
    JOB_ENDED,
    BatchJob,
    Manifest,
    describe_children,
    terminate_job,
)
from aws_jobs.batch_logs import LOG_GROUP, peak_memory_mib, read_log_end
from aws_jobs.batch_polling import details_of
from aws_jobs.batch_progress import Escalation, Progress
from aws_jobs.batch_request import conform_job, with_resources
from aws_jobs.exceptions import ExternalJobError, InputError, InvalidRequestError
from aws_jobs.identity import TAG_ENDS_BY
from aws_jobs.links.batch import BATCH_LINKS, batch_links
from aws_jobs.s3_uri import split_uri
from aws_jobs.submit_once import HeldStore, Submission, current_epoch, finish
from aws_jobs.triggers.batch import BatchJobTrigger
from aws_jobs.verdicts import FailureClass

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from airflow.sdk import BaseOperatorLink, Context

# Ending a job, and asking what became of it, is repeated this long while Batch throttles: seconds.
_BUDGET = 300.0
# What only explains a failure is not waited for longer than this, in seconds.
_EXPLAIN_BUDGET = 60.0
# Of an array with many failures, so many are told with their logs.
_TOLD = 10
# How far AWS's clock and a worker's may be apart.
_CLOCK_MARGIN = timedelta(minutes=5)


class BatchJobOperator(AwsTaskMixin, BaseOperator):
    """Run one Batch job and return its id.

    A retry of a task that died reconnects to the job; a clear ends it and runs another. What became
    of each attempt is in the XCom ``attempts``, whatever the task's end.

    A job that lost its host is submitted again, after some losses to the next queue; one that ran
    out of memory with more of it; one that Batch forgot after a look at its output. Where the image
    or the input is at fault, or the time is used up, no retry is made. The task's ``retries`` are
    for what is left.

    :param job: SubmitJob's arguments. (templated)
    :param fallback_queues: job queues, each for when the one before has lost too many hosts.
        (templated)
    :param done_uri: URI of the S3 object by whose presence the work is known to be done, where
        Batch has forgotten the job. (templated)
    :param memory_factor: a job that ran out of memory is given this many times as much.
    :param memory_cap_mib: but no more than this, in MiB: what the largest instance of the compute
        environment can hold; 0 to give it no more. (templated)
    :param losses_before_fallback: after how many losses of its host a job goes to the next queue.
    :param queued_budget: how long the job may wait until it runs.
    :param running_budget: how long it may run.
    :param stuck_budget: how long it may be RUNNABLE for one and the same MISCONFIGURATION reason.
    """

    template_fields: Sequence[str] = ("job", "fallback_queues", "done_uri", "memory_cap_mib")
    template_fields_renderers: ClassVar[dict[str, str]] = {"job": "json"}
    operator_extra_links: Collection[BaseOperatorLink] = BATCH_LINKS
    ui_color = "#b0d4f9"
    service = "batch"

    def __init__(
        self,
        *,
        job: dict[str, Any],
        fallback_queues: Sequence[str] = (),
        done_uri: str | None = None,
        memory_factor: float = 1.5,
        memory_cap_mib: int | str = 0,
        losses_before_fallback: int = 2,
        queued_budget: timedelta = timedelta(hours=12),
        running_budget: timedelta = timedelta(hours=24),
        stuck_budget: timedelta = timedelta(minutes=15),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.fallback_queues = fallback_queues
        self.done_uri = done_uri
        self.memory_factor = memory_factor
        self.memory_cap_mib = memory_cap_mib
        self.losses_before_fallback = losses_before_fallback
        self.queued_budget = queued_budget
        self.running_budget = running_budget
        self.stuck_budget = stuck_budget

    @cached_property
    def batch(self) -> Any:
        """Batch, each call made once."""
        return self.client("batch")

    @cached_property
    def s3(self) -> Any:
        """S3, where items and outputs are."""
        return self.client("s3")

    @cached_property
    def logs(self) -> Any:
        """CloudWatch's logs."""
        return self.client("logs")

    @cached_property
    def request(self) -> dict[str, Any]:
        """SubmitJob's arguments, checked."""
        return conform_job(self.job)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the items: one without a name, where a job is its own item."""
        return ("",)

    @property
    def queues(self) -> list[str]:
        """The job queues, the first choice first."""
        return [self.request["jobQueue"], *self.fallback_queues]

    @property
    def escalation(self) -> Escalation:
        """How a job is submitted again that failed for want of something.

        :raises InvalidRequestError: where the cap is no number.
        """
        try:
            cap = int(self.memory_cap_mib)
        except ValueError:
            raise InvalidRequestError(
                "The job's memory is not valid", [f"memory_cap_mib is {self.memory_cap_mib!r}"]
            ) from None
        return Escalation(
            memory_factor=self.memory_factor,
            memory_cap_mib=cap or None,
            losses_before_fallback=self.losses_before_fallback,
            queues=len(self.queues),
        )

    def execute(self, context: Context) -> Any:
        """Submit the job and wait for it.

        :raises InvalidRequestError: with every problem of the request, before it costs money.
        """
        _ = self.request, self.escalation
        with self.ending_if_killed(context):
            return self._go_on(context, self._take_up(context))

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Go on after a wait."""
        with self.ending_if_killed(context):
            self.recall(context)
            self.prepare_for_a_kill()
            return super().resume_execution(next_method, next_kwargs, context)

    def end_started(self, client: Any) -> None:
        """Terminate the job; an array's children end with it."""
        terminate_job(client, self.started[0], "Its task was ended in Airflow")

    def execute_complete(self, context: Context, event: dict[str, Any], job_id: str) -> Any:
        """Judge a job that has ended, and submit again what another attempt may help."""
        outcome, job = event["outcome"], event["job"]
        self.show_links(job_id, (job or {}).get("container", {}).get("logStreamName"))
        if outcome != "ended":
            job = self._describe(job_id)
        if outcome == "unseen" and job and job["State"] in JOB_ACTIVE:
            self._wait(context, job_id)
        if outcome != "ended" and (job is None or job["status"] not in JOB_ENDED):
            job = self._give_up(job_id, outcome, event["job"])
        progress = self._judge(context, self._recall_progress(context), job_id, job)
        return self._go_on(context, progress)

    def external_job(self, progress: Progress, tags: Mapping[str, str]) -> BatchJob:
        """Return what is submitted next."""
        request = with_resources(
            self.request, queue=self.queues[progress.queue], memory_mib=progress.memory_mib
        )
        return BatchJob(self.batch, request, tags, progress.queues, progress.judged)

    def done_uri_of(self, name: str) -> str | None:
        """Return the URI of the object by which an item is known to be done."""
        return self.done_uri

    def result(self, progress: Progress) -> Any:
        """Return the id of the job that succeeded."""
        return progress.done[""]

    # What is left to do

    def _take_up(self, context: Context) -> Progress:
        """Begin, or take up what an earlier try of this epoch left."""
        store = HeldStore(context["task_state_store"], self.interruption)
        epoch = current_epoch(context, self.interruption)
        progress, submission = Progress.recall(store), Submission.recall(store)
        clear_number = getattr(context["dag_run"], "clear_number", 0) or 0
        if progress is None or submission is None or {progress.epoch, submission.epoch} != {epoch}:
            begin = Progress(
                epoch, self.names, queues=tuple(self.queues), clear_number=clear_number
            )
            return begin.remember(store)
        self._check_items(progress)
        queues = tuple(dict.fromkeys([*progress.queues, *self.queues]))
        progress = replace(progress, queues=queues).remember(store)
        if progress.attempts:
            self._push(context, progress)
        if submission.external_ids is None:
            # A try died while it submitted just this: it must be looked for as it was.
            return progress
        (job_id,) = submission.external_ids
        if job_id not in progress.judged:
            job = self._describe(job_id, grace=self.settings.lookup_grace_seconds)
            if job is not None and job["State"] in JOB_ACTIVE:
                return progress
            progress = self._judge(context, progress, job_id, job)
        return progress.next_try(clear_number).remember(store)

    def _check_items(self, progress: Progress) -> None:
        if progress.names != {*self.names}:
            raise InputError(
                "The items are not those that this task began with",
                ["clear the task: it then begins with the items as they are now"],
            )

    def _go_on(self, context: Context, progress: Progress) -> Any:
        if progress.pending:
            self._submit_and_wait(context, progress)
        if progress.failed or progress.given_up:
            self._fail(progress)
        finish(context, self.interruption)
        return self.result(progress)

    def _submit_and_wait(self, context: Context, progress: Progress) -> NoReturn:
        span = self.queued_budget + self.running_budget
        tags = {
            "owner": self.settings.owner,
            "cost-centre": self.settings.cost_centre,
            TAG_ENDS_BY: (datetime.now(UTC) + span).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        try:
            submission = self.submit(context, self.external_job(progress, tags))
        except Exception as error:
            if error_code(error) != "ClientException" or is_throttled(error):
                raise
            raise InvalidRequestError("Batch refused the job", [error_message(error)]) from error
        (job_id,) = self.started
        what = f"{len(progress.pending)} items" if len(progress.pending) > 1 else "one job"
        self.log.info("Job %s (%s), run key %s", job_id, what, submission.digest)
        self.show_links(job_id)
        self._wait(context, job_id)

    def _wait(self, context: Context, job_id: str) -> NoReturn:
        """Wait within the budgets, which began with the submission and not with this try."""
        began = self._claimed_at(context)
        deadline = (began + self.queued_budget + self.running_budget).timestamp()
        self.defer(
            trigger=BatchJobTrigger(
                job_id=job_id,
                queued_until=(began + self.queued_budget).timestamp(),
                running_seconds=self.running_budget.total_seconds(),
                stuck_seconds=self.stuck_budget.total_seconds(),
                quickest=self.settings.batch_poll_seconds,
                **self.trigger_arguments(deadline=deadline, end_on_kill=True),
            ),
            method_name="execute_complete",
            kwargs={"job_id": job_id},
            timeout=backstop(deadline),
        )

    def _recall_progress(self, context: Context) -> Progress:
        store = HeldStore(context["task_state_store"], self.interruption)
        progress = Progress.recall(store)
        return progress or Progress(current_epoch(context, self.interruption), self.names)

    def _push(self, context: Context, progress: Progress) -> None:
        """Hand down what became of each attempt; an XCom is wiped at each retry."""
        with self.interruption.held_back():
            context["ti"].xcom_push(key="attempts", value=self.records(progress))

    def records(self, progress: Progress) -> list[dict[str, Any]]:
        """Return the record of each attempt."""
        return [
            {key: value for key, value in record.items() if key != "item"}
            for record in progress.attempts
        ]

    # What became of a job

    def _give_up(
        self, job_id: str, outcome: str, seen: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        """End a job that waited or ran for too long, or is not seen any more; return its end."""
        if outcome == "unseen":
            try:
                terminate_job(self.batch, job_id, f"{GAVE_UP}{FailureClass.LOST}: it was not seen")
            except Exception as error:
                self.log.info("Job %s could not be ended either: %s", job_id, error)
            return None
        why = "the time budget of the task was used up"
        if outcome == "stuck":
            stuck = (seen or {}).get("firstChild") or seen or {}
            why = stuck.get("statusReason", "it is stuck")
        reason = f"{GAVE_UP}{outcome}: {why}"
        self.log.info("Terminating job %s: %s", job_id, why)
        call_patiently(lambda: terminate_job(self.batch, job_id, reason), budget=_BUDGET)
        job = self._describe(job_id) or seen
        return _as_given_up(job, reason) if job else None

    def _judge(
        self, context: Context, progress: Progress, job_id: str, job: dict[str, Any] | None
    ) -> Progress:
        ends = self._ends(context, progress, job_id, job)
        store = HeldStore(context["task_state_store"], self.interruption)
        progress = progress.after(job_id, self._tell(ends), self.escalation).remember(store)
        self._push(context, progress)
        return progress

    def _ends(
        self, context: Context, progress: Progress, job_id: str, job: dict[str, Any] | None
    ) -> dict[str, list[Attempt]]:
        """Return the attempts of each pending item."""
        queue = self.queues[min(progress.queue, len(self.queues) - 1)]
        since = self._claimed_at(context)
        if len(progress.pending) == 1:
            (name,) = progress.pending
            if job is None:
                return {name: [self._lost_or_done(name, job_id, queue, since)]}
            return {name: attempts_of(job)}
        children = self._describe_children(job_id, len(progress.pending))
        ends = {}
        for index, name in enumerate(progress.pending):
            child_id = f"{job_id}:{index}"
            if child := children.get(child_id):
                ends[name] = attempts_of(_as_given_up(child, (job or {}).get("statusReason", "")))
            elif job and job["status"] == "SUCCEEDED":
                ends[name] = [done_by_its_array(child_id, queue)]
            else:
                ends[name] = [self._lost_or_done(name, child_id, queue, since)]
        return ends

    def _describe_children(self, job_id: str, size: int) -> dict[str, dict[str, Any]]:
        """Return the details of an array's children; one that does not show is asked for again."""
        give_up = time.monotonic() + self.settings.lookup_grace_seconds
        while True:
            children = describe_children(self.batch, job_id, size, _BUDGET)
            if len(children) == size or time.monotonic() >= give_up:
                return {child["jobId"]: details_of(child) for child in children}
            time.sleep(1.0)

    def _lost_or_done(self, name: str, job_id: str, queue: str, since: datetime) -> Attempt:
        """Look at the output of an item whose job Batch does not know any more."""
        attempt = lost(job_id, queue)
        uri = self.done_uri_of(name)
        if not uri:
            return attempt
        bucket, key = split_uri(uri)
        try:
            head = call_patiently(
                lambda: self.s3.head_object(Bucket=bucket, Key=key), budget=_BUDGET
            )
        except Exception as error:
            self.log.info("%s is not there (%s): %s runs again", uri, error, name or job_id)
            return attempt
        if head["LastModified"] < since - _CLOCK_MARGIN:
            self.log.info("%s is older than the job: %s runs again", uri, name or job_id)
            return attempt
        return replace(attempt, outcome="succeeded", failure=None, reason=f"{uri} is there")

    def _claimed_at(self, context: Context) -> datetime:
        store = HeldStore(context["task_state_store"], self.interruption)
        submission = Submission.recall(store)
        return datetime.fromisoformat(submission.claimed_at) if submission else datetime.now(UTC)

    def _tell(self, ends: Mapping[str, list[Attempt]]) -> dict[str, list[Attempt]]:
        """Write into the task's log why each item failed, with the end of its job's log."""
        told: dict[str, list[Attempt]] = {}
        failures = 0
        for name, attempts in ends.items():
            last = attempts[-1]
            if last.outcome == "failed":
                failures += 1
                if failures <= _TOLD:
                    last = self._tell_one(name, last)
            told[name] = [*attempts[:-1], last]
        self._tell_images(told)
        if failures > _TOLD:
            self.log.error("%d more failed; see the XCom `attempts`", failures - _TOLD)
        return told

    def _tell_images(self, told: dict[str, list[Attempt]]) -> None:
        """Take for the image's fault, beyond what was read, what ended as such a fault did."""
        images = {
            attempts[-1].exit_code
            for attempts in told.values()
            if attempts[-1].failure == FailureClass.IMAGE
        }
        for attempts in told.values():
            last = attempts[-1]
            if last.failure == FailureClass.APPLICATION and last.exit_code in images:
                attempts[-1] = replace(last, failure=FailureClass.IMAGE)

    def _tell_one(self, name: str, attempt: Attempt) -> Attempt:
        verdict = attempt.verdict(name or "the job")
        if attempt.log_stream is None:
            self.log.error("%s", replace(verdict, log_uri="none: it never ran").report)
            return attempt
        try:
            excerpt = read_log_end(self.logs, attempt.log_stream, budget=_EXPLAIN_BUDGET)
        except Exception as error:
            where = f"CloudWatch {LOG_GROUP}, stream {attempt.log_stream} ({error})"
            self.log.error("%s", replace(verdict, log_uri=where).report)
            return attempt
        attempt = replace(attempt, peak_memory_mib=peak_memory_mib(excerpt.tail))
        if any("exec format error" in line.lower() for line in excerpt.tail):
            attempt = replace(attempt, failure=FailureClass.IMAGE)
        if excerpt.cause:
            reason = f"{attempt.reason}: {excerpt.cause[-1].strip()}".removeprefix(": ")
            attempt = replace(attempt, reason=reason)
        verdict = replace(
            attempt.verdict(name or "the job"),
            reason=verdict.reason,
            log_uri=excerpt.uri,
            cause=excerpt.cause,
            tail=excerpt.tail,
        )
        self.log.error("%s", verdict.report)
        self.show_links(attempt.job_id, attempt.log_stream)
        return attempt

    def _fail(self, progress: Progress) -> NoReturn:
        """Fail the task, naming each item.

        :raises ExternalJobError: or AirflowFailException where no retry can help.
        """
        last = {record["item"]: record for record in progress.attempts}
        names = [*progress.failed, *progress.given_up]
        fields = Attempt.__dataclass_fields__
        verdicts = {
            name: Attempt(**{key: last[name][key] for key in fields}).verdict(name or "the job")
            for name in names
        }
        verdict = verdicts[names[0]]
        if len(names) > 1 or len(self.names) > 1:
            each = "; ".join(
                f"{name}: {verdicts[name].failure}, {verdicts[name].reason}"
                for name in names[:_TOLD]
            )
            more = f"; and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
            verdict = replace(
                verdict,
                job=f"{len(names)} of {len(self.names)} items",
                state="FAILED",
                reason=f"{each}{more}",
            )
        error = ExternalJobError(verdict)
        if not progress.failed:
            raise AirflowFailException(verdict.summary) from error
        raise error

    def _describe(self, job_id: str, *, grace: float = 0.0) -> dict[str, Any] | None:
        """Return the job's details, or None where Batch does not know it after the grace."""
        give_up = time.monotonic() + grace
        while True:
            found = call_patiently(
                lambda: self.batch.describe_jobs(jobs=[job_id])["jobs"], budget=_BUDGET
            )
            if found:
                return details_of(found[0])
            if time.monotonic() >= give_up:
                return None
            time.sleep(1.0)

    def show_links(self, job_id: str, log_stream: str | None = None) -> None:
        """Offer links in the UI; without them the task goes on."""
        try:
            self.links = batch_links(
                region=self.settings.region,
                job_id=job_id,
                log_group=LOG_GROUP,
                log_stream=log_stream,
            )
        except Exception as error:
            self.log.warning("No links for %s: %s", job_id, error)


def _as_given_up(job: dict[str, Any], reason: str) -> dict[str, Any]:
    """Return a job's details with the reason for which its task has ended it, until Batch says it.

    :param reason: of the job itself, or of the array of a child.
    """
    if job["status"] in JOB_ENDED or not reason.startswith(GAVE_UP):
        return job
    return {**job, "statusReason": reason}


class BatchArrayOperator(BatchJobOperator):
    """Run one array job for a list of items and return the ids of their jobs, in their order.

    The items are written to S3 as a manifest, one JSON object a line: the child of index N works on
    line N. A single item is a plain job, which takes line 0. Each line has an ``attempt`` beside
    the item's own fields, which is later, as text, for a later submission.

    Only the items that failed are submitted again, as a smaller array, in this try or the next.

    :param items: the items. (templated)
    :param name_key: the field by which an item is known; its values differ.
    :param done_key: the field with the URI of the object by whose presence an item is known to be
        done, where Batch has forgotten its job.
    :param manifest_prefix: URI below which the manifests are written. (templated)
    :param manifest_parameter: the job definition's parameter that takes the manifest's URI.
    :param inline_item: hand over a single item of up to 4 KB in that parameter itself, as a JSON
        object: no call to S3 is made then, neither here nor in the job, which must take both.
    """

    template_fields: Sequence[str] = (
        "job",
        "fallback_queues",
        "memory_cap_mib",
        "items",
        "manifest_prefix",
    )

    def __init__(
        self,
        *,
        items: list[dict[str, Any]],
        manifest_prefix: str,
        name_key: str,
        done_key: str | None = None,
        manifest_parameter: str = "manifest",
        inline_item: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.items = items
        self.manifest_prefix = manifest_prefix
        self.name_key = name_key
        self.done_key = done_key
        self.manifest_parameter = manifest_parameter
        self.inline_item = inline_item

    @cached_property
    def request(self) -> dict[str, Any]:
        """SubmitJob's arguments, checked together with the items."""
        return conform_job(self.job, names=self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the items."""
        return tuple(str(item[self.name_key]) for item in self.items)

    def external_job(self, progress: Progress, tags: Mapping[str, str]) -> BatchJob:
        """Return what is submitted next, with the items that are left."""
        by_name = dict(zip(self.names, self.items, strict=True))
        manifest = Manifest(
            s3=lambda: self.s3,
            items=[by_name[name] for name in progress.pending],
            parameter=self.manifest_parameter,
            prefix=self.manifest_prefix,
            inline_item=self.inline_item,
        )
        return replace(super().external_job(progress, tags), manifest=manifest)

    def done_uri_of(self, name: str) -> str | None:
        """Return the URI that the item names."""
        by_name = dict(zip(self.names, self.items, strict=True))
        return by_name[name].get(self.done_key) if self.done_key else None

    def result(self, progress: Progress) -> list[str]:
        """Return the ids of the jobs that succeeded, in the order of the items."""
        return [progress.done[name] for name in self.names]

    def records(self, progress: Progress) -> list[dict[str, Any]]:
        """Return the record of each attempt, with the item's name under its own key."""
        return [
            {self.name_key: record["item"], **rest}
            for record, rest in zip(progress.attempts, super().records(progress), strict=True)
        ]
