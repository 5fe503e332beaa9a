"""ListJobs' filters.

https://docs.aws.amazon.com/batch/latest/APIReference/API_ListJobs.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localaws.batch.errors import ClientException
from localaws.batch.models import Job
from localaws.batch.retries import matches


def filtered(jobs: Sequence[Job], filters: Sequence[dict[str, Any]]) -> list[Job]:
    """Return the jobs that the one filter lets pass.

    Raises:
        ClientException: there are more filters than one, or it is not known.
    """
    if len(filters) != 1:
        raise ClientException("Only one filter can be used at a time.")
    name, values = filters[0].get("name"), filters[0].get("values") or []
    if not values:
        raise ClientException(f"Filter {name} needs values.")
    return [job for job in jobs if any(_passes(job, name, value) for value in values)]


def _passes(job: Job, name: str | None, value: str) -> bool:
    if name == "JOB_NAME":
        return matches(value, job.name)
    if name == "JOB_DEFINITION":
        if value.startswith("arn:"):
            return job.definition.arn == value
        # case-sensitive, unlike a job's name
        short = job.definition.name
        return short.startswith(value[:-1]) if value.endswith("*") else short == value
    if name in ("AFTER_CREATED_AT", "BEFORE_CREATED_AT"):
        if not value.isdecimal():
            raise ClientException(f"Filter {name} takes milliseconds since 1970, not {value!r}.")
        is_after = name == "AFTER_CREATED_AT"
        return job.created > int(value) if is_after else job.created < int(value)
    raise ClientException(f"Filter {name} is not known.")
