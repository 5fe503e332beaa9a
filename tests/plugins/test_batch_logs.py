"""The end of a job's log, read as CloudWatch hands it out."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from aws_jobs.batch_logs import LOG_GROUP, peak_memory_mib, read_log_end
from aws_jobs.step_logs import TAIL_LINES
from localaws.process import LocalAws


@pytest.fixture
def logs(aws: LocalAws) -> Any:
    """CloudWatch's logs; before the first job Batch's log group is not there."""
    client = aws.client("logs")
    with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
        client.create_log_group(logGroupName=LOG_GROUP)
    return client


def write(logs: Any, stream: str, lines: list[str]) -> None:
    logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
    now = int(time.time() * 1000)
    events = [{"timestamp": now + number, "message": line} for number, line in enumerate(lines)]
    logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)


def test_the_last_lines_are_read_and_the_cause_before_them_is_found(logs: Any) -> None:
    traceback = ["Traceback (most recent call last):", '  File "a.py"', "ValueError: no reads"]
    after = [f"cleaning up {number}" for number in range(50)]
    write(logs, "long", [f"line {number}" for number in range(900)] + traceback + after)

    excerpt = read_log_end(logs, "long", budget=5)

    assert excerpt.tail == tuple(after[-TAIL_LINES:])
    assert excerpt.cause == tuple(traceback)
    assert excerpt.uri.endswith("stream long")


def test_a_short_log_is_read_whole(logs: Any) -> None:
    write(logs, "short", ["one", "two"])

    assert read_log_end(logs, "short", budget=5).tail == ("one", "two")


def test_an_empty_page_is_not_the_beginning_of_the_log() -> None:
    """GetLogEvents may give a page without events though there are more before it."""
    pages = {
        None: ([], "back-1"),
        "back-1": (["first", "last"], "back-2"),
        "back-2": ([], "back-2"),
    }

    class Logs:
        def get_log_events(self, **arguments: Any) -> dict[str, Any]:
            assert arguments["startFromHead"] is False
            lines, token = pages[arguments.get("nextToken")]
            return {"events": [{"message": line} for line in lines], "nextBackwardToken": token}

    assert read_log_end(Logs(), "any", budget=5).tail == ("first", "last")


def test_a_job_says_its_peak_memory_itself() -> None:
    assert peak_memory_mib(["map-sample: peak memory 312 MiB", "map-sample: S1: cut off"]) == 312
    assert peak_memory_mib(["nothing of the kind"]) is None
