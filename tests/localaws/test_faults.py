"""The fault plan and the counter: localaws misbehaves as it is told, and tells who asked what."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from localaws.faults import Fault, FaultPlan, FaultPlanError
from localaws.process import LocalAws, LocalAwsError
from localaws.quotas import BATCH_QUOTAS, EMR_QUOTAS
from tests.localaws.conftest import Emr, until

ONCE = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
LIST = {"service": "emr", "operation": "ListClusters"}


@pytest.fixture
def once(aws: LocalAws) -> Any:
    """A client that makes one attempt."""
    return aws.client("emr", **ONCE)


def error_of(call: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def outcomes(call: Any, number: int) -> list[bool]:
    results = []
    for _ in range(number):
        try:
            call()
            results.append(True)
        except ClientError:
            results.append(False)
    return results


def test_every_call_is_counted_with_what_it_was_answered(aws: LocalAws, once: Any) -> None:
    once.list_clusters()
    once.list_clusters()
    error_of(lambda: once.describe_cluster(ClusterId="j-NONE"))
    aws.client("s3").list_buckets()

    assert aws.calls() == {
        "emr": {"DescribeCluster": {"400": 1}, "ListClusters": {"200": 2}},
        "s3": {"ListBuckets": {"200": 1}},
    }
    assert aws.count("emr", "ListClusters") == 2


def test_what_localaws_asks_itself_is_not_counted(emr: Emr) -> None:
    cluster = emr.start()
    (step,) = emr.add(cluster, "true")
    emr.await_step(cluster, step, "COMPLETED")

    assert emr.log(cluster, "steps", step, "stdout") == ""
    assert emr.aws.calls()["s3"] == {"GetObject": {"200": 1}}


def test_a_throttled_call_is_refused_as_aws_does_it(aws: LocalAws, once: Any) -> None:
    aws.set_faults([{**LIST, "kind": "throttle"}])

    with pytest.raises(ClientError, match=r"\(ThrottlingException\).*Rate exceeded"):
        once.list_clusters()

    assert aws.calls() == {"emr": {"ListClusters": {"400": 1}}}


@pytest.mark.parametrize(
    ("service", "call", "expected"),
    [
        ("emr", "list_clusters", (400, "ThrottlingException")),
        ("s3", "list_buckets", (503, "SlowDown")),
        ("iam", "list_roles", (400, "Throttling")),
        ("batch", "describe_job_queues", (429, "TooManyRequestsException")),
        ("ec2", "describe_vpcs", (400, "Throttling")),
    ],
)
def test_each_service_throttles_in_its_own_words(
    aws: LocalAws, service: str, call: str, expected: tuple[int, str]
) -> None:
    aws.set_faults([{"service": service, "kind": "throttle"}])

    assert error_of(getattr(aws.client(service, **ONCE), call)) == expected


def test_a_fault_strikes_only_its_operation(aws: LocalAws, once: Any) -> None:
    aws.set_faults([{"service": "emr", "operation": "DescribeCluster", "kind": "throttle"}])

    once.list_clusters()

    assert error_of(lambda: once.describe_cluster(ClusterId="j-1"))[1] == "ThrottlingException"


def test_a_fault_skips_and_counts(aws: LocalAws, once: Any) -> None:
    aws.set_faults([{**LIST, "kind": "throttle", "skip": 1, "count": 2}])

    assert outcomes(once.list_clusters, 5) == [True, False, False, True, True]
    (fault,) = aws.faults()
    assert (fault["seen"], fault["struck"]) == (5, 2)


def test_a_share_of_the_calls_is_struck_and_the_same_ones_each_time(
    aws: LocalAws, once: Any
) -> None:
    plan = [{**LIST, "kind": "throttle", "share": 0.5, "seed": 3}]

    aws.set_faults(plan)
    first = outcomes(once.list_clusters, 20)
    aws.set_faults(plan)
    second = outcomes(once.list_clusters, 20)

    assert first == second
    assert 4 < sum(first) < 16


def test_a_token_bucket_lets_a_burst_pass_and_then_what_is_refilled(
    aws: LocalAws, once: Any
) -> None:
    aws.set_faults([{**LIST, "kind": "throttle", "burst": 3, "refill": 2.0}])

    burst = outcomes(once.list_clusters, 4)
    time.sleep(0.6)
    later = outcomes(once.list_clusters, 2)

    assert burst == [True, True, True, False]
    assert later == [True, False]


def test_an_error_is_answered_without_effect(aws: LocalAws, emr: Emr) -> None:
    client = aws.client("emr", **ONCE)
    emr.client = client
    before = len(aws.clusters())
    aws.set_faults(
        [{"service": "emr", "operation": "RunJobFlow", "kind": "error", "status": 503, "code": "X"}]
    )

    assert error_of(emr.start) == (503, "X")
    assert len(aws.clusters()) == before
    assert aws.calls()["emr"] == {"RunJobFlow": {"503": 1}}


def test_a_lost_answer_leaves_the_effect(aws: LocalAws, emr: Emr) -> None:
    emr.client = aws.client("emr", **ONCE)
    before = len(aws.clusters())
    aws.set_faults([{"service": "emr", "operation": "RunJobFlow", "kind": "lost_answer"}])

    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        emr.start()

    assert len(aws.clusters()) == before + 1
    assert aws.calls()["emr"] == {"RunJobFlow": {"lost": 1}}


def test_a_lost_answer_may_come_as_a_5xx(aws: LocalAws, emr: Emr) -> None:
    emr.client = aws.client("emr", **ONCE)
    before = len(aws.clusters())
    aws.set_faults(
        [{"service": "emr", "operation": "RunJobFlow", "kind": "lost_answer", "status": 500}]
    )

    assert error_of(emr.start) == (500, "InternalServerError")
    assert len(aws.clusters()) == before + 1


def test_a_botocore_that_retries_makes_two_clusters_of_a_lost_answer(
    aws: LocalAws, emr: Emr
) -> None:
    before = len(aws.clusters())
    aws.set_faults(
        [{"service": "emr", "operation": "RunJobFlow", "kind": "lost_answer", "count": 1}]
    )

    emr.start()

    assert len(aws.clusters()) == before + 2
    assert aws.calls()["emr"]["RunJobFlow"] == {"200": 1, "lost": 1}


def test_a_reset_has_no_effect(aws: LocalAws, emr: Emr) -> None:
    emr.client = aws.client("emr", **ONCE)
    before = len(aws.clusters())
    aws.set_faults([{"service": "emr", "operation": "RunJobFlow", "kind": "reset"}])

    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        emr.start()

    assert len(aws.clusters()) == before


def test_a_delay_holds_up_nobody_else(aws: LocalAws, once: Any) -> None:
    aws.set_faults([{**LIST, "kind": "delay", "seconds": 3, "count": 1}])
    began = time.monotonic()
    slow = threading.Thread(target=once.list_clusters)

    slow.start()
    time.sleep(0.1)
    aws.client("emr", **ONCE).list_clusters()
    quick = time.monotonic() - began
    slow.join()

    assert quick < 2.5
    assert time.monotonic() - began >= 3


def test_what_was_just_made_does_not_show_in_a_listing_that_lags(emr: Emr) -> None:
    old = emr.start()
    emr.await_state(old, "WAITING")
    (early,) = emr.add(old, "true")
    emr.await_step(old, early, "COMPLETED")
    time.sleep(1.1)
    emr.aws.set_faults([{"service": "emr", "kind": "listing_lag", "seconds": 1.0}])

    new = emr.start()
    (late,) = emr.add(old, "sleep 5")
    listed = {c["Id"] for c in emr.client.list_clusters()["Clusters"]}
    steps = [s["Id"] for s in emr.client.list_steps(ClusterId=old)["Steps"]]
    by_id = emr.client.list_steps(ClusterId=old, StepIds=[late, early])["Steps"]
    described = emr.step(old, late)["Id"]
    time.sleep(1.1)
    later = {c["Id"] for c in emr.client.list_clusters()["Clusters"]}

    assert old in listed
    assert new not in listed
    assert steps == [early]
    assert [s["Id"] for s in by_id] == [early]
    assert described == late
    assert {old, new} <= later


def test_faults_can_be_cleared(aws: LocalAws, once: Any) -> None:
    aws.set_faults([{**LIST, "kind": "throttle"}])

    aws.clear_faults()

    assert aws.faults() == []
    once.list_clusters()


def test_a_plan_that_cannot_be_meant_is_refused_and_the_old_one_stays(aws: LocalAws) -> None:
    aws.set_faults([{**LIST, "kind": "throttle"}])

    with pytest.raises(LocalAwsError) as caught:
        aws.set_faults([{"kind": "explode", "share": 2, "count": "many", "operaton": "X"}])

    for word in ("explode", "share", "count", "operaton"):
        assert word in str(caught.value)
    assert [f["kind"] for f in aws.faults()] == ["throttle"]


def test_an_unknown_control_request_says_so(aws: LocalAws) -> None:
    with pytest.raises(LocalAwsError, match="not known"):
        aws._control("GET", "nonsense")
    with pytest.raises(LocalAwsError, match="takes GET"):
        aws._control("PUT", "health", {})


def test_the_first_refusal_wins_and_delays_add_up() -> None:
    plan = FaultPlan()
    plan.replace(
        [
            {"kind": "delay", "seconds": 1},
            {"kind": "delay", "seconds": 2},
            {"kind": "late_answer", "seconds": 4},
            {"kind": "error"},
            {"kind": "throttle"},
            {"kind": "listing_lag", "seconds": 9, "service": "emr"},
        ]
    )

    verdict = plan.judge("emr", "ListSteps")
    other = plan.judge("emr", "DescribeStep")

    assert verdict.refusal is not None
    assert verdict.refusal.kind == "error"
    assert (verdict.delay, verdict.late, verdict.listing_lag, other.listing_lag) == (3, 4, 9, 0)


def test_a_plan_is_a_list() -> None:
    with pytest.raises(FaultPlanError, match="JSON list"):
        FaultPlan().replace({"kind": "throttle"})


def test_a_fault_without_a_share_strikes_always() -> None:
    fault = Fault.from_spec({"kind": "error", "share": None})

    assert all(fault.strikes() for _ in range(50))


def test_a_late_answer_is_one_to_a_call_that_took_effect_at_once(aws: LocalAws, emr: Emr) -> None:
    emr.client = aws.client("emr", **ONCE)
    before = len(aws.clusters())
    aws.set_faults(
        [{"service": "emr", "operation": "RunJobFlow", "kind": "late_answer", "seconds": 1.5}]
    )
    began = time.monotonic()
    asking = threading.Thread(target=emr.start)

    asking.start()
    until(lambda: len(aws.clusters()) == before + 1, "the cluster", timeout=1.2)
    took_effect = time.monotonic() - began
    asking.join()

    assert took_effect < 1.5 <= time.monotonic() - began


def test_the_quotas_let_a_burst_of_each_call_pass_and_all_together_25(
    aws: LocalAws, once: Any
) -> None:
    aws.set_faults([*EMR_QUOTAS, *BATCH_QUOTAS])
    cluster = "j-NONE"

    def throttled(call: Any, number: int) -> int:
        return sum(error_of(call)[1] == "ThrottlingException" for _ in range(number))

    protect = throttled(
        lambda: once.set_termination_protection(JobFlowIds=[cluster], TerminationProtected=True), 7
    )
    step = throttled(lambda: once.describe_step(ClusterId=cluster, StepId="s-NONE"), 12)
    others = throttled(lambda: once.list_bootstrap_actions(ClusterId=cluster), 15)

    assert 1 <= protect <= 2
    assert 1 <= step <= 2
    assert others >= 5
