"""Array jobs and dependencies."""

from __future__ import annotations

import time
from typing import Any

from tests.localaws.conftest import Batch

CHILD_FAILED = "Array Child Job failed"
DEPENDENCY_FAILED = "Dependent Job failed"


def array(size: int) -> dict[str, Any]:
    return {"arrayProperties": {"size": size}}


def summary(job: dict[str, Any]) -> dict[str, int]:
    return {state: n for state, n in job["arrayProperties"]["statusSummary"].items() if n}


def children(batch: Batch, job_id: str, size: int) -> list[dict[str, Any]]:
    ids = [f"{job_id}:{index}" for index in range(size)]
    return list(batch.client.describe_jobs(jobs=ids)["jobs"])


def test_each_child_knows_its_index(batch: Batch) -> None:
    job_id = batch.submit("echo $AWS_BATCH_JOB_ID $AWS_BATCH_JOB_ARRAY_INDEX", **array(3))

    parent = batch.succeeded(job_id)
    found = children(batch, job_id, 3)

    assert [batch.printed(child) for child in found] == [[f"{job_id}:{n} {n}"] for n in range(3)]
    assert [child["arrayProperties"] for child in found] == [{"index": n} for n in range(3)]
    assert parent["arrayProperties"]["size"] == 3
    assert summary(parent) == {"SUCCEEDED": 3}
    assert parent["attempts"] == []


def test_the_parent_is_pending_while_children_run_and_fails_if_one_failed(batch: Batch) -> None:
    script = "sleep 0.$((5 * AWS_BATCH_JOB_ARRAY_INDEX)); exit $((AWS_BATCH_JOB_ARRAY_INDEX == 0))"
    job_id = batch.submit(script, **array(2))
    batch.await_state(f"{job_id}:0", "FAILED")

    meanwhile = batch.job(job_id)
    later = batch.ended(job_id)

    assert (meanwhile["status"], summary(meanwhile)) == ("PENDING", {"FAILED": 1, "RUNNING": 1})
    assert (later["status"], later["statusReason"]) == ("FAILED", CHILD_FAILED)
    assert summary(later) == {"FAILED": 1, "SUCCEEDED": 1}


def test_a_child_is_tried_again_by_itself(batch: Batch) -> None:
    script = "exit $((AWS_BATCH_JOB_ARRAY_INDEX == 1 && AWS_BATCH_JOB_ATTEMPT == 1))"
    job_id = batch.submit(script, retryStrategy={"attempts": 2}, **array(3))

    batch.succeeded(job_id)

    assert [len(child["attempts"]) for child in children(batch, job_id, 3)] == [1, 2, 1]


def test_terminating_the_parent_ends_its_children(batch: Batch) -> None:
    queue = batch.queue(batch.environment(1))
    job_id = batch.submit("sleep 30", jobQueue=queue, retryStrategy={"attempts": 3}, **array(3))
    batch.await_state(f"{job_id}:0", "RUNNING")

    batch.client.terminate_job(jobId=job_id, reason="cleared")
    at_once = batch.job(f"{job_id}:2")
    parent = batch.ended(job_id)
    found = children(batch, job_id, 3)

    assert at_once["status"] == "FAILED"
    assert (parent["statusReason"], parent["isTerminated"]) == ("cleared", True)
    assert {(child["statusReason"], child["isTerminated"]) for child in found} == {
        ("cleared", True)
    }
    assert [len(child["attempts"]) for child in found] == [1, 0, 0]


def test_cancelling_the_parent_leaves_what_runs(batch: Batch) -> None:
    queue = batch.queue(batch.environment(1))
    job_id = batch.submit("sleep 0.7", jobQueue=queue, **array(3))
    batch.await_state(f"{job_id}:0", "RUNNING")

    batch.client.cancel_job(jobId=job_id, reason="enough")
    parent = batch.ended(job_id)

    assert (parent["status"], parent["statusReason"]) == ("FAILED", "enough")
    states = [child["status"] for child in children(batch, job_id, 3)]
    assert states == ["SUCCEEDED", "FAILED", "FAILED"]


def test_one_child_can_be_terminated(batch: Batch) -> None:
    job_id = batch.submit("sleep 0.$AWS_BATCH_JOB_ARRAY_INDEX", **array(2))

    batch.client.terminate_job(jobId=f"{job_id}:1", reason="only this")
    batch.ended(job_id)

    assert [child["status"] for child in children(batch, job_id, 2)] == ["SUCCEEDED", "FAILED"]


def test_a_sequential_array_runs_one_child_after_the_other(batch: Batch) -> None:
    script = "sleep 0.1; exit $((AWS_BATCH_JOB_ARRAY_INDEX == 2))"
    job_id = batch.submit(script, dependsOn=[{"type": "SEQUENTIAL"}], **array(4))

    batch.ended(job_id)
    found = children(batch, job_id, 4)

    assert [child["status"] for child in found] == ["SUCCEEDED", "SUCCEEDED", "FAILED", "FAILED"]
    assert found[1]["startedAt"] >= found[0]["stoppedAt"]
    assert found[3]["statusReason"] == DEPENDENCY_FAILED


def test_n_to_n_pairs_the_children_of_two_arrays(batch: Batch) -> None:
    first = batch.submit("exit $((AWS_BATCH_JOB_ARRAY_INDEX == 1))", **array(3))
    second = batch.submit(dependsOn=[{"jobId": first, "type": "N_TO_N"}], **array(3))

    batch.ended(second)

    states = [child["status"] for child in children(batch, second, 3)]
    assert states == ["SUCCEEDED", "FAILED", "SUCCEEDED"]


def test_a_job_waits_for_all_that_it_depends_on(batch: Batch) -> None:
    array_id = batch.submit("sleep 0.3", **array(2))
    single = batch.submit("sleep 0.1")
    job_id = batch.submit(dependsOn=[{"jobId": array_id}, {"jobId": single}])

    waiting = batch.await_state(job_id, "PENDING")
    job = batch.succeeded(job_id)

    assert waiting["dependsOn"] == [{"jobId": array_id}, {"jobId": single}]
    assert job["startedAt"] >= batch.job(array_id)["stoppedAt"]


def test_who_depends_on_a_failed_job_fails(batch: Batch) -> None:
    first = batch.submit("sleep 0.2; exit 1")
    second = batch.submit(dependsOn=[{"jobId": first}])
    third = batch.submit(dependsOn=[{"jobId": second}], **array(2))

    batch.ended(third)
    late = batch.ended(batch.submit(dependsOn=[{"jobId": first}]))

    assert batch.job(second)["statusReason"] == late["statusReason"] == DEPENDENCY_FAILED
    assert batch.job(f"{third}:1")["statusReason"] == DEPENDENCY_FAILED


def test_ten_thousand_children_are_submitted_listed_and_ended(batch: Batch) -> None:
    queue = batch.queue(batch.environment(1))
    began = time.monotonic()

    job_id = batch.submit(
        "sleep 30", jobQueue=queue, dependsOn=[{"type": "SEQUENTIAL"}], **array(10_000)
    )
    batch.await_state(f"{job_id}:0", "RUNNING")
    waiting = batch.job(job_id)
    batch.client.terminate_job(jobId=job_id, reason="enough")
    ended = batch.ended(job_id)

    assert summary(waiting) == {"PENDING": 9_999, "RUNNING": 1}
    assert summary(ended) == {"FAILED": 10_000}
    assert time.monotonic() - began < 15
