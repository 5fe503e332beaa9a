"""Batch and its server's life: what is kept, what is forgotten, and that nothing outlives it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localaws.process import LocalAws
from tests.localaws.conftest import QUICK, Batch, requirements, until
from tests.localaws.test_batch_jobs import alive

HISTORY = 1.5


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    env = {**QUICK, "LOCALAWS_BATCH_HISTORY_SECONDS": str(HISTORY)}
    with LocalAws(env=env, data=tmp_path_factory.mktemp("data"), seed=False) as aws:
        yield aws


def prepared(aws: LocalAws) -> Batch:
    batch = Batch(aws)
    if not batch.client.describe_job_queues(jobQueues=["shared"])["jobQueues"]:
        environment = batch.environment(4)
        order = [{"order": 1, "computeEnvironment": environment}]
        batch.client.create_job_queue(
            jobQueueName="shared", priority=1, computeEnvironmentOrder=order
        )
        container = {
            "image": "local/any",
            "command": ["bash", "-c", "Ref::script"],
            "resourceRequirements": requirements(1, 500),
        }
        batch.client.register_job_definition(
            jobDefinitionName="bash", type="container", containerProperties=container
        )
    return batch


def running_pid(batch: Batch, job_id: str) -> int:
    until(lambda: batch.state(job_id) == "RUNNING" and batch.printed(batch.job(job_id)) != [], "it")
    return int(batch.printed(batch.job(job_id))[0])


def test_jobs_are_forgotten_some_time_after_their_end(own: LocalAws) -> None:
    batch = prepared(own)
    job_id = batch.submit("true", name="short-lived")
    batch.succeeded(job_id)
    waiting = batch.submit("sleep 30")
    filters = [{"name": "JOB_NAME", "values": ["short-lived"]}]

    until(lambda: batch.client.describe_jobs(jobs=[job_id])["jobs"] == [], "it to be forgotten")

    assert batch.client.list_jobs(jobQueue="shared", filters=filters)["jobSummaryList"] == []
    assert batch.state(waiting) == "RUNNING"
    # what has run is not lost to whoever counts
    assert [job["state"] for job in own.jobs() if job["id"] == job_id] == ["SUCCEEDED"]
    batch.client.terminate_job(jobId=waiting, reason="the test is over")


def test_what_ran_when_the_server_stopped_comes_back_as_failed(own: LocalAws) -> None:
    batch = prepared(own)
    script = "trap '' TERM; (setsid sleep 300 &) ; echo $$; sleep 300"
    array = batch.submit(script, arrayProperties={"size": 2})
    pids = [running_pid(batch, f"{array}:{index}") for index in range(2)]
    waiting = batch.submit(dependsOn=[{"jobId": array}])

    own.stop()
    gone = [pid for pid in pids if alive(pid)]
    own.start()
    # no AWS call yet: it would find that the jobs ended too long ago
    found = [job for job in own.jobs() if job["id"].startswith(array) or job["id"] == waiting]
    batch = prepared(own)

    assert gone == []
    assert [(job["state"], job["reason"]) for job in found] == [
        ("FAILED", "localaws stopped before the job had ended: what ran of it was ended")
    ] * 4
    batch.succeeded(batch.submit("true"))


def test_no_job_outlives_a_server_that_is_killed(own: LocalAws, tmp_path: Path) -> None:
    batch = prepared(own)
    pid = running_pid(batch, batch.submit("setsid bash -c 'echo $$; sleep 300' & sleep 300"))
    assert alive(pid)

    own.kill()

    give_up = time.monotonic() + 10
    while alive(pid) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not alive(pid)
