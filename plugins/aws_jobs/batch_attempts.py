"""What the attempts of a Batch job were, and why those failed that did."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from aws_jobs.batch_job import GAVE_UP, JOB_ENDED
from aws_jobs.verdicts import FailureClass, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# sysexits.h: EX_DATAERR and EX_NOINPUT. A job says by them that another attempt cannot help.
INPUT_EXIT_CODES = frozenset({65, 66})

_CAPACITY_TEXT = re.compile(
    r"Host EC2 .*terminated|Spot Task was interrupted|insufficient.?instance.?capacity", re.I
)
_MEMORY_TEXT = re.compile(r"OutOfMemory|memory usage", re.I)
_IMAGE_TEXT = re.compile(
    r"CannotPull|CannotInspectContainer|exec format error|image .*(?:not found|does not exist)"
    r"|executable file not found",
    re.I,
)
_TIMEOUT_TEXT = re.compile(r"attempt duration exceeded timeout", re.I)
# 128 + SIGKILL: what the kernel does to a container that takes more memory than it was given.
_KILLED = 137


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job, or of a child of an array, that has ended.

    Times are Unix times in seconds. ``queued_seconds`` is the wait before this attempt: from the
    submission, or from the end of the attempt before it.
    """

    job_id: str
    queue: str
    outcome: str
    failure: str | None = None
    reason: str = ""
    exit_code: int | None = None
    created_at: float | None = None
    started_at: float | None = None
    stopped_at: float | None = None
    queued_seconds: float | None = None
    run_seconds: float | None = None
    log_stream: str | None = None
    vcpus: float | None = None
    memory_mib: int | None = None
    peak_memory_mib: int | None = None

    @property
    def failure_class(self) -> FailureClass:
        """Why it failed."""
        return FailureClass(self.failure or FailureClass.APPLICATION)

    def verdict(self, what: str) -> Verdict:
        """Return the account of this attempt.

        :param what: what the job was for.
        """
        code = f" with exit code {self.exit_code}" if self.exit_code is not None else ""
        return Verdict(
            job=f"{what} (job {self.job_id})",
            state=f"FAILED{code}",
            failure=self.failure_class,
            reason=self.reason,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def attempts_of(job: Mapping[str, Any]) -> list[Attempt]:
    """Return the attempts of a job, the last of which is the job's own end.

    A job that goes on is taken as ended now: somebody has ended it.

    :param job: DescribeJobs' answer for a job or a child.
    """
    listed = [dict(attempt) for attempt in job.get("attempts", [])]
    if not listed or _goes_beyond(job, listed[-1]):
        listed.append(_unlisted(job, listed))
    else:
        listed[-1]["container"] = {**listed[-1].get("container", {}), **_container(job)}
    # The job's own reason is AWS's last word: who ended it, or why it never started.
    if job.get("statusReason"):
        listed[-1]["statusReason"] = job["statusReason"]
    attempts, waited_since = [], job.get("createdAt")
    for number, each in enumerate(listed, start=1):
        succeeded = number == len(listed) and job["status"] == "SUCCEEDED"
        attempts.append(_attempt(job, each, waited_since, succeeded=succeeded))
        waited_since = each.get("stoppedAt", waited_since)
    if job["status"] != "SUCCEEDED":
        attempts[-1] = _judged(attempts[-1], job)
    return attempts


def done_by_its_array(job_id: str, queue: str) -> Attempt:
    """Return the attempt of a child that AWS does not show, of an array that succeeded."""
    return Attempt(job_id=job_id, queue=queue, outcome="succeeded", reason="its array succeeded")


def lost(job_id: str, queue: str) -> Attempt:
    """Return the attempt of a job that AWS does not know any more."""
    return Attempt(
        job_id=job_id,
        queue=queue,
        outcome="failed",
        failure=FailureClass.LOST,
        reason="Batch does not know it any more",
    )


def _goes_beyond(job: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Whether the job went on after its last attempt that is listed."""
    if job["status"] not in JOB_ENDED:
        return True
    stopped, before = job.get("stoppedAt"), last.get("stoppedAt")
    terminated = bool(job.get("isTerminated") or job.get("isCancelled"))
    return terminated and bool(stopped and before and stopped - before > 1000)


def _unlisted(job: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the attempt that Batch does not list: it goes on, or never began."""
    started = job.get("startedAt")
    if before and started and started <= before[-1].get("stoppedAt", 0):
        started = None
    stopped = job.get("stoppedAt") if job["status"] in JOB_ENDED else time.time() * 1000
    began = started or not before
    return {
        "container": _container(job) if began else {},
        "startedAt": started,
        "stoppedAt": stopped,
    }


def _container(job: Mapping[str, Any]) -> dict[str, Any]:
    container = job.get("container", {})
    return {
        key: container[key] for key in ("exitCode", "reason", "logStreamName") if key in container
    }


def _attempt(
    job: Mapping[str, Any],
    attempt: Mapping[str, Any],
    waited_since: float | None,
    *,
    succeeded: bool,
) -> Attempt:
    container = attempt.get("container", {})
    started, stopped = attempt.get("startedAt"), attempt.get("stoppedAt")
    words = dict.fromkeys(filter(None, [container.get("reason"), attempt.get("statusReason")]))
    exit_code = container.get("exitCode")
    reason = "; ".join(words)
    asked = _asked(job)
    return Attempt(
        job_id=job["jobId"],
        queue=str(job.get("jobQueue", "")).rsplit("/", 1)[-1],
        outcome="succeeded" if succeeded else "failed",
        failure=None if succeeded else classify(exit_code, reason),
        reason="" if succeeded else reason,
        exit_code=exit_code,
        created_at=_seconds(job.get("createdAt")),
        started_at=_seconds(started),
        stopped_at=_seconds(stopped),
        queued_seconds=_between(waited_since, started or stopped),
        run_seconds=_between(started, stopped),
        log_stream=container.get("logStreamName"),
        vcpus=asked.get("VCPU"),
        memory_mib=int(asked["MEMORY"]) if "MEMORY" in asked else None,
    )


def classify(exit_code: int | None, reason: str) -> FailureClass:
    """Say why an attempt failed, by what AWS says of it."""
    if _CAPACITY_TEXT.search(reason):
        return FailureClass.CAPACITY
    if _MEMORY_TEXT.search(reason):
        return FailureClass.MEMORY
    if _IMAGE_TEXT.search(reason):
        return FailureClass.IMAGE
    if _TIMEOUT_TEXT.search(reason):
        return FailureClass.TIMEOUT
    if exit_code == _KILLED:
        return FailureClass.MEMORY
    if exit_code in INPUT_EXIT_CODES:
        return FailureClass.INPUT
    return FailureClass.APPLICATION


def _judged(attempt: Attempt, job: Mapping[str, Any]) -> Attempt:
    """Say it where the job's end has another cause than its attempt's."""
    reason = job.get("statusReason", "")
    if reason.startswith(GAVE_UP):
        failure, _, why = reason.removeprefix(GAVE_UP).partition(": ")
        return replace(attempt, failure=FailureClass(failure), reason=why)
    if job.get("isTerminated") or job.get("isCancelled") or job["status"] not in JOB_ENDED:
        return replace(attempt, failure=FailureClass.CANCELLED)
    return attempt


def _asked(job: Mapping[str, Any]) -> dict[str, float]:
    """Return the vCPUs and MiB that a job was given."""
    container = job.get("container", {})
    given = {
        each["type"]: float(each["value"]) for each in container.get("resourceRequirements", [])
    }
    for name, legacy in (("VCPU", "vcpus"), ("MEMORY", "memory")):
        if container.get(legacy):
            given.setdefault(name, float(container[legacy]))
    return given


def _seconds(milliseconds: float | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _between(start: float | None, end: float | None) -> float | None:
    return max(0.0, (end - start) / 1000) if start and end else None
