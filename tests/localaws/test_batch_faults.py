"""The fault plan on Batch: lost hosts, memory, images, jobs that are stuck or not to be seen."""

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from localaws.process import LocalAwsError
from tests.localaws.conftest import Batch, until

ONCE = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
STUCK = "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - not today"


def by_name(batch: Batch, name: str) -> list[str]:
    filters = [{"name": "JOB_NAME", "values": [name]}]
    found = batch.client.list_jobs(jobQueue="shared", filters=filters)["jobSummaryList"]
    return [job["jobId"] for job in found]


def test_a_submission_is_throttled_in_batchs_words(batch: Batch) -> None:
    batch.aws.set_faults([{"service": "batch", "operation": "SubmitJob", "kind": "throttle"}])
    client = batch.aws.client("batch", **ONCE)

    with pytest.raises(ClientError, match="TooManyRequestsException") as caught:
        client.submit_job(jobName="x", jobQueue="shared", jobDefinition="bash")

    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429


def test_a_submission_whose_answer_is_lost_has_its_effect(batch: Batch) -> None:
    batch.aws.set_faults([{"service": "batch", "operation": "SubmitJob", "kind": "lost_answer"}])
    batch_once = Batch(batch.aws)
    batch_once.client = batch.aws.client("batch", **ONCE)

    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        batch_once.submit(name="unheard-of")

    assert len(by_name(batch, "unheard-of")) == 1


def test_a_new_job_does_not_show_for_a_while_if_listings_lag(batch: Batch) -> None:
    batch.aws.set_faults([{"service": "batch", "kind": "listing_lag", "seconds": 0.8}])
    job_id = batch.submit("sleep 3", name="lagging")

    described = batch.client.describe_jobs(jobs=[job_id])["jobs"]
    listed = by_name(batch, "lagging")
    time.sleep(0.9)

    assert (described, listed) == ([], [])
    assert batch.job(job_id)["jobName"] == "lagging"
    assert by_name(batch, "lagging") == [job_id]


def test_a_lag_of_one_operation_leaves_the_other(batch: Batch) -> None:
    lag = {"service": "batch", "kind": "listing_lag", "seconds": 60}
    batch.aws.set_faults([{**lag, "operation": "ListJobs"}])
    job_id = batch.submit("true", name="half-seen")

    assert by_name(batch, "half-seen") == []
    assert batch.job(job_id)


def test_lost_hosts_are_told_from_failures_and_tried_again(batch: Batch) -> None:
    batch.aws.set_faults([{"kind": "spot_loss", "job": "spot-*", "count": 2}])
    rules = [
        {"onStatusReason": "Host EC2*", "action": "RETRY"},
        {"onReason": "*", "action": "EXIT"},
    ]
    retry = {"attempts": 5, "evaluateOnExit": rules}

    hit = batch.submit("sleep 0.4", name="spot-1", retryStrategy=retry)
    spared = batch.submit("sleep 0.4", name="other", retryStrategy=retry)
    job = batch.succeeded(hit)

    lost = [one["statusReason"] for one in job["attempts"]]
    instances = [one["instance"] for one in batch.aws.jobs()[-2]["attempts"]]
    assert lost[:2] == [f"Host EC2 (instance {one}) terminated." for one in instances[:2]]
    assert len(lost) == 3
    assert "exitCode" not in job["attempts"][0]["container"]
    assert len(batch.succeeded(spared)["attempts"]) == 1
    assert batch.aws.faults()[0]["struck"] == 2


def test_a_host_is_lost_when_the_attempt_is_old_enough_and_in_its_queue(batch: Batch) -> None:
    queue = batch.queue(batch.environment(2, "SPOT"))
    batch.aws.set_faults([{"kind": "spot_loss", "queue": queue, "seconds": 0.6}])

    elsewhere = batch.submit("sleep 0.9")
    job = batch.ended(batch.submit("sleep 30", jobQueue=queue))

    assert job["statusReason"].startswith("Host EC2 (instance i-0")
    assert job["stoppedAt"] - job["startedAt"] >= 600
    batch.succeeded(elsewhere)


def test_an_attempt_runs_out_of_memory_earlier_than_it_asked_for(batch: Batch) -> None:
    batch.aws.set_faults([{"kind": "out_of_memory", "mebibytes": 60, "count": 1}])
    grow = "import time; x = []\nwhile len(x) < 12: x.append(b'x' * (10 << 20)); time.sleep(0.05)"

    job = batch.succeeded(batch.submit(f'python3 -c "{grow}"', retryStrategy={"attempts": 2}))

    first, second = (one["container"] for one in job["attempts"])
    assert first["reason"] == "OutOfMemoryError: Container killed due to memory usage"
    assert (first["exitCode"], second["exitCode"]) == (137, 0)


def test_an_image_cannot_be_pulled(batch: Batch) -> None:
    batch.aws.set_faults([{"kind": "pull_error", "job": "image", "count": 1}])

    job = batch.succeeded(batch.submit(name="image", retryStrategy={"attempts": 2}))

    first = job["attempts"][0]
    assert first["container"]["reason"].startswith("CannotPullContainerError: ")
    assert first["statusReason"] == "Task failed to start"


def test_a_job_is_stuck_as_long_as_the_plan_says_so(batch: Batch) -> None:
    batch.aws.set_faults([{"kind": "stuck", "job": "stuck", "count": 1, "reason": STUCK}])
    job_id = batch.submit(name="stuck")
    until(lambda: batch.job(job_id).get("statusReason") == STUCK, "the reason")

    other = batch.succeeded(batch.submit(name="stuck"))
    state = batch.state(job_id)
    batch.aws.clear_faults()

    assert other["statusReason"] != STUCK
    assert state == "RUNNABLE"
    assert batch.succeeded(job_id)["statusReason"] == "Essential container in task exited"


def test_a_stuck_job_can_be_terminated(batch: Batch) -> None:
    batch.aws.set_faults([{"kind": "stuck", "reason": STUCK}])
    job_id = batch.submit()
    until(lambda: batch.job(job_id).get("statusReason") == STUCK, "the reason")

    batch.client.terminate_job(jobId=job_id, reason="stuck for too long")

    assert batch.job(job_id)["statusReason"] == "stuck for too long"


def test_a_job_vanishes_and_goes_on(batch: Batch) -> None:
    batch.aws.set_faults([{"kind": "vanish", "job": "gone", "seconds": 0.5}])
    job_id = batch.submit("sleep 1", name="gone", arrayProperties={"size": 2})
    kept = batch.submit("sleep 1", name="kept")
    assert batch.job(job_id)

    ids = [job_id, f"{job_id}:1", kept]

    def known() -> list[str]:
        return [job["jobId"] for job in batch.client.describe_jobs(jobs=ids)["jobs"]]

    until(lambda: known() == [kept], "the job to vanish")
    assert by_name(batch, "gone") == []
    assert by_name(batch, "kept") == [kept]
    until(
        lambda: any(j["id"] == job_id and j["state"] == "SUCCEEDED" for j in batch.aws.jobs()),
        "the end that nobody sees",
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "stuck"}, "reason"),
        ({"kind": "spot_loss", "mebibytes": -1}, "mebibytes"),
        ({"kind": "spot_loss", "job": 3}, "job must be a string"),
        ({"kind": "vanished"}, "vanish"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(
    batch: Batch, fault: dict[str, Any], words: str
) -> None:
    with pytest.raises(LocalAwsError, match=words):
        batch.aws.set_faults([fault])
