"""AWS Batch jobs and array jobs as external jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently, error_code
from aws_jobs.s3_uri import split_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from aws_jobs.identity import RunKey

# https://docs.aws.amazon.com/batch/latest/userguide/job_states.html
JOB_ACTIVE = frozenset({"SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING"})
JOB_ENDED = frozenset({"SUCCEEDED", "FAILED"})
# A job that somebody has ended and that has not stopped yet; not a state of AWS's.
ENDING = "ENDING"
# What a task says when it ends its own job; the failure's class and the reason follow.
GAVE_UP = "Its task gave up: "

# https://docs.aws.amazon.com/batch/latest/APIReference/API_DescribeJobs.html
JOB_IDS_PER_CALL = 100
# https://docs.aws.amazon.com/batch/latest/userguide/array_jobs.html
LARGEST_ARRAY = 10_000
# https://docs.aws.amazon.com/batch/latest/APIReference/API_SubmitJob.html
_LONGEST_NAME = 128

# A manifest is written before the submission, and may be written again: seconds.
_MANIFEST_BUDGET = 300.0
# Of the 8,192 characters that ECS takes as overrides of a container's command and environment.
# https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_TaskOverride.html
_LONGEST_INLINE_ITEM = 4096
# In a command Batch would put something else in their place.
_NOT_IN_COMMANDS = ("Ref::", "$")


def job_name(name: str, run_key: RunKey) -> str:
    """Return the name of a submission: a listing is searched by it.

    >>> from aws_jobs.identity import RunKey
    >>> job_name("map", RunKey("prod", "mapping", "r1", "map", 3))
    'map-73754f560ffd4104'
    """
    suffix = f"-{run_key.digest}"
    return f"{name[: _LONGEST_NAME - len(suffix)]}{suffix}"


def state_of(job: Mapping[str, Any]) -> str:
    """Return the state of DescribeJobs' answer; ``ENDING`` for a job that somebody has ended."""
    state = str(job["status"])
    if state in JOB_ACTIVE and (job.get("isTerminated") or job.get("isCancelled")):
        return ENDING
    return state


def terminate_job(batch: Any, job_id: str, reason: str) -> None:
    """End a job in whatever state it is; an array's children end with their parent."""
    batch.terminate_job(jobId=job_id, reason=reason)


@dataclass(frozen=True)
class Manifest:
    """The items of an array job: line N of an object in S3 is the item of index N.

    :param s3: gives a client, where there is something to write.
    :param parameter: the job definition's parameter that takes the object's URI.
    :param prefix: URI below which it is written, with a name of the submission's own.
    :param inline_item: hand over a single small item in the parameter itself.
    """

    s3: Callable[[], Any]
    items: Sequence[Mapping[str, Any]]
    parameter: str
    prefix: str
    inline_item: bool = False

    def hand_over(self, run_key: RunKey) -> str:
        """Return the parameter's value: the URI of the items, or the one item as a JSON object.

        Each has the ``attempt`` that this submission is. Attempts compare as text: that of a clear
        is later than that of a retry before it.
        """
        attempt = {"attempt": run_key.attempt}
        lines = [json.dumps({**item, **attempt}, sort_keys=True) for item in self.items]
        if self.inline_item and len(lines) == 1 and _fits_a_command(lines[0]):
            return lines[0]
        return self._write(f"{self.prefix.rstrip('/')}/{run_key.digest}.jsonl", lines)

    def _write(self, uri: str, lines: Sequence[str]) -> str:
        bucket, key = split_uri(uri)
        body, s3 = "\n".join(lines).encode(), self.s3()
        call_patiently(
            lambda: s3.put_object(Bucket=bucket, Key=key, Body=body), budget=_MANIFEST_BUDGET
        )
        return uri


def _fits_a_command(item: str) -> bool:
    """Whether a parameter's value reaches the command of a job as it is."""
    return len(item) <= _LONGEST_INLINE_ITEM and not any(each in item for each in _NOT_IN_COMMANDS)


@dataclass(frozen=True)
class BatchJob:
    """One Batch job, or one array job, as an external job.

    :param batch: a client that makes each call once.
    :param request: the arguments of SubmitJob, validated.
    :param tags: tags beside those of the run key.
    :param queues: every queue in which an earlier submission may be.
    :param judged: jobs whose ends were taken note of: none of them is reconnected to.
    :param manifest: the items, where the job works on items.
    """

    batch: Any
    request: Mapping[str, Any]
    tags: Mapping[str, str]
    queues: Sequence[str]
    judged: Collection[str] = ()
    manifest: Manifest | None = None
    scope: str = ""

    def submit_job(self, run_key: RunKey) -> list[str]:
        """Call SubmitJob."""
        request = {
            **self.request,
            "jobName": job_name(self.request["jobName"], run_key),
            "tags": {**self.request.get("tags", {}), **self.tags, **run_key.tags},
        }
        if self.manifest is not None:
            where = {self.manifest.parameter: self.manifest.hand_over(run_key)}
            request["parameters"] = {**request.get("parameters", {}), **where}
            if len(self.manifest.items) > 1:
                request["arrayProperties"] = {"size": len(self.manifest.items)}
        return [self.batch.submit_job(**request)["jobId"]]

    def find_job(self, run_key: RunKey, since: datetime) -> list[str] | None:
        """Look for the run key in the names of jobs; one that goes on before one that ended."""
        name = job_name(self.request["jobName"], run_key)
        ended: list[str] | None = None
        for queue in self.queues:
            for job in self._named(name, queue):
                if job["createdAt"] < since.timestamp() * 1000:
                    continue
                if job.get("status") in JOB_ACTIVE:
                    return [job["jobId"]]
                ended = [job["jobId"]]
        return ended

    def _named(self, name: str, queue: str) -> Iterator[dict[str, Any]]:
        pages = self.batch.get_paginator("list_jobs").paginate(
            jobQueue=queue, filters=[{"name": "JOB_NAME", "values": [name]}]
        )
        try:
            for page in pages:
                yield from page["jobSummaryList"]
        except Exception as error:
            # In a queue that is not there, no job is.
            if error_code(error) != "ClientException" or "does not exist" not in str(error):
                raise

    def get_job_status(self, external_ids: Sequence[str]) -> str | None:
        """Return the job's state; that of a job which was judged before is over."""
        if external_ids[0] in self.judged:
            return ENDING
        found = self.batch.describe_jobs(jobs=list(external_ids))["jobs"]
        return state_of(found[0]) if found else None

    def is_job_active(self, status: str) -> bool:
        """Return False for a job that somebody has ended."""
        return status in JOB_ACTIVE

    def is_job_succeeded(self, status: str) -> bool:
        """Whether the job, and each child of an array, has succeeded."""
        return status == "SUCCEEDED"

    def end_job(self, external_ids: Sequence[str]) -> None:
        """Terminate the job; Batch refuses where it does not know it any more."""
        try:
            terminate_job(self.batch, external_ids[0], "Its task was cleared in Airflow")
        except Exception as error:
            if error_code(error) != "ClientException":
                raise

    def at(self, scope: str) -> BatchJob:
        """Jobs are known by their id wherever they are."""
        return self


def describe_children(batch: Any, job_id: str, size: int, budget: float) -> list[dict[str, Any]]:
    """Return DescribeJobs' answer for each child of an array that AWS knows.

    :param budget: seconds for each hundred.
    """
    children = [f"{job_id}:{index}" for index in range(size)]
    found: list[dict[str, Any]] = []
    for start in range(0, size, JOB_IDS_PER_CALL):
        some = children[start : start + JOB_IDS_PER_CALL]
        answer = call_patiently(partial(batch.describe_jobs, jobs=some), budget=budget)
        found += answer["jobs"]
    return found
