"""Wait for Batch jobs, a hundred with each call, together with everybody else who does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_jobs.batch_job import JOB_ENDED, terminate_job
from aws_jobs.batch_polling import JOBS, shared_ask
from aws_jobs.polling import Watch, sweeps
from aws_jobs.triggers.shared import SharedTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aws_jobs.polling import Sweep, Watchlist

_NOT_STARTED = frozenset({"SUBMITTED", "PENDING", "RUNNABLE", "STARTING"})
# https://docs.aws.amazon.com/batch/latest/userguide/job_stuck_in_runnable.html
_STUCK_REASON = "MISCONFIGURATION:"


class BatchJobTrigger(SharedTrigger):
    """Wait until a job, or an array job as a whole, has ended.

    Outcomes: ``ended``, ``timeout``, ``stuck``, ``unseen``. The event brings what AWS said of the
    job last, as ``job``.

    :param queued_until: Unix time by which a job must have started; an array has no such time.
    :param running_seconds: how long a job may run, counted from AWS's startedAt.
    :param stuck_seconds: how long a job may be RUNNABLE for one and the same MISCONFIGURATION
        reason. Not on first sight: while a compute environment grows from nothing, AWS gives such
        reasons for jobs that start minutes later.
    :param quickest: seconds between two looks at the least.
    """

    service = "batch"

    def __init__(
        self,
        *,
        job_id: str,
        queued_until: float,
        running_seconds: float,
        stuck_seconds: float,
        quickest: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.queued_until = queued_until
        self.running_seconds = running_seconds
        self.stuck_seconds = stuck_seconds
        self.quickest = quickest
        self._stuck: tuple[str, float] | None = None

    @classmethod
    def sweeps(
        cls, waiting: Watchlist, aws_conn_id: str | None, region: str | None, quota_share: float
    ) -> AsyncIterator[Sweep]:
        """Ask for all jobs."""
        return sweeps(waiting, shared_ask(aws_conn_id, region, quota_share))

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on."""
        return (
            "aws_jobs.triggers.batch.BatchJobTrigger",
            {
                "job_id": self.job_id,
                "queued_until": self.queued_until,
                "running_seconds": self.running_seconds,
                "stuck_seconds": self.stuck_seconds,
                "quickest": self.quickest,
                **self.arguments(),
            },
        )

    @property
    def watch(self) -> Watch:
        """The job, among all jobs."""
        first = self.quickest
        return Watch(JOBS, self.job_id, self.interval, quickest=self.quickest, first=first)

    def verdict(self, status: dict[str, Any], now: float) -> str | None:
        """Wait for the end, within the budgets for queueing, for running and for being stuck."""
        state = status["status"]
        if state in JOB_ENDED:
            return "ended"
        if self._is_stuck(status.get("firstChild") or status, now):
            return "stuck"
        if "arrayProperties" in status:
            return None
        # A job that Batch queues again, after it lost its host, had started in time.
        waits = state in _NOT_STARTED and not status.get("attempts")
        if waits and now >= self.queued_until:
            return "timeout"
        started = status.get("startedAt")
        if state == "RUNNING" and started and now >= started / 1000 + self.running_seconds:
            return "timeout"
        return None

    def _is_stuck(self, job: Mapping[str, Any], now: float) -> bool:
        reason = job.get("statusReason", "")
        if job["status"] != "RUNNABLE" or not reason.startswith(_STUCK_REASON):
            self._stuck = None
        elif self._stuck is None or self._stuck[0] != reason:
            self._stuck = (reason, now)
        return self._stuck is not None and now >= self._stuck[1] + self.stuck_seconds

    def payload(self, outcome: str, known: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the event, with what AWS said of the job."""
        return {**super().payload(outcome, known), "job": dict(known) if known else None}

    def end(self, client: Any) -> None:
        """Terminate the job."""
        terminate_job(client, self.job_id, "Its task was ended in Airflow")
