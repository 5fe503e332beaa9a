"""Triggers: what they survive, and what all of them together ask of AWS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from airflow.sdk._shared.module_loading import import_string

from aws_jobs import emr_polling
from aws_jobs.cluster_lease import Lease
from aws_jobs.emr_polling import CLUSTERS, EmrAsk
from aws_jobs.polling import Sweep, watchlist
from aws_jobs.triggers.emr import EmrClusterTrigger, EmrPoolTrigger, EmrStepTrigger, EmrTrigger
from aws_jobs.triggers.s3 import S3ObjectTrigger
from localaws.process import LocalAws
from tests.plugins.harness import bash_step, first_event, job_flow, wait_together


def arguments(**overrides: Any) -> dict[str, Any]:
    return {
        "aws_conn_id": "aws_default",
        "region": "us-east-1",
        "quota_share": 1.0,
        "deadline": time.time() + 60,
        "unseen_seconds": 1.0,
        "interval": 1.0,
        "end_on_kill": False,
        **overrides,
    }


def cluster_trigger(cluster_id: str = "j-1", **overrides: Any) -> EmrClusterTrigger:
    target = overrides.pop("target", "ready")
    return EmrClusterTrigger(cluster_id=cluster_id, target=target, **arguments(**overrides))


def step_trigger(cluster_id: str = "j-1", step_id: str = "s-1", **overrides: Any) -> EmrStepTrigger:
    queued_until = overrides.pop("queued_until", time.time() + 60)
    running_seconds = overrides.pop("running_seconds", 60)
    return EmrStepTrigger(
        cluster_id=cluster_id,
        step_id=step_id,
        queued_until=queued_until,
        running_seconds=running_seconds,
        **arguments(**overrides),
    )


def hear(trigger: EmrTrigger, *statuses: dict[str, Any] | None) -> Any:
    """Run a trigger on sweeps that bring these statuses of what it watches."""

    async def stream() -> AsyncIterator[Sweep]:
        for status in statuses:
            yield Sweep({(trigger.watch.group, trigger.watch.item): status})

    return asyncio.run(first_event(trigger, stream()))


@pytest.mark.parametrize(
    "trigger",
    [
        cluster_trigger(),
        step_trigger(),
        step_trigger(lease={"table": "t", **Lease("j-1", "a/b/c/-1", "use").arguments()}),
        EmrPoolTrigger(
            table="t",
            pool_id="p",
            deadline=1.0,
            interval=1.0,
            aws_conn_id=None,
            region=None,
        ),
        S3ObjectTrigger(
            bucket="b",
            key="k",
            deadline=1.0,
            interval=1.0,
            aws_conn_id=None,
            region=None,
        ),
    ],
    ids=lambda trigger: type(trigger).__name__,
)
def test_a_trigger_survives_the_trip_through_the_triggerer(trigger: Any) -> None:
    path, kwargs = trigger.serialize()

    again = import_string(path)(**kwargs)

    assert path == f"{type(trigger).__module__}.{type(trigger).__name__}"
    assert again.serialize() == (path, kwargs)


@pytest.mark.parametrize(
    ("state", "target", "outcome"),
    [
        ("STARTING", "ready", None),
        ("BOOTSTRAPPING", "ready", None),
        ("RUNNING", "ready", "ready"),
        ("WAITING", "ready", "ready"),
        ("TERMINATING", "ready", "ended"),
        ("TERMINATED", "ready", "ended"),
        ("TERMINATED_WITH_ERRORS", "ready", "ended"),
        ("WAITING", "ended", None),
        ("TERMINATING", "ended", None),
        ("TERMINATED", "ended", "ended"),
        ("TERMINATED_WITH_ERRORS", "ended", "ended"),
    ],
)
def test_each_state_of_a_cluster_has_one_meaning(
    state: str, target: str, outcome: str | None
) -> None:
    event = hear(cluster_trigger(target=target), {"State": state})

    assert event == (outcome and {"outcome": outcome, "state": state})


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("PENDING", None),
        ("RUNNING", None),
        ("CANCEL_PENDING", None),
        ("COMPLETED", "ended"),
        ("CANCELLED", "ended"),
        ("FAILED", "ended"),
        ("INTERRUPTED", "ended"),
    ],
)
def test_each_state_of_a_step_has_one_meaning(state: str, outcome: str | None) -> None:
    event = hear(step_trigger(), {"State": state, "StartedAt": None})

    assert event == (outcome and {"outcome": outcome, "state": state})


def test_a_step_has_a_budget_for_its_queue() -> None:
    trigger = step_trigger(queued_until=time.time() - 1)

    assert hear(trigger, {"State": "PENDING", "StartedAt": None})["outcome"] == "timeout"
    assert hear(trigger, {"State": "RUNNING", "StartedAt": time.time()}) is None


def test_a_step_has_a_budget_for_its_run_from_when_it_started() -> None:
    trigger = step_trigger(running_seconds=10)

    assert hear(trigger, {"State": "RUNNING", "StartedAt": time.time() - 5}) is None
    late = hear(trigger, {"State": "RUNNING", "StartedAt": time.time() - 11})
    assert late["outcome"] == "timeout"


def test_the_deadline_ends_the_wait_although_aws_is_silent() -> None:
    trigger = cluster_trigger(deadline=time.time() - 1)

    async def silence() -> AsyncIterator[Sweep]:
        yield Sweep()

    assert asyncio.run(first_event(trigger, silence()))["outcome"] == "timeout"


def test_what_was_known_once_is_no_reason_to_give_up_later() -> None:
    """One look, then silence: only the deadline ends the wait."""
    pending = step_trigger(queued_until=time.time() + 0.2)
    unknown = cluster_trigger(unseen_seconds=0.2)

    async def one_look_then_silence(status: dict[str, Any] | None, trigger: EmrTrigger) -> Any:
        async def stream() -> AsyncIterator[Sweep]:
            yield Sweep({(trigger.watch.group, trigger.watch.item): status})
            await asyncio.sleep(0.3)
            yield Sweep()

        return await first_event(trigger, stream())

    queued = {"State": "PENDING", "StartedAt": None}
    assert asyncio.run(one_look_then_silence(queued, pending)) is None
    assert asyncio.run(one_look_then_silence(None, unknown)) is None


def test_an_event_waits_until_airflow_has_noted_the_deferral(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__AWS_JOBS__SETTLE_SECONDS", "0.5")
    began = time.monotonic()

    hear(cluster_trigger(), {"State": "WAITING"})

    assert time.monotonic() - began >= 0.5


def test_an_id_that_may_not_be_asked_for_does_not_hide_its_neighbours() -> None:
    from botocore.exceptions import ClientError

    class Emr:
        def describe_cluster(self, **arguments: str) -> dict[str, Any]:
            if arguments["ClusterId"] == "j-THEIRS":
                error = {"Code": "AccessDeniedException", "Message": "not yours"}
                raise ClientError({"Error": error}, "DescribeCluster")  # type: ignore[typeddict-item]
            return {"Cluster": {"Id": arguments["ClusterId"], "Status": {"State": "WAITING"}}}

    async def ask() -> dict[Any, Any]:
        emr = EmrAsk(None, None, 1.0)
        emr._client = Emr()
        wanted = ["j-1", "j-2", "j-THEIRS", "j-3"]
        return {k: v async for sweep in emr(CLUSTERS, wanted) for k, v in sweep.states.items()}

    states = asyncio.run(ask())

    assert states.pop((CLUSTERS, "j-THEIRS")) == "not yours"
    assert [state["State"] for state in states.values()] == ["WAITING"] * 3


def test_quotas_hold_from_one_stream_to_the_next(aws: LocalAws, cluster_id: str) -> None:
    for _ in range(3):
        asyncio.run(first_event(cluster_trigger(cluster_id)))

    assert len(emr_polling._asks) == 1


def test_an_unknown_id_is_given_time_to_appear(aws: LocalAws) -> None:
    started = time.monotonic()

    event = asyncio.run(first_event(cluster_trigger("j-UNKNOWN")))

    assert event == {"outcome": "unseen", "state": None}
    assert time.monotonic() - started >= 1.0


def test_an_id_that_appears_late_is_waited_for() -> None:
    assert hear(cluster_trigger(), None, {"State": "WAITING"})["outcome"] == "ready"


def test_a_waiter_that_leaves_is_not_asked_for_any_more(aws: LocalAws, cluster_id: str) -> None:
    trigger = cluster_trigger(cluster_id)

    asyncio.run(first_event(trigger))

    assert not watchlist(trigger.shared_stream_key()).groups()


def test_many_waiters_share_their_calls(aws: LocalAws, cluster_id: str) -> None:
    """60 steps of one cluster, waited for 3 s: one call for ten steps and sweep."""
    emr = aws.client("emr")
    steps = [bash_step("sleep 2", name=f"step {number}") for number in range(60)]
    step_ids = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]
    for later in step_ids[1:]:
        emr.cancel_steps(ClusterId=cluster_id, StepIds=[later])
    aws.reset_calls()
    events = asyncio.run(wait_together([step_trigger(cluster_id, each) for each in step_ids]))

    assert [event["outcome"] for event in events] == ["ended"] * 60
    assert 6 <= aws.count("emr", "ListSteps") <= 6 * 6
    assert set(aws.calls()["emr"]) == {"ListSteps"}


def test_many_clusters_are_listed_and_not_described_each(aws: LocalAws) -> None:
    emr = aws.client("emr")
    cluster_ids = [emr.run_job_flow(**job_flow())["JobFlowId"] for _ in range(12)]
    triggers = [cluster_trigger(each, target="ended") for each in cluster_ids]
    aws.reset_calls()

    async def end_them_later() -> None:
        await asyncio.sleep(4)
        for start in range(0, len(cluster_ids), 10):
            emr.terminate_job_flows(JobFlowIds=cluster_ids[start : start + 10])

    events = asyncio.run(wait_together(triggers, end_them_later()))

    assert [event["outcome"] for event in events] == ["ended"] * 12
    assert aws.count("emr", "DescribeCluster") <= 2 * 12
    assert aws.count("emr", "ListClusters") >= 2


def test_an_unknown_step_does_not_hide_its_neighbours(aws: LocalAws, cluster_id: str) -> None:
    emr = aws.client("emr")
    steps = [bash_step("true")]
    known = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"][0]

    events = asyncio.run(
        wait_together([step_trigger(cluster_id, known), step_trigger(cluster_id, "s-UNKNOWN")])
    )

    assert [event["outcome"] for event in events] == ["ended", "unseen"]
