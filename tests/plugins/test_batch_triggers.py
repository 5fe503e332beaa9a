"""Batch triggers: what they survive, and what all of them together ask of AWS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from airflow.sdk._shared.module_loading import import_string

from aws_jobs.batch_polling import JOBS
from aws_jobs.polling import Sweep
from aws_jobs.triggers.batch import BatchJobTrigger
from localaws.process import LocalAws
from tests.plugins.harness import bash_job, first_event, wait_together

STUCK = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - too large"


def trigger(job_id: str = "job-1", **overrides: Any) -> BatchJobTrigger:
    return BatchJobTrigger(
        **{
            "job_id": job_id,
            "aws_conn_id": "aws_default",
            "region": "us-east-1",
            "quota_share": 1.0,
            "deadline": time.time() + 60,
            "unseen_seconds": 60.0,
            "interval": 1.0,
            "end_on_kill": False,
            "queued_until": time.time() + 60,
            "running_seconds": 60.0,
            "stuck_seconds": 60.0,
            "quickest": 0.2,
            **overrides,
        }
    )


def test_a_trigger_survives_the_trip_through_the_triggerer() -> None:
    path, arguments = trigger().serialize()

    assert import_string(path)(**arguments).serialize() == (path, arguments)
    assert path == "aws_jobs.triggers.batch.BatchJobTrigger"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ({"status": "SUCCEEDED"}, "ended"),
        ({"status": "FAILED"}, "ended"),
        ({"status": "RUNNABLE"}, None),
        ({"status": "RUNNING", "startedAt": 1_000_000}, None),
        ({"status": "RUNNING", "startedAt": 1_000_000 - 61_000}, "timeout"),
        ({"status": "PENDING", "arrayProperties": {"size": 3}}, None),
    ],
)
def test_each_state_has_one_meaning(status: dict[str, Any], outcome: str | None) -> None:
    assert trigger(queued_until=1_001.0).verdict(status, 1_000.0) == outcome


@pytest.mark.parametrize("state", ["SUBMITTED", "PENDING", "RUNNABLE", "STARTING"])
def test_a_job_has_a_budget_for_its_queue_and_an_array_as_a_whole_has_none(state: str) -> None:
    late = trigger(queued_until=999.0)

    assert late.verdict({"status": state}, 1_000.0) == "timeout"
    assert late.verdict({"status": state, "arrayProperties": {"size": 3}}, 1_000.0) is None


def test_a_job_that_batch_queues_again_had_started_in_time() -> None:
    again = {"status": "RUNNABLE", "attempts": [{"statusReason": "Host EC2 terminated"}]}

    assert trigger(queued_until=999.0).verdict(again, 1_000.0) is None


def test_a_job_is_stuck_after_the_same_reason_for_long_enough() -> None:
    watching = trigger(stuck_seconds=100.0, queued_until=1e9)
    stuck = {"status": "RUNNABLE", "statusReason": STUCK}

    assert watching.verdict(stuck, 1_000.0) is None
    assert watching.verdict(stuck, 1_099.0) is None
    assert watching.verdict({**stuck, "statusReason": f"{STUCK} still"}, 1_100.0) is None
    assert watching.verdict({"status": "RUNNABLE"}, 1_150.0) is None
    assert watching.verdict(stuck, 1_200.0) is None
    assert watching.verdict(stuck, 1_300.0) == "stuck"


def test_a_lack_of_capacity_is_not_being_stuck() -> None:
    watching = trigger(stuck_seconds=0.0, queued_until=1e9)
    reason = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - wait"

    assert watching.verdict({"status": "RUNNABLE", "statusReason": reason}, 1_000.0) is None


def test_the_first_child_tells_of_the_array_whether_it_is_stuck() -> None:
    watching = trigger(stuck_seconds=0.0)
    array = {
        "status": "PENDING",
        "arrayProperties": {"size": 3},
        "firstChild": {"status": "RUNNABLE", "statusReason": STUCK},
    }

    assert watching.verdict(array, 1_000.0) == "stuck"


def test_the_event_brings_what_aws_said_of_the_job() -> None:
    details = {"State": "FAILED", "status": "FAILED", "attempts": []}

    async def stream() -> AsyncIterator[Sweep]:
        yield Sweep({(JOBS, "job-1"): details})

    assert asyncio.run(first_event(trigger(), stream())) == {
        "outcome": "ended",
        "state": "FAILED",
        "job": details,
    }


def test_two_hundred_jobs_cost_two_calls_a_sweep(batch: LocalAws) -> None:
    client = batch.client("batch")
    job_ids = [client.submit_job(**bash_job("sleep 3"))["jobId"] for _ in range(2)]
    triggers = [trigger(job_id, quickest=1.0) for job_id in job_ids]
    give_up = time.time() + 4
    triggers += [trigger(f"no-such-job-{n}", quickest=1.0, deadline=give_up) for n in range(198)]
    batch.reset_calls()
    began = time.monotonic()

    events = asyncio.run(wait_together(triggers))

    outcomes = [event["outcome"] for event in events]
    assert (outcomes.count("ended"), outcomes.count("timeout")) == (2, 198)
    # A sweep comes no sooner than eight tenths of a second after the one before.
    sweeps = (time.monotonic() - began) / 0.8 + 1
    assert batch.count("batch", "DescribeJobs") <= 2 * sweeps


def test_an_array_that_is_stuck_says_so_by_its_first_child(batch: LocalAws) -> None:
    too_much = [{"type": "VCPU", "value": "30"}, {"type": "MEMORY", "value": "900000"}]
    array = bash_job(
        arrayProperties={"size": 2}, containerOverrides={"resourceRequirements": too_much}
    )
    job_id = batch.client("batch").submit_job(**array)["jobId"]

    (event,) = asyncio.run(wait_together([trigger(job_id, stuck_seconds=0.5)]))

    assert event["outcome"] == "stuck"
    assert event["job"]["firstChild"]["statusReason"].startswith("MISCONFIGURATION:")


@pytest.mark.parametrize(("end_on_kill", "calls"), [(True, 1), (False, 0)])
def test_a_killed_wait_ends_the_array_by_one_call_if_the_task_submitted_it(
    batch: LocalAws, end_on_kill: bool, calls: int
) -> None:
    array = bash_job("sleep 20", arrayProperties={"size": 3})
    job_id = batch.client("batch").submit_job(**array)["jobId"]
    batch.reset_calls()

    asyncio.run(trigger(job_id, end_on_kill=end_on_kill).on_kill())

    assert batch.count("batch", "TerminateJob") == calls
