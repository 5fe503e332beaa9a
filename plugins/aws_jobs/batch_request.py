"""Check SubmitJob's arguments before AWS does: all problems at once."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from aws_jobs.batch_job import LARGEST_ARRAY
from aws_jobs.exceptions import InvalidRequestError
from aws_jobs.request_shapes import coerce, input_shape, shape_problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# https://docs.aws.amazon.com/batch/latest/APIReference/API_SubmitJob.html
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TIMEOUT_SECONDS = 60
_ATTEMPTS = (1, 10)
# How the job learns what it was given; Batch does not tell it.
VCPUS_NAME, MEMORY_NAME = "JOB_VCPUS", "JOB_MEMORY_MIB"


def conform_job(job: Mapping[str, Any], *, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Give a rendered SubmitJob request the API's types, and check it.

    :param names: the names of the items, where the job works on items.
    :raises InvalidRequestError: with every problem.
    """
    shape = input_shape("batch", "SubmitJob")
    request: dict[str, Any] = coerce(dict(job), shape)
    problems = [
        *shape_problems(request, shape),
        *_request_problems(request),
        *_item_problems(request, names),
    ]
    if problems:
        raise InvalidRequestError(
            f"The job {request.get('jobName', '(without a name)')!r} is not valid", problems
        )
    return request


def with_resources(
    request: Mapping[str, Any], *, queue: str, memory_mib: int | None
) -> dict[str, Any]:
    """Return the request for a queue, with more memory where that was found to be needed.

    The job is told what it was given, by ``JOB_VCPUS`` and ``JOB_MEMORY_MIB``.
    """
    overrides = dict(request.get("containerOverrides", {}))
    given = {each["type"]: each["value"] for each in overrides.get("resourceRequirements", [])}
    if memory_mib is not None:
        given["MEMORY"] = str(memory_mib)
    told = {
        name: given[kind]
        for name, kind in ((VCPUS_NAME, "VCPU"), (MEMORY_NAME, "MEMORY"))
        if kind in given
    }
    environment = [
        each for each in overrides.get("environment", []) if each.get("name") not in told
    ]
    environment += [{"name": name, "value": value} for name, value in told.items()]
    if given:
        overrides["resourceRequirements"] = [
            {"type": kind, "value": value} for kind, value in given.items()
        ]
    if environment:
        overrides["environment"] = environment
    if overrides:
        return {**request, "jobQueue": queue, "containerOverrides": overrides}
    return {**request, "jobQueue": queue}


def _request_problems(request: Mapping[str, Any]) -> list[str]:
    problems = []
    name = request.get("jobName", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(
            f"jobName is {name!r}; it has letters, digits, '-' and '_', and starts with a letter "
            "or digit"
        )
    timeout = request.get("timeout", {}).get("attemptDurationSeconds", _TIMEOUT_SECONDS)
    if isinstance(timeout, int) and timeout < _TIMEOUT_SECONDS:
        problems.append(f"timeout.attemptDurationSeconds is {timeout}; Batch takes 60 or more")
    attempts = request.get("retryStrategy", {}).get("attempts", 1)
    if isinstance(attempts, int) and not _ATTEMPTS[0] <= attempts <= _ATTEMPTS[1]:
        problems.append(f"retryStrategy.attempts is {attempts}; Batch takes 1 to 10")
    overrides = request.get("containerOverrides", {})
    for each in overrides.get("environment", []) if isinstance(overrides, dict) else []:
        if str(each.get("name", "")).startswith("AWS_BATCH"):
            problems.append(f"the environment sets {each['name']}: such names are Batch's own")
    return problems


def _item_problems(request: Mapping[str, Any], names: Sequence[str] | None) -> list[str]:
    if names is None:
        return []
    problems = []
    if "arrayProperties" in request:
        problems.append("arrayProperties follows from the items: leave it out")
    if len(names) > LARGEST_ARRAY:
        problems.append(f"{len(names)} items; an array job takes {LARGEST_ARRAY}")
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        problems.append(f"items that are there twice: {', '.join(twice)}")
    return problems
