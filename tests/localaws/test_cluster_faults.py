"""The fault plan on EMR: clusters, core nodes and steps that are lost; the times of the audits."""

from __future__ import annotations

import time
from typing import Any

import pytest

from localaws.process import LocalAwsError
from tests.localaws.conftest import Batch, Emr, group, until

LOST = "All slaves in the job flow were terminated due to Spot"


def spot_cluster(emr: Emr, name: str, *, nodes: int = 2, market: str = "SPOT") -> str:
    cluster = emr.start(Name=name, groups=[group("MASTER", 1), group("CORE", nodes, Market=market)])
    emr.await_state(cluster, "WAITING")
    return cluster


def audited(emr: Emr, cluster: str) -> dict[str, Any]:
    return next(one for one in emr.aws.clusters() if one["id"] == cluster)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("STARTING", "VALIDATION_ERROR"),
        ("BOOTSTRAPPING", "BOOTSTRAP_FAILURE"),
        ("WAITING", "INTERNAL_ERROR"),
    ],
)
def test_a_cluster_fails_in_the_state_that_the_plan_names(emr: Emr, state: str, code: str) -> None:
    fault = {"kind": "cluster_failure", "cluster": "doomed-*", "state": state, "code": code}
    emr.aws.set_faults([{**fault, "reason": "no luck today"}])

    doomed, spared = emr.start(Name="doomed-1"), emr.start(Name="other")
    status = emr.await_state(doomed, "TERMINATED_WITH_ERRORS")["Status"]

    assert status["StateChangeReason"] == {"Code": code, "Message": "no luck today"}
    assert ("ReadyDateTime" in status["Timeline"]) == (state == "WAITING")
    emr.await_state(spared, "WAITING")


def test_a_cluster_that_fails_takes_its_steps_with_it(emr: Emr) -> None:
    cluster = emr.start(Name="doomed")
    running, waiting = emr.add(cluster, "sleep 60", "true")
    emr.await_step(cluster, running, "RUNNING")

    # set while the cluster is in that state already
    emr.aws.set_faults([{"kind": "cluster_failure", "state": "RUNNING", "seconds": 0.3}])
    status = emr.await_state(cluster, "TERMINATED_WITH_ERRORS")["Status"]

    assert status["StateChangeReason"]["Code"] == "INSTANCE_FAILURE"
    assert emr.step_state(cluster, running) == "INTERRUPTED"
    assert emr.step_state(cluster, waiting) == "CANCELLED"


def test_a_cluster_takes_longer_to_start(emr: Emr) -> None:
    emr.aws.set_faults([{"kind": "slow_start", "cluster": "slow", "seconds": 60}])
    slow, other = emr.start(Name="slow"), emr.start(Name="other")

    emr.await_state(other, "WAITING")
    still = emr.state(slow)
    emr.client.terminate_job_flows(JobFlowIds=[slow])

    assert still == "STARTING"
    emr.await_state(slow, "TERMINATED")


def test_a_failure_counts_clusters(emr: Emr) -> None:
    emr.aws.set_faults([{"kind": "cluster_failure", "cluster": "one-of-*", "count": 1}])

    clusters = [emr.start(Name=f"one-of-{number}") for number in range(2)]
    states = {emr.await_state(one, "WAITING", "TERMINATED_WITH_ERRORS")["Id"] for one in clusters}

    assert states == set(clusters)
    assert sorted(map(emr.state, clusters)) == ["TERMINATED_WITH_ERRORS", "WAITING"]
    assert emr.aws.faults()[0]["struck"] == 1


def test_an_end_in_order_is_no_error(emr: Emr) -> None:
    emr.aws.set_faults(
        [{"kind": "cluster_failure", "cluster": "ended-by-hand", "code": "USER_REQUEST"}]
    )

    status = emr.await_state(emr.start(Name="ended-by-hand"), "TERMINATED")["Status"]

    assert status["StateChangeReason"]["Code"] == "USER_REQUEST"


def test_a_cluster_without_a_core_node_left_ends(emr: Emr) -> None:
    cluster = spot_cluster(emr, "spot")
    (step,) = emr.add(cluster, "sleep 60")
    emr.await_step(cluster, step, "RUNNING")

    emr.aws.set_faults([{"kind": "core_loss", "cluster": "spot"}])
    status = emr.await_state(cluster, "TERMINATED_WITH_ERRORS")["Status"]

    assert status["StateChangeReason"] == {"Code": "INSTANCE_FAILURE", "Message": LOST}
    assert emr.step_state(cluster, step) == "INTERRUPTED"


def test_a_cluster_with_a_core_node_left_loses_what_ran(emr: Emr) -> None:
    cluster = spot_cluster(emr, "spot")
    running, waiting = emr.add(cluster, "sleep 60", "true")
    emr.await_step(cluster, running, "RUNNING")

    emr.aws.set_faults([{"kind": "core_loss", "cluster": "spot", "nodes": 1}])
    failed = emr.await_step(cluster, running, "FAILED")
    emr.await_step(cluster, waiting, "COMPLETED")

    assert "released on a *lost* node" in failed["Status"]["FailureDetails"]["Message"]
    assert "released on a *lost* node" in emr.log(cluster, "steps", running, "stderr")
    assert emr.state(cluster) in ("RUNNING", "WAITING")


def test_nodes_on_demand_are_not_reclaimed(emr: Emr) -> None:
    cluster = spot_cluster(emr, "on-demand", market="ON_DEMAND")
    emr.aws.set_faults([{"kind": "core_loss", "cluster": "on-demand"}])

    until(lambda: emr.aws.faults()[0]["struck"] == 1, "the strike")
    (step,) = emr.add(cluster, "true")

    emr.await_step(cluster, step, "COMPLETED")


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "INTERRUPTED"])
def test_a_step_is_ended_from_outside(emr: Emr, state: str) -> None:
    fault = {"kind": "step_failure", "cluster": "hit", "step": "st*", "becomes": state}
    emr.aws.set_faults([{**fault, "reason": "someone was here"}])
    cluster, other = emr.start(Name="hit"), emr.start(Name="spared")

    (hit,) = emr.add(cluster, "sleep 60")
    (spared,) = emr.add(other, "sleep 0.3")
    status = emr.await_step(cluster, hit, state)["Status"]

    told = status.get("FailureDetails") or status["StateChangeReason"]
    assert told["Message"] == "someone was here"
    emr.await_step(other, spared, "COMPLETED")
    emr.await_state(cluster, "WAITING")


def test_a_plan_that_emr_could_not_mean_is_refused(emr: Emr) -> None:
    with pytest.raises(LocalAwsError) as caught:
        emr.aws.set_faults(
            [
                {"kind": "cluster_failure", "state": "TERMINATED", "code": "BAD_LUCK"},
                {"kind": "step_failure", "becomes": "COMPLETED"},
                {"kind": "core_loss", "nodes": 0},
            ]
        )

    for word in ("STARTING, BOOTSTRAPPING", "BAD_LUCK", "COMPLETED", "nodes must be at least 1"):
        assert word in str(caught.value)


def test_the_audit_tells_when_clusters_and_steps_were_made_told_to_end_and_over(emr: Emr) -> None:
    began = time.time()
    cluster = emr.start()
    first, second, third = emr.add(cluster, "true", "sleep 60", "sleep 60")
    emr.await_step(cluster, second, "RUNNING")
    untold = audited(emr, cluster)

    emr.client.cancel_steps(ClusterId=cluster, StepIds=[second])
    emr.await_step(cluster, third, "RUNNING")
    emr.client.terminate_job_flows(JobFlowIds=[cluster])
    emr.await_state(cluster, "TERMINATED")
    told = audited(emr, cluster)

    assert (untold["times"]["told"], untold["times"]["ended"]) == (None, None)
    assert began - 1 < told["times"]["created"] < told["times"]["told"] < told["times"]["ended"]
    times = {step["id"]: step["times"] for step in told["steps"]}
    assert times[first]["told"] is None
    assert times[first]["ended"] < times[second]["told"] <= times[second]["ended"]
    # with its cluster
    assert times[third]["told"] == pytest.approx(told["times"]["told"], abs=0.1)


def test_a_refused_termination_tells_nothing(emr: Emr) -> None:
    cluster = emr.start(Instances={"TerminationProtected": True})

    with pytest.raises(emr.client.exceptions.ClientError):
        emr.client.terminate_job_flows(JobFlowIds=[cluster])

    assert audited(emr, cluster)["times"]["told"] is None


def test_the_audit_tells_when_jobs_were_made_told_to_end_and_over(batch: Batch) -> None:
    began = time.time()
    done = batch.submit("true")
    batch.succeeded(done)
    array = batch.submit("sleep 60", arrayProperties={"size": 2})
    batch.await_state(f"{array}:1", "RUNNING")

    batch.client.terminate_job(jobId=array, reason="enough")
    batch.ended(array)
    times = {job["id"]: job["times"] for job in batch.aws.jobs()}

    assert times[done]["told"] is None
    assert began - 1 < times[done]["created"] <= times[done]["ended"]
    assert times[array]["created"] < times[f"{array}:1"]["told"] <= times[f"{array}:1"]["ended"]
    assert times[array]["told"] == pytest.approx(times[f"{array}:0"]["told"], abs=0.1)
