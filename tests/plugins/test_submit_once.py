"""One submission, one external job, whatever dies and whatever AWS answers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from aws_jobs.exceptions import TaskKilled
from aws_jobs.operators.emr import EmrCreateClusterOperator, EmrStepOperator, EmrSubmitStepsOperator
from aws_jobs.submit_once import STATE_KEY, HeldStore, Interruption, Patience
from localaws.process import LocalAws
from tests.plugins.conftest import live_clusters
from tests.plugins.harness import TaskInstance, TaskStateStore, bash_step, job_flow, run, start


class Died(BaseException):
    """The process is gone: nothing after this line runs."""


def create(**arguments: Any) -> EmrCreateClusterOperator:
    return EmrCreateClusterOperator(
        task_id="create", job_flow=job_flow(), wait_until_ready=False, **arguments
    )


def step(cluster_id: str, script: str = "sleep 30") -> EmrStepOperator:
    return EmrStepOperator(task_id="step", cluster_id=cluster_id, step=bash_step(script))


def started(aws: LocalAws, operation: str = "RunJobFlow") -> int:
    return aws.calls().get("emr", {}).get(operation, {}).get("200", 0)


def dies(
    operator: Any, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch, *, with_id: bool
) -> None:
    """Run a task that dies as it writes its memory: the claim, or the id."""

    def on_set(key: str, value: dict[str, Any]) -> None:
        if bool(value["external_ids"]) == with_id:
            raise Died

    ti.store.on_set = on_set
    # The dead have no last wishes.
    with monkeypatch.context() as dying:
        dying.setattr(
            EmrCreateClusterOperator, "_end_what_was_made", lambda self, context, error: None
        )
        with pytest.raises(Died):
            start(operator, ti)
    ti.store.on_set = lambda key, value: None


def end(aws: LocalAws, cluster_id: str) -> None:
    """Terminate a cluster and wait until it shows: EMR takes a moment."""
    aws.client("emr").terminate_job_flows(JobFlowIds=[cluster_id])
    wait_for_the_end(aws, cluster_id)


def wait_for_the_end(aws: LocalAws, cluster_id: str) -> None:
    give_up = time.monotonic() + 10
    while cluster_id in live_clusters(aws) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert cluster_id not in live_clusters(aws)


def test_death_before_the_claim_submits_once(
    aws: LocalAws, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(create(), ti, monkeypatch, with_id=False)
    assert started(aws) == 0

    ti.retry()
    run(create(), ti)

    assert started(aws) == 1


def test_death_between_the_call_and_the_memory_adopts_the_cluster(
    aws: LocalAws, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(create(), ti, monkeypatch, with_id=True)
    assert started(aws) == 1

    ti.retry()
    cluster_id = run(create(), ti)

    assert started(aws) == 1
    assert [cluster["id"] for cluster in aws.clusters() if cluster["id"] == cluster_id]


def test_death_between_the_call_and_the_memory_adopts_it_although_listings_lag(
    aws: LocalAws, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.set_faults(
        [{"service": "emr", "operation": "ListClusters", "kind": "listing_lag", "seconds": 0.8}]
    )
    dies(create(), ti, monkeypatch, with_id=True)

    ti.retry()
    run(create(), ti)

    assert started(aws) == 1


def test_a_claim_without_a_cluster_submits_after_the_grace(
    aws: LocalAws, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died after the claim, before the call."""
    aws.set_faults(
        [{"service": "emr", "operation": "RunJobFlow", "kind": "throttle", "share": 1.0}]
    )
    with monkeypatch.context() as impatient:
        impatient.setattr(
            EmrCreateClusterOperator, "patience", Patience(submit_budget=0.5, lookup_grace=0.5)
        )
        with pytest.raises(Exception, match="Rate exceeded"):
            start(create(), ti)
    aws.set_faults([])
    assert ti.store.values[STATE_KEY]["external_ids"] is None

    ti.retry()
    run(create(), ti)

    assert started(aws) == 1


def test_a_lost_answer_is_looked_up_and_not_repeated(aws: LocalAws, ti: TaskInstance) -> None:
    aws.set_faults(
        [{"service": "emr", "operation": "RunJobFlow", "kind": "lost_answer", "count": 1}]
    )

    cluster_id = run(create(), ti)

    assert aws.count("emr", "RunJobFlow") == 1
    assert cluster_id in {cluster["id"] for cluster in aws.clusters()}


def test_an_error_without_effect_is_repeated_after_a_look(aws: LocalAws, ti: TaskInstance) -> None:
    aws.set_faults([{"service": "emr", "operation": "RunJobFlow", "kind": "error", "count": 1}])

    run(create(), ti)

    assert started(aws) == 1
    assert aws.count("emr", "ListClusters") >= 1


def test_a_throttled_call_is_repeated_without_a_look(aws: LocalAws, ti: TaskInstance) -> None:
    aws.set_faults([{"service": "emr", "operation": "RunJobFlow", "kind": "throttle", "count": 2}])

    run(create(), ti)

    assert started(aws) == 1
    assert aws.count("emr", "RunJobFlow") == 3
    assert aws.count("emr", "ListClusters") == 0


def test_a_call_that_did_not_reach_aws_is_repeated_without_a_look(
    aws: LocalAws,
    ti: TaskInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from botocore.exceptions import EndpointConnectionError

    operator = create()
    reached, tries = operator.emr.run_job_flow, []

    def run_job_flow(**request: Any) -> Any:
        tries.append(request)
        if len(tries) < 3:
            raise EndpointConnectionError(endpoint_url=aws.endpoint_url)
        return reached(**request)

    monkeypatch.setattr(operator.emr, "run_job_flow", run_job_flow)

    run(operator, ti)

    assert started(aws) == 1
    assert aws.count("emr", "ListClusters") == 0
    told = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert sum("Asking AWS again" in each and aws.endpoint_url in each for each in told) == 2


def test_the_normal_path_makes_one_call(aws: LocalAws, ti: TaskInstance) -> None:
    run(create(), ti)

    assert aws.calls()["emr"] == {"RunJobFlow": {"200": 1}}


def test_a_refused_job_flow_is_not_repeated(aws: LocalAws, ti: TaskInstance) -> None:
    operator = EmrCreateClusterOperator(
        task_id="create", job_flow=job_flow(ReleaseLabel="emr-99.0.0"), wait_until_ready=False
    )

    with pytest.raises(Exception, match=r"emr-99\.0\.0"):
        start(operator, ti)

    assert aws.count("emr", "RunJobFlow") == 1


def test_a_retry_reconnects_to_the_cluster(aws: LocalAws, ti: TaskInstance) -> None:
    operator = EmrCreateClusterOperator(task_id="create", job_flow=job_flow())
    first = start(operator, ti)

    ti.retry()
    second = start(operator, ti)

    assert first.trigger.cluster_id == second.trigger.cluster_id
    assert started(aws) == 1


def test_a_retry_after_the_cluster_ended_starts_the_next_generation(
    aws: LocalAws, ti: TaskInstance
) -> None:
    first = run(create(), ti)
    end(aws, first)

    ti.retry()
    second = run(create(), ti)

    assert first != second
    assert ti.store.values[STATE_KEY]["generation"] == 1


def test_a_job_that_was_found_dead_is_not_found_again(
    aws: LocalAws, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two deaths in a row: the second look-up must find the second cluster, not the dead first."""
    dies(create(), ti, monkeypatch, with_id=True)
    (first,) = [
        each["id"] for each in aws.clusters() if each["tags"].get("aws-jobs:run") == ti.run_id
    ]
    end(aws, first)
    ti.retry()
    ti.store.values[STATE_KEY] |= {"external_ids": None}
    second_call = {"service": "emr", "operation": "RunJobFlow", "kind": "lost_answer", "count": 1}
    aws.set_faults([second_call])

    second = run(create(), ti)

    assert second != first
    assert started(aws) + aws.calls()["emr"]["RunJobFlow"].get("lost", 0) == 2
    # Its name is another, so that a listing that still lags cannot show the dead one in its place.
    assert ti.store.values[STATE_KEY]["generation"] == 1


def test_a_clear_is_seen_although_retries_were_lowered(aws: LocalAws, ti: TaskInstance) -> None:
    first = start(EmrCreateClusterOperator(task_id="create", job_flow=job_flow()), ti)

    ti.retries = 0
    ti.clear()
    second = start(EmrCreateClusterOperator(task_id="create", job_flow=job_flow()), ti)

    assert ti.max_tries == 1
    assert first.trigger.cluster_id != second.trigger.cluster_id


def test_a_clear_starts_anew_and_ends_what_it_left(aws: LocalAws, ti: TaskInstance) -> None:
    operator = EmrCreateClusterOperator(task_id="create", job_flow=job_flow())
    first = start(operator, ti).trigger.cluster_id

    ti.clear()
    second = start(operator, ti).trigger.cluster_id

    wait_for_the_end(aws, first)
    assert second in live_clusters(aws)


def test_a_clear_after_death_between_call_and_memory_ends_the_unknown_cluster(
    aws: LocalAws, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(create(), ti, monkeypatch, with_id=True)

    ti.clear()
    cluster_id = run(create(), ti)

    mine = [c for c in aws.clusters() if c["tags"].get("aws-jobs:run") == ti.run_id]
    living = [c["id"] for c in mine if not c["state"].startswith("TERMINAT")]
    assert cluster_id in living
    assert started(aws) == 2


def test_the_clear_of_another_task_is_a_retry_for_this_one(aws: LocalAws, ti: TaskInstance) -> None:
    operator = EmrCreateClusterOperator(task_id="create", job_flow=job_flow())
    first = start(operator, ti).trigger.cluster_id

    ti.clear_of_another_task()
    ti.retry()
    second = start(operator, ti).trigger.cluster_id

    assert first == second


def test_the_clear_of_a_finished_task_is_seen_although_max_tries_stays(
    aws: LocalAws, ti: TaskInstance
) -> None:
    first = run(create(), ti)

    ti.clear(running=True)
    second = run(create(), ti)

    assert first != second


def test_two_map_indexes_are_two_jobs(aws: LocalAws, cluster_id: str) -> None:
    one, two = TaskInstance("step"), TaskInstance("step")
    one.map_index, two.map_index = 0, 1

    first, second = start(step(cluster_id), one), start(step(cluster_id), two)

    assert first.trigger.step_id != second.trigger.step_id


def test_a_step_is_adopted_by_the_run_key_in_its_name(
    aws: LocalAws, cluster_id: str, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(step(cluster_id), ti, monkeypatch, with_id=True)

    ti.retry()
    deferred = start(step(cluster_id), ti)

    assert started(aws, "AddJobFlowSteps") == 1
    steps = aws.client("emr").list_steps(ClusterId=cluster_id)["Steps"]
    assert [each["Id"] for each in steps] == [deferred.trigger.step_id]


def test_a_step_of_another_cluster_is_submitted_again(aws: LocalAws, ti: TaskInstance) -> None:
    emr = aws.client("emr")
    old = emr.run_job_flow(**job_flow())["JobFlowId"]
    new = emr.run_job_flow(**job_flow())["JobFlowId"]
    start(step(old), ti)

    ti.retry()
    deferred = start(step(new), ti)

    assert deferred.trigger.cluster_id == new
    assert len(emr.list_steps(ClusterId=new)["Steps"]) == 1


def test_steps_that_are_submitted_together_come_back_in_their_order(
    aws: LocalAws, cluster_id: str, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [bash_step("sleep 30", name=f"step {number}") for number in range(3)]
    operator = EmrSubmitStepsOperator(task_id="submit", cluster_id=cluster_id, steps=steps)
    dies(operator, ti, monkeypatch, with_id=True)

    ti.retry()
    step_ids = start(operator, ti)

    listed = aws.client("emr").list_steps(ClusterId=cluster_id)["Steps"]
    assert step_ids == [each["Id"] for each in reversed(listed)]
    assert started(aws, "AddJobFlowSteps") == 1


def test_a_kill_waits_until_the_answer_is_remembered() -> None:
    interruption = Interruption()
    seen = []

    def submit() -> None:
        with interruption.held_back():
            interruption.kill()
            seen.append("remembered")

    with pytest.raises(TaskKilled):
        submit()
    assert seen == ["remembered"]


def test_a_kill_during_a_call_that_fails_is_not_forgotten() -> None:
    interruption = Interruption()

    def submit() -> None:
        with interruption.held_back():
            interruption.kill()
            raise ConnectionError("throttled, or timed out")

    with pytest.raises(TaskKilled):
        submit()


def test_a_kill_does_not_tear_what_the_task_says_to_its_supervisor() -> None:
    interruption = Interruption()
    store = TaskStateStore()
    store.on_set = lambda key, value: interruption.kill()

    with pytest.raises(TaskKilled):
        HeldStore(store, interruption).set("key", "value", retention=None)

    assert store.values == {"key": "value"}


def test_a_kill_at_any_other_time_stops_at_once() -> None:
    with pytest.raises(TaskKilled):
        Interruption().kill()
