"""The end of a Batch job's log in CloudWatch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently
from aws_jobs.step_logs import TAIL_LINES, LogExcerpt, find_cause

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG_GROUP = "/aws/batch/job"

# As many lines are read as may hold the traceback before the last lines.
_LINES = 200
# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html:
# a page may be empty although there is more before it.
_PAGES = 20
_PEAK_MEMORY = re.compile(r"\bpeak memory (\d+) MiB")


def read_log_end(
    logs: Any, log_stream: str, *, group: str = LOG_GROUP, budget: float
) -> LogExcerpt:
    """Read the last lines of a log stream, backwards by page.

    :param budget: seconds that each page is tried for.
    """
    lines: list[str] = []
    token: str | None = None
    for _ in range(_PAGES):
        arguments: dict[str, Any] = {"nextToken": token} if token else {}

        def page(arguments: dict[str, Any] = arguments) -> Any:
            return logs.get_log_events(
                logGroupName=group,
                logStreamName=log_stream,
                startFromHead=False,
                limit=_LINES,
                **arguments,
            )

        answer = call_patiently(page, budget=budget)
        lines = [event["message"].rstrip() for event in answer["events"]] + lines
        if len(lines) >= _LINES or answer["nextBackwardToken"] == token:
            break
        token = answer["nextBackwardToken"]
    return LogExcerpt(
        uri=f"CloudWatch {group}, stream {log_stream}",
        cause=find_cause(lines),
        tail=tuple(lines[-TAIL_LINES:]),
    )


def peak_memory_mib(lines: Sequence[str]) -> int | None:
    """Return the peak memory that a job tells of itself: a line ``... peak memory 312 MiB``.

    >>> peak_memory_mib(["map-sample: peak memory 312 MiB", "map-sample: done"])
    312
    """
    found = [int(match[1]) for line in lines if (match := _PEAK_MEMORY.search(line))]
    return found[-1] if found else None
