"""How the shared poller asks Batch: a hundred jobs a call, within its quota."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import is_passing, is_throttled
from aws_jobs.batch_job import JOB_IDS_PER_CALL, state_of
from aws_jobs.polling import CallRate, Sweep, paced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Mapping, Sequence

JOBS = "jobs"

# AWS publishes no quota for DescribeJobs. Its support speaks of 50 calls a second for all of Batch
# in an account and region, SubmitJob included: https://repost.aws/knowledge-center/aws-batch-requests-error
# Calls at once, calls a second.
QUOTA = (20, 10.0)

# What a task needs to know of a job that has ended: an event is kept in Airflow's database.
_DETAILS = (
    "jobId",
    "status",
    "statusReason",
    "createdAt",
    "startedAt",
    "stoppedAt",
    "isTerminated",
    "isCancelled",
    "jobQueue",
    "arrayProperties",
)
_CONTAINER_DETAILS = ("exitCode", "reason", "logStreamName", "resourceRequirements")
_ATTEMPT_DETAILS = ("container", "startedAt", "stoppedAt", "statusReason")


class BatchAsk:
    """Asks Batch for jobs.

    :param quota_share: share of the account's quota that it may use.
    """

    def __init__(self, aws_conn_id: str | None, region: str | None, quota_share: float) -> None:
        self._connection = (aws_conn_id, region)
        self._client: Any = None
        burst, refill = QUOTA
        self._rate = CallRate(burst * quota_share, refill * quota_share)
        self._first_children: dict[str, dict[str, Any]] = {}

    async def __call__(self, group: Hashable, items: Sequence[str]) -> AsyncIterator[Sweep]:
        """Ask for all jobs; a throttled call is left out, at half the rate from then on."""
        if self._client is None:
            self._client = await asyncio.to_thread(aws_client, "batch", *self._connection)
        self._first_children = {
            job_id: child for job_id, child in self._first_children.items() if job_id in {*items}
        }
        job_ids = [*items, *(f"{job_id}:0" for job_id in self._first_children)]
        for start in range(0, len(job_ids), JOB_IDS_PER_CALL):
            try:
                yield await self._describe(job_ids[start : start + JOB_IDS_PER_CALL])
            except Exception as error:
                if is_throttled(error):
                    continue
                if not is_passing(error):
                    # The connection's credentials may have been changed.
                    self._client = None
                raise

    async def _describe(self, job_ids: Sequence[str]) -> Sweep:
        answer = await paced(self._rate, self._client.describe_jobs, jobs=list(job_ids))
        found = {job["jobId"]: details_of(job) for job in answer["jobs"]}
        for job_id, job in found.items():
            self._note_array(job_id, job)
        return Sweep({(JOBS, job_id): found.get(job_id) for job_id in job_ids})

    def _note_array(self, job_id: str, job: dict[str, Any]) -> None:
        """Ask for the first child too, while none starts: only there AWS says why."""
        array, _, index = job_id.partition(":")
        if index:
            self._first_children[array] = {
                "status": job["status"],
                "statusReason": job.get("statusReason", ""),
            }
        elif _none_has_started(job.get("arrayProperties", {})):
            job["firstChild"] = self._first_children.setdefault(job_id, {})
        else:
            self._first_children.pop(job_id, None)


def _none_has_started(array: Mapping[str, Any]) -> bool:
    summary: Mapping[str, int] = array.get("statusSummary", {})
    waiting = sum(summary.get(state, 0) for state in ("SUBMITTED", "PENDING", "RUNNABLE"))
    return "size" in array and waiting == array["size"]


def details_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what matters of DescribeJobs' answer for a job, and its state as ``State``."""
    container = job.get("container", {})
    return {
        "State": state_of(job),
        **{key: job[key] for key in _DETAILS if key in job},
        "container": {key: container[key] for key in _CONTAINER_DETAILS if key in container},
        "attempts": [
            {key: attempt[key] for key in _ATTEMPT_DETAILS if key in attempt}
            for attempt in job.get("attempts", [])
        ],
    }


_asks: dict[Hashable, BatchAsk] = {}


def shared_ask(aws_conn_id: str | None, region: str | None, quota_share: float) -> BatchAsk:
    """Return the one that this process has for a connection and region.

    It outlives the streams that use it: what was called a moment ago counts against the quota.
    """
    key = (aws_conn_id, region, quota_share)
    return _asks.setdefault(key, BatchAsk(aws_conn_id, region, quota_share))
