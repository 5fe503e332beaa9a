"""Runs that share clusters: who joins, who ends them, and what becomes of a try that died."""

from __future__ import annotations

import asyncio
import json
import runpy
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import jinja2
import pytest
from airflow.sdk.exceptions import TaskDeferred
from botocore.exceptions import ClientError

from aws_jobs import cluster_lease
from aws_jobs.aws_clients import aws_client
from aws_jobs.cluster_lease import LeaseError, LeaseTable, SharedCluster, lease_user, user_owner
from aws_jobs.exceptions import (
    ExternalJobError,
    InvalidRequestError,
    SettingsError,
    TaskKilled,
)
from aws_jobs.job_flow import STEP_ACTIVE
from aws_jobs.lease_pool import ClusterReuse
from aws_jobs.lease_renewal import renewing
from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrSubmitStepsOperator,
    EmrTerminateClusterOperator,
)
from aws_jobs.sensors.emr import EmrClusterSensor
from aws_jobs.triggers.emr import EmrClusterTrigger, EmrPoolTrigger
from localaws.process import LocalAws
from tests.plugins.conftest import SETTINGS, live_clusters
from tests.plugins.harness import (
    TaskInstance,
    bash_step,
    first_event,
    job_flow,
    resume,
    run,
    start,
    wait,
)

ROOT = Path(__file__).resolve().parents[2]
TABLE = "local-cluster-leases"


class Died(BaseException):
    """A worker that was killed: no code of the task runs any more."""


class Run:
    """One DAG run with a create task, a step and a teardown."""

    def __init__(self, pool: str, **arguments: Any) -> None:
        self.create_ti = TaskInstance("create")
        self.run_id = self.create_ti.run_id
        self.step_ti, self.end_ti = TaskInstance("step"), TaskInstance("end")
        self.step_ti.run_id = self.end_ti.run_id = self.run_id
        reuse = {name: arguments.pop(name) for name in REUSE if name in arguments}
        flow = job_flow(StepConcurrencyLevel=3, **arguments.pop("flow", {}))
        self.arguments = {
            "job_flow": flow,
            "reuse": ClusterReuse(pool=pool, **reuse),
            # A cluster takes steps while it starts, and a sensor may wait for it.
            "wait_until_ready": False,
            **arguments,
        }

    @property
    def user(self) -> str:
        return lease_user("dag", self.run_id, "create", -1)

    def operator(self) -> EmrCreateClusterOperator:
        return EmrCreateClusterOperator(task_id="create", **self.arguments)

    def create(self) -> str:
        return str(run(self.operator(), self.create_ti))

    def begin_create(self) -> TaskDeferred:
        """Start the create task, and leave it where it waits for its cluster."""
        self.arguments["wait_until_ready"] = True
        deferred = start(self.operator(), self.create_ti)
        assert isinstance(deferred, TaskDeferred)
        return deferred

    def step(self, cluster_id: str, script: str = "true") -> Any:
        return start(self.step_operator(cluster_id, script), self.step_ti)

    def step_operator(self, cluster_id: str, script: str) -> EmrStepOperator:
        return EmrStepOperator(
            task_id="step",
            cluster_id=cluster_id,
            step=bash_step(script),
            poll_interval=timedelta(seconds=1),
        )

    def end(self, cluster_id: str) -> Any:
        """Run the teardown as far as its wait for the end of the cluster, if it ends it."""
        return start(EmrTerminateClusterOperator(task_id="end", cluster_id=cluster_id), self.end_ti)


DENIED = {
    "service": "dynamodb",
    "operation": "*",
    "kind": "error",
    "status": 400,
    "code": "AccessDeniedException",
}
REUSE = ("most_users", "most_steps", "oldest", "lease")


@pytest.fixture(autouse=True)
def _settings(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = {"lookup_grace_seconds": 1, "log_wait_seconds": 1}
    settings = {**SETTINGS, **waits, "leases_table": TABLE}
    monkeypatch.setenv("AIRFLOW_VAR_AWS_JOBS", json.dumps(settings))
    monkeypatch.setattr("aws_jobs.lease_renewal._tables", {})
    # The clients of many tasks in one process: making them is most of what these tests would do.
    client = cache(aws_client)
    for module in ("aws_task", "operators.emr", "lease_renewal", "triggers.shared", "emr_polling"):
        monkeypatch.setattr(f"aws_jobs.{module}.aws_client", client)


@pytest.fixture
def pool() -> str:
    return f"pool-{uuid4()}"


@pytest.fixture
def table(aws: LocalAws) -> LeaseTable:
    return LeaseTable(aws.client("dynamodb"), TABLE)


@pytest.fixture
def live(aws: LocalAws) -> Callable[[], list[str]]:
    return lambda: live_clusters(aws)


def held(table: LeaseTable, cluster_id: str) -> SharedCluster:
    shared = table.cluster(cluster_id)
    assert shared is not None
    return shared


def expire(table: LeaseTable, cluster_id: str, user: str) -> None:
    """Let the time of a lease pass."""
    table.dynamodb.update_item(
        TableName=TABLE,
        Key={"id": {"S": cluster_id}},
        UpdateExpression="SET #users.#me.expires = :past",
        ExpressionAttributeNames={"#users": "users", "#me": user},
        ExpressionAttributeValues={":past": {"N": "1"}},
    )


def change(table: LeaseTable, cluster_id: str, name: str, value: dict[str, Any]) -> None:
    table.dynamodb.update_item(
        TableName=TABLE,
        Key={"id": {"S": cluster_id}},
        UpdateExpression="SET #name = :value",
        ExpressionAttributeNames={"#name": name},
        ExpressionAttributeValues={":value": value},
    )


def test_runs_share_a_cluster_and_the_last_one_ends_it(
    aws: LocalAws, pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    first, second = Run(pool), Run(pool, flow={"Name": "another day"})
    cluster_id = first.create()
    assert second.create() == cluster_id
    assert set(held(table, cluster_id).users) == {first.user, second.user}

    first.end(cluster_id)
    assert live() == [cluster_id]
    assert list(held(table, cluster_id).users) == [second.user]
    stored = table.dynamodb.get_item(TableName=TABLE, Key={"id": {"S": cluster_id}})["Item"]
    assert float(stored["tidy_after"]["N"]) > time.time() + 29 * 86_400
    second.end(cluster_id)

    assert live() == []
    assert held(table, cluster_id).is_closing
    assert aws.count("emr", "RunJobFlow") == 1
    assert aws.count("emr", "TerminateJobFlows") == 1


def test_a_cluster_says_which_pool_it_was_founded_for(aws: LocalAws, pool: str) -> None:
    cluster_id = Run(pool).create()

    tags = aws.client("emr").describe_cluster(ClusterId=cluster_id)["Cluster"]["Tags"]
    assert {"Key": "aws-jobs:pool", "Value": pool} in tags


def test_each_acquisition_has_a_use_of_its_own_which_the_step_hands_over(
    pool: str, live: Callable[[], list[str]]
) -> None:
    first, second = Run(pool), Run(pool)
    cluster_id = first.create()
    second.create()
    uses = [each.create_ti.xcoms["cluster_use"] for each in (first, second)]

    second.step(cluster_id)
    assert second.step_ti.xcoms["cluster_use"] == uses[1]

    second.create_ti.clear()
    assert second.create() == cluster_id
    uses.append(second.create_ti.xcoms["cluster_use"])
    assert len(set(uses)) == 3
    assert all(use.startswith(f"{cluster_id}-") for use in uses)


def test_a_step_of_another_use_is_not_gone_on_with(
    pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    """It hands over the use that it writes to, also where only the create task is cleared."""
    other, cleared = Run(pool), Run(pool)
    cluster_id = other.create()
    cleared.create()
    deferred = cleared.step(cluster_id)
    wait(deferred)
    before = deferred.trigger.step_id
    cleared.step_ti.retry()
    assert cleared.step(cluster_id).trigger.step_id == before

    cleared.create_ti.clear()
    cleared.step_ti.clear_of_another_task()
    assert cleared.create() == cluster_id
    cleared.step_ti.retry()

    assert cleared.step(cluster_id).trigger.step_id != before
    use = held(table, cluster_id).users[cleared.user].use
    assert cleared.step_ti.xcoms["cluster_use"] == f"{cluster_id}-{use}"


@pytest.mark.parametrize(
    "other",
    [
        {"pool": "another"},
        {"flow": {"EbsRootVolumeSize": 55}},
        {"lifetime": timedelta(hours=12)},
    ],
    ids=["pool", "job flow", "lifetime"],
)
def test_only_what_is_alike_is_shared(
    pool: str, other: dict[str, Any], live: Callable[[], list[str]]
) -> None:
    first = Run(pool).create()

    second = Run(other.pop("pool", pool), **other).create()

    assert second != first


def test_a_run_has_a_cluster_once(pool: str) -> None:
    """Else its teardown could not tell whose lease it gives back."""
    first, other_task = Run(pool), Run(pool)
    other_task.create_ti.run_id = first.run_id
    other_task.create_ti.task_id = "create_another"

    assert first.create() != other_task.create()


def test_without_a_pool_a_cluster_is_the_run_s_own(
    aws: LocalAws, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    alone = Run("  ")
    cluster_id = alone.create()
    deferred = alone.step(cluster_id)

    assert table.cluster(cluster_id) is None
    assert "lease" not in deferred.trigger.serialize()[1]
    assert "cluster_use" not in alone.create_ti.xcoms | alone.step_ti.xcoms
    alone.end(cluster_id)
    assert live() == []


def test_without_a_table_dynamodb_is_not_called(
    aws: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_AWS_JOBS", json.dumps({**SETTINGS, "leases_table": None}))
    alone = Run("")
    aws.reset_calls()

    cluster_id = alone.create()
    alone.step(cluster_id)
    alone.end(cluster_id)

    assert set(aws.calls()) == {"emr"}


@pytest.mark.parametrize("way", ["teardown", "budget", "person", "eviction"])
def test_no_end_of_a_cluster_that_nobody_shares_depends_on_the_table(
    aws: LocalAws, live: Callable[[], list[str]], way: str
) -> None:
    aws.set_faults([DENIED])
    alone = Run("")
    operator = alone.operator()
    if way == "teardown":
        cluster_id = alone.create()
        alone.step(cluster_id)
        alone.end(cluster_id)
    elif way == "budget":
        deferred, late = alone.begin_create(), {"outcome": "timeout", "state": "STARTING"}
        with pytest.raises(ExternalJobError, match="budget"):
            resume(operator, alone.create_ti, deferred, late)
    elif way == "person":
        asyncio.run(alone.begin_create().trigger.on_kill())
    else:
        alone.create_ti.store.on_set = lambda key, value: operator.on_kill()
        with pytest.raises(TaskKilled):
            start(operator, alone.create_ti)

    assert live() == []
    # Whoever has only a cluster's id must ask who uses it.
    asked = {"GetItem"} if way == "teardown" else set()
    assert set(aws.calls().get("dynamodb", {})) == asked


def test_a_sensor_of_a_cluster_that_nobody_shares_does_not_depend_on_the_table(
    aws: LocalAws, cluster_id: str
) -> None:
    aws.set_faults([DENIED])

    sensor = EmrClusterSensor(task_id="sensor", cluster_id=cluster_id)

    assert isinstance(start(sensor, TaskInstance()), TaskDeferred)


def test_a_pool_without_a_table_is_refused(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_AWS_JOBS", json.dumps({**SETTINGS, "leases_table": None}))

    with pytest.raises(SettingsError, match="leases_table"):
        Run("pool").create()

    assert aws.count("emr", "RunJobFlow") == 0


def test_what_cannot_be_shared_is_refused_before_it_costs_money(aws: LocalAws, pool: str) -> None:
    limits = {"most_users": 4, "most_steps": 257, "oldest": timedelta(hours=24)}
    with pytest.raises(InvalidRequestError) as refused:
        Run(pool, **limits, lease=timedelta(0), flow={"Steps": [bash_step("true")]}).create()

    assert len(refused.value.problems) == 5
    assert aws.count("emr", "RunJobFlow") == 0
    assert "dynamodb" not in aws.calls()


# Who may join


def test_a_full_cluster_is_not_joined(pool: str) -> None:
    clusters = [Run(pool, most_users=2).create() for _ in range(3)]

    assert clusters[0] == clusters[1] != clusters[2]


def test_the_fullest_cluster_is_joined_first(pool: str, table: LeaseTable) -> None:
    runs = [Run(pool, most_users=2) for _ in range(3)]
    clusters = [each.create() for each in runs]
    runs[0].end(clusters[0])

    fourth, fifth = Run(pool, most_users=2).create(), Run(pool, most_users=2).create()

    assert {fourth, fifth} == set(clusters)


def test_an_old_cluster_is_not_joined(pool: str, table: LeaseTable) -> None:
    cluster_id = Run(pool).create()
    change(table, cluster_id, "founded_at", {"N": str(int(time.time()) - 7200)})

    assert Run(pool, oldest=timedelta(hours=3)).create() == cluster_id
    assert Run(pool, oldest=timedelta(hours=2)).create() != cluster_id


def test_a_cluster_whose_time_is_up_leaves_its_pool(pool: str, table: LeaseTable) -> None:
    cluster_id = Run(pool).create()
    change(table, cluster_id, "founded_at", {"N": str(int(time.time()) - 86_401)})

    successor = Run(pool).create()

    assert table.pool(held(table, cluster_id).pool_id).cluster_ids == (successor,)


def test_a_cluster_that_has_had_many_steps_is_not_joined(
    aws: LocalAws, pool: str, table: LeaseTable
) -> None:
    cluster_id = Run(pool).create()
    steps = [bash_step("true")] * 60
    aws.client("emr").add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)

    assert Run(pool, most_steps=60).create() != cluster_id
    assert len(held(table, cluster_id).users) == 1


def test_a_cluster_whose_concurrency_is_used_up_is_not_joined(
    aws: LocalAws, pool: str, table: LeaseTable
) -> None:
    cluster_id = Run(pool).create()
    steps = [bash_step("sleep 60")] * 3
    aws.client("emr").add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)

    assert Run(pool).create() != cluster_id
    assert len(held(table, cluster_id).users) == 1


def test_a_cluster_that_somebody_ends_is_not_joined_and_closed(
    aws: LocalAws, pool: str, table: LeaseTable
) -> None:
    cluster_id = Run(pool).create()
    aws.client("emr").terminate_job_flows(JobFlowIds=[cluster_id])

    assert Run(pool).create() != cluster_id
    assert held(table, cluster_id).is_closing
    assert cluster_id not in table.pool(held(table, cluster_id).pool_id).cluster_ids


@pytest.mark.parametrize(("age", "closes"), [(60, False), (1800, True)])
def test_a_cluster_that_emr_does_not_know_yet_is_left_to_its_founder(
    aws: LocalAws,
    pool: str,
    table: LeaseTable,
    live: Callable[[], list[str]],
    age: int,
    closes: bool,
) -> None:
    founder, joiner = Run(pool), Run(pool)
    cluster_id = founder.create()
    change(table, cluster_id, "founded_at", {"N": str(int(time.time()) - age)})
    operator = joiner.operator()
    unknown = {"Error": {"Code": "InvalidRequestException", "Message": "Cluster id is not valid."}}

    class LateEmr:
        def __getattr__(self, name: str) -> Any:
            return getattr(aws.client("emr"), name)

        def describe_cluster(self, **request: Any) -> Any:
            raise ClientError(unknown, "DescribeCluster")

    operator.__dict__["emr"] = LateEmr()
    assert start(operator, joiner.create_ti) != cluster_id

    assert (cluster_id in live(), held(table, cluster_id).is_closing) == (not closes, closes)


def test_many_joiners_at_once_get_no_more_than_the_places(pool: str, table: LeaseTable) -> None:
    cluster_id = Run(pool).create()
    joiners = [Run(pool) for _ in range(8)]
    begin = threading.Barrier(len(joiners))

    def join(joiner: Run) -> bool:
        from aws_jobs.lease_pool import ClusterPool

        shared = ClusterPool(
            held(table, cluster_id).pool_id, pool, 3, 3, ClusterReuse(pool), timedelta(hours=24)
        )
        begin.wait()
        lease = shared.new_lease(cluster_id, joiner.user)
        return shared.join(table, held(table, cluster_id), lease)

    with ThreadPoolExecutor(len(joiners)) as threads:
        joined = list(threads.map(join, joiners))

    assert sum(joined) == 2
    winners = {joiner.user for joiner, won in zip(joiners, joined, strict=True) if won}
    assert winners < set(held(table, cluster_id).users)
    assert len(held(table, cluster_id).users) == 3


def test_of_two_that_begin_at_once_one_founds_and_the_other_joins(
    aws: LocalAws, pool: str, table: LeaseTable
) -> None:
    runs = [Run(pool), Run(pool)]

    with ThreadPoolExecutor(2) as threads:
        clusters = set(threads.map(lambda each: each.create(), runs))

    (cluster_id,) = clusters
    assert aws.count("emr", "RunJobFlow") == 1
    assert set(held(table, cluster_id).users) == {each.user for each in runs}


def test_who_looked_before_another_founded_looks_again(
    aws: LocalAws, pool: str, table: LeaseTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    founder, late = Run(pool), Run(pool)
    claim = LeaseTable.claim_founding
    founded: list[str] = []

    def found_just_before(self: LeaseTable, *arguments: Any) -> bool:
        if not founded:
            founded.append("")
            founded[0] = founder.create()
        return claim(self, *arguments)

    monkeypatch.setattr(LeaseTable, "claim_founding", found_just_before)

    assert late.create() == founded[0]
    assert aws.count("emr", "RunJobFlow") == 1


def test_a_cluster_is_joined_while_it_starts(aws: LocalAws, pool: str) -> None:
    founder, joiner = Run(pool), Run(pool)
    waiting = founder.begin_create()
    joining = joiner.begin_create()

    assert joining.trigger.cluster_id == waiting.trigger.cluster_id
    assert wait(joining)["outcome"] == "ready"


# Whose death


def dying(operator: EmrCreateClusterOperator) -> EmrCreateClusterOperator:
    """A task whose process is killed: nothing of it runs after the place where it dies."""
    operator._end_what_was_made = lambda context, error: None  # type: ignore[method-assign]
    return operator


def die(*_: Any, **__: Any) -> None:
    raise Died


def _before_founding(operator: Any, ti: TaskInstance, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseTable, "claim_founding", die)


def _after_founding(operator: Any, ti: TaskInstance, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operator, "submit", die)


def _after_the_claim(operator: Any, ti: TaskInstance, patch: pytest.MonkeyPatch) -> None:
    ti.store.on_set = lambda key, value: None
    patch.setattr("aws_jobs.job_flow.ClusterJob.submit_job", die)


def _after_the_call(operator: Any, ti: TaskInstance, patch: pytest.MonkeyPatch) -> None:
    ti.store.on_set = lambda key, value: die() if value["external_ids"] else None


def _before_it_is_registered(operator: Any, ti: TaskInstance, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseTable, "register", die)


def _after_it_is_registered(operator: Any, ti: TaskInstance, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operator, "show_links", die)


FOUNDERS_DEATHS = [
    _before_founding,
    _after_founding,
    _after_the_claim,
    _after_the_call,
    _before_it_is_registered,
    _after_it_is_registered,
]


def let_die(a_run: Run, death: Any) -> None:
    operator = dying(a_run.operator())
    with pytest.MonkeyPatch.context() as patch:
        death(operator, a_run.create_ti, patch)
        with pytest.raises(Died):
            start(operator, a_run.create_ti)
    a_run.create_ti.store.on_set = lambda key, value: None


@pytest.mark.parametrize("death", FOUNDERS_DEATHS, ids=lambda death: death.__name__)
def test_a_founder_that_died_goes_on_in_its_retry(
    aws: LocalAws, pool: str, table: LeaseTable, live: Callable[[], list[str]], death: Any
) -> None:
    founder, joiner = Run(pool), Run(pool)
    let_die(founder, death)

    founder.create_ti.retry()
    cluster_id = founder.create()

    assert live() == [cluster_id]
    assert aws.count("emr", "RunJobFlow") == 1
    assert list(held(table, cluster_id).users) == [founder.user]
    assert joiner.create() == cluster_id
    for each in (founder, joiner):
        each.end(cluster_id)
    assert live() == []


@pytest.mark.parametrize("death", FOUNDERS_DEATHS[2:5], ids=lambda death: death.__name__)
def test_after_a_founder_that_died_a_clear_leaves_one_cluster(
    aws: LocalAws, pool: str, table: LeaseTable, live: Callable[[], list[str]], death: Any
) -> None:
    founder = Run(pool)
    let_die(founder, death)

    founder.create_ti.clear()
    cluster_id = founder.create()

    assert live() == [cluster_id]
    assert list(held(table, cluster_id).users) == [founder.user]


@pytest.mark.parametrize(
    "death", [_after_founding, _before_it_is_registered], ids=lambda death: death.__name__
)
def test_a_founder_that_never_returns_is_followed_by_another(
    aws: LocalAws,
    pool: str,
    table: LeaseTable,
    monkeypatch: pytest.MonkeyPatch,
    death: Any,
) -> None:
    monkeypatch.setattr(cluster_lease, "FOUNDING_SECONDS", 1)
    let_die(Run(pool), death)

    heir = Run(pool)
    cluster_id = heir.create()

    assert heir.user in held(table, cluster_id).users
    assert table.pool(held(table, cluster_id).pool_id).cluster_ids == (cluster_id,)


def test_a_founder_that_was_taken_for_dead_leaves_its_heir_s_claim(
    pool: str, table: LeaseTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, heir = Run(pool), Run(pool)
    let_die(slow, _before_it_is_registered)
    pool_id = _pool_id(table, pool)
    change(table, pool_id, "founding", _claim_of(heir.user))

    slow.create_ti.retry()
    cluster_id = slow.create()

    assert table.pool(pool_id).founder == heir.user
    assert table.pool(pool_id).cluster_ids == (cluster_id,)


def _claim_of(user: str, seconds: int = 60) -> Any:
    return {"M": {"user": {"S": user}, "expires": {"N": str(int(time.time()) + seconds)}}}


def _pool_id(table: LeaseTable, pool: str) -> str:
    items = table.dynamodb.scan(TableName=TABLE)["Items"]
    (found,) = [item["id"]["S"] for item in items if f"/{pool}/" in item["id"]["S"]]
    return str(found)


def test_a_founder_does_not_wait_for_itself(aws: LocalAws, pool: str, table: LeaseTable) -> None:
    """Its retry leaves a cluster out of the pool that has ended since, and claims once more."""
    gone, founder = Run(pool), Run(pool)
    cluster_id = gone.create()
    gone.end(cluster_id)
    pool_id = held(table, cluster_id).pool_id
    change(table, pool_id, "clusters", {"SS": [cluster_id]})
    let_die(founder, _after_founding)
    change(table, pool_id, "clusters", {"SS": [cluster_id]})

    founder.create_ti.retry()

    assert founder.create() != cluster_id


def test_a_founder_that_is_throttled_is_not_taken_for_dead(pool: str, table: LeaseTable) -> None:
    """Each try of RunJobFlow tells that it is there."""
    founder = Run(pool)
    operator = dying(founder.operator())

    def much_later(key: str, value: Any) -> None:
        change(table, _pool_id(table, pool), "founding", _claim_of(founder.user, seconds=-1))

    founder.create_ti.store.on_set = much_later
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aws_jobs.job_flow.ClusterJob.submit_job", die)
        with pytest.raises(Died):
            start(operator, founder.create_ti)

    assert table.pool(_pool_id(table, pool)).is_being_founded


def test_a_founder_whose_request_is_refused_lets_the_next_one_try(
    aws: LocalAws, pool: str, table: LeaseTable
) -> None:
    refused = Run(pool)
    with pytest.MonkeyPatch.context() as patch:
        error = ClientError(
            {"Error": {"Code": "ValidationException", "Message": "no"}}, "RunJobFlow"
        )
        patch.setattr(
            "aws_jobs.job_flow.ClusterJob.submit_job",
            lambda self, run_key: (_ for _ in ()).throw(error),
        )
        with pytest.raises(ClientError):
            refused.create()

    assert not table.pool(_pool_id(table, pool)).is_being_founded


@pytest.mark.parametrize("death", [_before_it_is_registered, _after_it_is_registered])
@pytest.mark.parametrize("change", [{"EbsRootVolumeSize": 55}, None], ids=["spec", "no pool"])
def test_after_a_deploy_a_retry_gives_back_what_it_has_of_another_pool(
    pool: str, live: Callable[[], list[str]], death: Any, change: dict[str, Any] | None
) -> None:
    """It joins one of the pool that it asks for now, where there is one."""
    retried, joiner = Run(pool), Run(pool)
    let_die(retried, death)
    (old,) = live()
    is_shared = death is _after_it_is_registered
    if is_shared:
        assert joiner.create() == old
    if change is None:
        retried.arguments["reuse"] = None
    else:
        retried.arguments["job_flow"] |= change
        ahead = Run(pool, flow=change).create()

    retried.create_ti.retry()
    new = retried.create()

    assert new != old if change is None else new == ahead
    assert set(live()) == ({old, new} if is_shared else {new})


def test_the_cause_is_told_where_the_table_cannot_note_the_end(aws: LocalAws, pool: str) -> None:
    founder = Run(pool)
    deferred = founder.begin_create()
    aws.client("emr").terminate_job_flows(JobFlowIds=[deferred.trigger.cluster_id])
    ended = wait(deferred)
    aws.set_faults([DENIED])

    with pytest.raises(ExternalJobError, match="by user request"):
        resume(founder.operator(), founder.create_ti, deferred, ended)


def _before_the_join(operator: Any, ti: TaskInstance, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseTable, "join", die)


def _after_the_join(operator: Any, ti: TaskInstance, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("aws_jobs.lease_pool.ClusterPool.unfit", die)


def _before_the_end(operator: Any, ti: TaskInstance, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operator, "_hand_over", die)


JOINERS_DEATHS = [_before_the_join, _after_the_join, _before_the_end]


@pytest.mark.parametrize("back_by", ["retry", "clear"])
@pytest.mark.parametrize("death", JOINERS_DEATHS, ids=lambda death: death.__name__)
def test_a_joiner_that_died_has_one_lease_after_its_return(
    aws: LocalAws,
    pool: str,
    table: LeaseTable,
    live: Callable[[], list[str]],
    death: Any,
    back_by: str,
) -> None:
    founder, joiner = Run(pool), Run(pool)
    cluster_id = founder.create()
    let_die(joiner, death)

    getattr(joiner.create_ti, back_by)()
    assert joiner.create() == cluster_id

    assert set(held(table, cluster_id).users) == {founder.user, joiner.user}
    use = joiner.create_ti.xcoms["cluster_use"]
    assert use == f"{cluster_id}-{held(table, cluster_id).users[joiner.user].use}"
    founder.end(cluster_id)
    assert live() == [cluster_id]
    joiner.end(cluster_id)
    assert live() == []


@pytest.mark.parametrize("who", ["founder", "joiner"])
def test_killing_one_run_never_takes_the_cluster_from_another(
    aws: LocalAws, pool: str, table: LeaseTable, live: Callable[[], list[str]], who: str
) -> None:
    """SIGTERM on the worker, and what a person does to a task that waits."""
    runs = {name: Run(pool, wait_until_ready=True) for name in ("founder", "joiner")}
    operators = {name: each.operator() for name, each in runs.items()}
    deferred = {name: start(operators[name], each.create_ti) for name, each in runs.items()}
    cluster_id = deferred["founder"].trigger.cluster_id

    operators[who].on_kill()
    asyncio.run(deferred[who].trigger.on_kill())

    (other,) = runs.keys() - {who}
    assert live() == [cluster_id]
    assert list(held(table, cluster_id).users) == [runs[other].user]
    asyncio.run(deferred[other].trigger.on_kill())
    assert live() == []


def test_a_kill_during_the_join_gives_the_lease_back(
    pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    cluster_id = Run(pool).create()
    joiner = Run(pool)
    operator = joiner.operator()
    joiner.create_ti.store.on_set = lambda key, value: operator.on_kill()

    with pytest.raises(TaskKilled):
        start(operator, joiner.create_ti)

    assert live() == [cluster_id]
    assert joiner.user not in held(table, cluster_id).users


def test_a_late_on_kill_does_not_touch_the_lease_of_the_next_try(
    pool: str, table: LeaseTable
) -> None:
    founder, joiner = Run(pool), Run(pool)
    cluster_id = founder.create()
    old = joiner.begin_create()

    joiner.create_ti.clear()
    assert joiner.create() == cluster_id
    asyncio.run(old.trigger.on_kill())

    assert joiner.user in held(table, cluster_id).users


def test_a_cleared_run_joins_anew_and_the_other_keeps_its_cluster(
    aws: LocalAws, pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    first, second = Run(pool), Run(pool)
    cluster_id = first.create()
    second.create()
    second.end(cluster_id)

    for ti in (second.create_ti, second.end_ti):
        ti.clear()
    assert second.create() == cluster_id
    second.end(cluster_id)

    assert live() == [cluster_id]
    assert list(held(table, cluster_id).users) == [first.user]
    assert aws.count("emr", "RunJobFlow") == 1


def test_a_run_that_is_cleared_after_its_cluster_ended_founds_another(
    pool: str, live: Callable[[], list[str]]
) -> None:
    only = Run(pool)
    first = only.create()
    only.end(first)

    only.create_ti.clear()
    second = only.create()

    assert live() == [second]


def test_a_cluster_that_fails_to_start_is_left_by_all_and_one_founds_the_next(
    aws: LocalAws, pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    runs = [Run(pool), Run(pool)]
    deferred = [each.begin_create() for each in runs]
    cluster_id = deferred[0].trigger.cluster_id
    aws.client("emr").terminate_job_flows(JobFlowIds=[cluster_id])
    for each, waiting in zip(runs, deferred, strict=True):
        with pytest.raises(ExternalJobError):
            resume(each.operator(), each.create_ti, waiting, wait(waiting))
        each.create_ti.retry()

    clusters = {each.create() for each in runs}

    (second,) = clusters
    assert second != cluster_id
    assert live() == [second]
    assert held(table, cluster_id).is_closing


def test_a_reconnecting_retry_keeps_its_lease_and_its_use(pool: str, table: LeaseTable) -> None:
    founder, joiner = Run(pool), Run(pool)
    cluster_id = founder.create()
    waiting = joiner.begin_create()
    use = held(table, cluster_id).users[joiner.user].use
    expire(table, cluster_id, joiner.user)

    joiner.create_ti.retry()
    again = joiner.begin_create()

    assert again.trigger.cluster_id == waiting.trigger.cluster_id
    assert held(table, cluster_id).users[joiner.user].use == use
    assert joiner.user in held(table, cluster_id).live_users()


def test_a_cluster_that_was_closed_while_a_run_waited_for_it_is_not_handed_over(
    pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    first, late = Run(pool), Run(pool)
    cluster_id = first.create()
    waiting = late.begin_create()
    ready = wait(waiting)
    expire(table, cluster_id, late.user)
    first.end(cluster_id)

    with pytest.raises(LeaseError):
        resume(late.operator(), late.create_ti, waiting, ready)
    late.create_ti.retry()
    late.arguments["wait_until_ready"] = False

    assert late.create() in live()


# How long a lease holds


def test_an_expired_lease_frees_its_place(pool: str, table: LeaseTable) -> None:
    runs = [Run(pool, most_users=1) for _ in range(2)]
    cluster_id = runs[0].create()
    expire(table, cluster_id, runs[0].user)

    assert runs[1].create() == cluster_id


def test_an_expired_lease_does_not_keep_a_cluster(
    pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    lost, last = Run(pool), Run(pool)
    cluster_id = lost.create()
    last.create()
    expire(table, cluster_id, lost.user)

    last.end(cluster_id)

    assert live() == []
    # Whose lease expired finds the cluster closed, and its own end of it does no harm.
    lost.end(cluster_id)


def test_an_expired_lease_keeps_a_cluster_on_which_its_steps_go_on(
    pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    """Its run goes on: only no triggerer was there to renew it."""
    cut_off, last = Run(pool), Run(pool)
    cluster_id = cut_off.create()
    last.create()
    cut_off.step(cluster_id, "sleep 60")
    expire(table, cluster_id, cut_off.user)

    assert last.end(cluster_id) is None

    assert live() == [cluster_id]
    assert list(held(table, cluster_id).users) == [cut_off.user]
    cut_off.end(cluster_id)
    assert live() == []


def test_steps_end_with_the_run_that_submitted_them(
    aws: LocalAws, pool: str, table: LeaseTable
) -> None:
    """Sensors cancel none, nor does a worker that is lost."""
    ends, goes_on = Run(pool), Run(pool)
    cluster_id = ends.create()
    goes_on.create()
    steps = [bash_step("sleep 60"), bash_step("sleep 60")]
    submit = EmrSubmitStepsOperator(task_id="step", cluster_id=cluster_id, steps=steps)
    submitted = start(submit, ends.step_ti)
    others = goes_on.step(cluster_id, "sleep 60").trigger.step_id
    lease = held(table, cluster_id).lease_of_run("dag", ends.run_id)
    assert lease is not None
    assert table.renew(lease)

    ends.end(cluster_id)

    listed = aws.client("emr").list_steps(ClusterId=cluster_id)["Steps"]
    going_on = {each["Id"] for each in listed if each["Status"]["State"] in STEP_ACTIVE}
    assert len(listed) == len(submitted) + 1
    assert going_on == {others}


def test_a_step_renews_the_lease_when_it_is_submitted(pool: str, table: LeaseTable) -> None:
    first = Run(pool)
    cluster_id = first.create()
    expire(table, cluster_id, first.user)

    first.step(cluster_id)

    assert held(table, cluster_id).live_users() == [first.user]


@pytest.fixture
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aws_jobs.lease_pool._LEAST_LEASE", timedelta(seconds=2))


@pytest.mark.usefixtures("_short_leases")
def test_a_lease_is_renewed_while_its_run_waits(pool: str, table: LeaseTable) -> None:
    first = Run(pool, lease=timedelta(seconds=2))
    cluster_id = first.create()
    deferred = first.step(cluster_id, "sleep 3")
    began = time.time()

    event = wait(deferred)

    assert event["state"] == "COMPLETED"
    assert held(table, cluster_id).users[first.user].expires >= began + 4


@pytest.mark.usefixtures("_short_leases")
def test_a_renewal_that_fails_is_made_again(aws: LocalAws, pool: str, table: LeaseTable) -> None:
    first = Run(pool, lease=timedelta(seconds=2))
    cluster_id = first.create()
    lease = first.step(cluster_id).trigger.lease
    aws.set_faults([{**DENIED, "operation": "UpdateItem", "count": 2}])
    expires = held(table, cluster_id).users[first.user].expires

    async def renewed() -> None:
        async with renewing(lease, None, None):
            while held(table, cluster_id).users[first.user].expires <= expires:
                await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(renewed(), 30))

    assert aws.calls()["dynamodb"]["UpdateItem"]["400"] == 2


def test_leases_of_a_table_that_hangs_take_no_thread_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()
    hanging = SimpleNamespace(renew=lambda lease: answered.wait(30))
    monkeypatch.setattr("aws_jobs.lease_renewal.lease_table", lambda *connection: hanging)
    lease = {"table": TABLE, "cluster_id": "j-1", "user": "u", "use": "u"}

    async def wait_for_aws() -> None:
        async with AsyncExitStack() as waiting:
            for _ in range(50):
                await waiting.enter_async_context(renewing(lease, None, None))
            await asyncio.sleep(0.1)
            await asyncio.wait_for(asyncio.to_thread(time.time), 5)
            answered.set()

    asyncio.run(wait_for_aws())


@pytest.mark.parametrize(("refusals", "outcome"), [(1, "free"), (2, "refused")])
def test_who_waits_for_a_founder_asks_again_with_a_new_client(
    aws: LocalAws, refusals: int, outcome: str
) -> None:
    aws.set_faults([{**DENIED, "count": refusals}])
    trigger = EmrPoolTrigger(
        table=TABLE,
        pool_id="pool",
        deadline=time.time() + 30,
        interval=1.0,
        aws_conn_id=None,
        region=None,
    )

    assert asyncio.run(first_event(trigger))["outcome"] == outcome


def test_nobody_renews_what_was_given_back(pool: str, table: LeaseTable) -> None:
    first, second = Run(pool), Run(pool)
    cluster_id = first.create()
    second.create()
    lease = held(table, cluster_id).lease_of_run("dag", second.run_id)
    second.end(cluster_id)
    assert lease is not None

    assert not table.renew(lease)
    assert list(held(table, cluster_id).users) == [first.user]


# Who ends


def test_a_teardown_that_died_between_closing_and_terminating_goes_on(
    aws: LocalAws, pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    only = Run(pool)
    cluster_id = only.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_lease, "terminate_cluster", die)
        with pytest.raises(Died):
            only.end(cluster_id)
    assert held(table, cluster_id).is_closing
    assert live() == [cluster_id]
    assert Run(pool).create() != cluster_id

    only.end_ti.retry()
    only.end(cluster_id)

    assert cluster_id not in live()


def test_many_that_leave_at_once_end_the_cluster_once_they_are_all_gone(
    pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    runs = [Run(pool) for _ in range(3)]
    clusters = [each.create() for each in runs]
    cluster_id = clusters[0]
    assert set(clusters) == {cluster_id}

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda each: each.end(cluster_id), runs))

    assert held(table, cluster_id).is_closing
    assert not held(table, cluster_id).users
    assert cluster_id not in live()


def test_who_joins_while_the_last_one_leaves_has_it_or_another_but_never_a_dying_one(
    aws: LocalAws, pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    for _ in range(3):
        leaving, joining = Run(pool), Run(pool)
        cluster_id = leaving.create()

        with ThreadPoolExecutor(2) as threads:
            threads.submit(leaving.end, cluster_id)
            joined = threads.submit(joining.create).result()

        assert joined in live()
        assert joining.user in held(table, joined).users
        assert not held(table, joined).is_closing
        joining.end(joined)


def test_a_throttled_table_keeps_the_teardown_trying(
    aws: LocalAws, pool: str, live: Callable[[], list[str]]
) -> None:
    only = Run(pool)
    cluster_id = only.create()
    aws.set_faults([{"service": "dynamodb", "operation": "*", "kind": "throttle", "count": 3}])

    only.end(cluster_id)

    assert live() == []


def test_without_an_answer_of_the_table_no_cluster_of_a_pool_is_ended(
    aws: LocalAws, pool: str, live: Callable[[], list[str]]
) -> None:
    only = Run(pool)
    cluster_id = only.create()
    aws.set_faults([DENIED])

    with pytest.raises(ClientError):
        only.end(cluster_id)

    assert live() == [cluster_id]


@pytest.mark.parametrize("operation", ["UpdateItem", "TransactWriteItems"])
def test_a_lost_answer_of_the_table_changes_nothing(
    aws: LocalAws, pool: str, table: LeaseTable, live: Callable[[], list[str]], operation: str
) -> None:
    fault = {"service": "dynamodb", "operation": operation, "kind": "lost_answer", "count": 2}
    aws.set_faults([fault])
    founder, joiner = Run(pool), Run(pool)

    clusters = {founder.create(), joiner.create()}

    (cluster_id,) = clusters
    assert set(held(table, cluster_id).users) == {founder.user, joiner.user}
    aws.set_faults([fault])
    founder.end(cluster_id)
    joiner.end(cluster_id)
    assert live() == []
    assert aws.count("emr", "RunJobFlow") == 1


@pytest.mark.parametrize(
    ("xcoms", "place"),
    [
        ({"create_cluster": {"return_value": "j-1"}, "ingest": {"cluster_id": "j-1"}}, "j-1"),
        (
            {
                "create_cluster": {"return_value": "j-1", "cluster_use": "j-1-new"},
                "ingest": {"cluster_id": "j-1", "cluster_use": "j-1-old"},
            },
            "j-1-",
        ),
    ],
    ids=["own", "shared"],
)
def test_the_daily_etl_writes_where_the_use_of_its_cluster_leads(
    xcoms: dict[str, dict[str, str]], place: str
) -> None:
    """On a cluster of its own as ever, also in runs that were under way when this came."""
    dag_file = runpy.run_path(str(ROOT / "dags" / "emr_daily_etl.py"))
    pulled = {"check_input": {"return_value": {"day_uri": "s3://b/flights/day=2013-01-01"}}}

    def xcom_pull(task_ids: str, key: str = "return_value") -> Any:
        return {**pulled, **xcoms}[task_ids].get(key)

    ti = SimpleNamespace(xcom_pull=xcom_pull)
    writes_to, ingested = (
        jinja2.Template(dag_file[name]).render(ti=ti) for name in ("WRITES_TO", "INGESTED")
    )

    assert writes_to == f"s3://b/flights/day=2013-01-01/{place}{'new' * place.endswith('-')}"
    assert ingested == f"s3://b/flights/day=2013-01-01/{place}{'old' * place.endswith('-')}"


def test_a_watcher_of_another_run_s_cluster_takes_no_lease_and_ends_none(
    pool: str, table: LeaseTable, live: Callable[[], list[str]]
) -> None:
    owner, stranger = Run(pool), Run(pool)
    cluster_id = owner.create()

    deferred = stranger.step(cluster_id)
    assert "lease" not in deferred.trigger.serialize()[1]
    stranger.end(cluster_id)

    assert live() == [cluster_id]
    assert list(held(table, cluster_id).users) == [owner.user]


def test_a_trigger_of_the_version_before_still_loads(aws: LocalAws, pool: str) -> None:
    path, arguments = Run(pool).begin_create().trigger.serialize()
    lease = arguments.pop("lease")

    old = EmrClusterTrigger(**arguments)

    assert lease["table"] == TABLE
    assert old.lease is None
    assert old.serialize() == (path, arguments)


@pytest.mark.parametrize(
    "owner",
    [
        ("etl", "scheduled__2013-01-01T00:00:00+00:00", "create_cluster", -1),
        ("etl.sub-dag", "by hand / 50 % #1 ü", "group.create", 12),
    ],
)
def test_a_user_is_told_by_its_name(owner: tuple[str, str, str, int]) -> None:
    assert user_owner(lease_user(*owner)) == owner


def test_what_is_no_user_is_said_to_be_none() -> None:
    with pytest.raises(ValueError, match="unpack"):
        user_owner("somebody")
