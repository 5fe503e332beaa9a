"""Why attempts failed, by what Batch says of them."""

from __future__ import annotations

from typing import Any

import pytest

from aws_jobs.batch_attempts import attempts_of, classify
from aws_jobs.verdicts import FailureClass

# What AWS says, from its documentation and from threads in which users quote it.
SIGNS = [
    (None, "Host EC2 (instance i-0ab) terminated.", FailureClass.CAPACITY),
    (137, "Host EC2 (instance i-0ab) terminated.", FailureClass.CAPACITY),
    (None, "Your Spot Task was interrupted.", FailureClass.CAPACITY),
    (137, "OutOfMemoryError: Container killed due to memory usage", FailureClass.MEMORY),
    (137, "Essential container in task exited", FailureClass.MEMORY),
    (None, "CannotPullContainerError: pull access denied", FailureClass.IMAGE),
    (127, "CannotStartContainerError: executable file not found in $PATH", FailureClass.IMAGE),
    (None, "CannotInspectContainerError: could not transition", FailureClass.IMAGE),
    (143, "Job attempt duration exceeded timeout", FailureClass.TIMEOUT),
    (65, "Essential container in task exited", FailureClass.INPUT),
    (66, "Essential container in task exited", FailureClass.INPUT),
    (1, "Essential container in task exited", FailureClass.APPLICATION),
    (None, "", FailureClass.APPLICATION),
]


@pytest.mark.parametrize(("exit_code", "reason", "failure"), SIGNS)
def test_each_sign_has_one_class(exit_code: int | None, reason: str, failure: FailureClass) -> None:
    assert classify(exit_code, reason) is failure


def job(**overrides: Any) -> dict[str, Any]:
    return {
        "jobId": "job-1",
        "jobQueue": "arn:aws:batch:us-east-1:123456789012:job-queue/spot",
        "status": "FAILED",
        "statusReason": "Essential container in task exited",
        "createdAt": 1_000_000,
        "startedAt": 1_200_000,
        "stoppedAt": 1_260_000,
        "container": {
            "exitCode": 1,
            "logStreamName": "job/default/2",
            "resourceRequirements": [
                {"type": "VCPU", "value": "4"},
                {"type": "MEMORY", "value": "2048"},
            ],
        },
        "attempts": [
            {
                "startedAt": 1_010_000,
                "stoppedAt": 1_100_000,
                "statusReason": "Host EC2 (instance i-1) terminated.",
                "container": {"logStreamName": "job/default/1"},
            },
            {
                "startedAt": 1_200_000,
                "stoppedAt": 1_260_000,
                "statusReason": "Essential container in task exited",
                "container": {"exitCode": 1, "logStreamName": "job/default/2"},
            },
        ],
        **overrides,
    }


def test_each_attempt_has_its_own_wait_and_run() -> None:
    first, second = attempts_of(job())

    assert (first.failure, first.queued_seconds, first.run_seconds) == ("capacity", 10, 90)
    assert (second.failure, second.queued_seconds, second.run_seconds) == ("application", 100, 60)
    assert (second.exit_code, second.log_stream) == (1, "job/default/2")
    assert (second.queue, second.vcpus, second.memory_mib) == ("spot", 4, 2048)


def test_only_the_last_attempt_of_a_job_that_succeeded_has_succeeded() -> None:
    succeeded = job(status="SUCCEEDED")
    succeeded["container"]["exitCode"] = 0
    succeeded["attempts"][1]["container"]["exitCode"] = 0

    first, second = attempts_of(succeeded)

    assert (first.outcome, first.failure) == ("failed", "capacity")
    assert (second.outcome, second.failure, second.reason) == ("succeeded", None, "")


def test_a_job_that_somebody_ended_is_cancelled_whatever_its_exit_code() -> None:
    *_, last = attempts_of(job(isTerminated=True, statusReason="no longer needed"))

    assert (last.failure, last.reason) == ("cancelled", "no longer needed")


def test_a_job_that_was_ended_before_it_ran_has_one_attempt() -> None:
    (only,) = attempts_of(
        job(isCancelled=True, attempts=[], container={}, startedAt=None, statusReason="mistake")
    )

    assert (only.failure, only.reason, only.run_seconds) == ("cancelled", "mistake", None)
    assert only.queued_seconds == 260


def test_a_job_that_was_ended_between_two_attempts_keeps_the_first_as_it_was() -> None:
    lost = job(isTerminated=True, statusReason="enough", startedAt=1_010_000, stoppedAt=1_900_000)
    lost["attempts"] = lost["attempts"][:1]

    first, last = attempts_of(lost)

    assert (first.failure, first.run_seconds) == ("capacity", 90)
    assert (last.failure, last.reason) == ("cancelled", "enough")


def test_a_job_that_its_own_task_ended_says_why() -> None:
    late = job(isTerminated=True, statusReason="Its task gave up: timeout: used up")
    stuck = job(
        isTerminated=True,
        attempts=[],
        container={},
        statusReason="Its task gave up: stuck: MISCONFIGURATION:X - too large",
    )

    assert [(each.failure, each.reason) for each in attempts_of(late)[-1:]] == [
        ("timeout", "used up")
    ]
    (only,) = attempts_of(stuck)
    assert (only.failure, only.reason) == ("stuck", "MISCONFIGURATION:X - too large")


def test_an_attempt_that_goes_on_is_one_of_its_own() -> None:
    """Batch lists an attempt when it has ended."""
    going = job(status="RUNNING", isTerminated=True, stoppedAt=None, startedAt=1_200_000)
    going["attempts"] = going["attempts"][:1]

    first, last = attempts_of(going)

    assert (first.failure, first.run_seconds) == ("capacity", 90)
    assert (last.failure, last.queued_seconds, last.started_at) == ("cancelled", 100, 1200)
    assert last.run_seconds is not None


def test_a_job_that_is_ended_while_it_waits_for_its_next_attempt_is_paid_once() -> None:
    waiting = job(status="FAILED", isCancelled=True, startedAt=1_010_000, stoppedAt=1_300_000)
    waiting["attempts"] = waiting["attempts"][:1]

    first, last = attempts_of(waiting)

    assert (first.run_seconds, last.run_seconds) == (90, None)
    assert last.log_stream is None
