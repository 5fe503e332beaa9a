"""The reaper against a localaws: what it ends, and above all what it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from airflow.sdk.execution_time import task_runner

from aws_jobs import reaper, reaper_task
from aws_jobs.aws_clients import aws_client
from aws_jobs.batch_job import BatchJob
from aws_jobs.exceptions import HousekeepingError
from aws_jobs.identity import TAG_DEPLOYMENT, TAG_ENDS_BY, RunKey
from aws_jobs.job_flow import ClusterJob
from aws_jobs.polling import CallRate
from aws_jobs.reaper_aws import BatchJobs, Clusters, PacedClient
from aws_jobs.reaper_decision import Action, Kind
from aws_jobs.reaper_owners import Owners, RestOwners, TaskOwners
from aws_jobs.reaper_round import Look, Outcome, Reaper
from localaws.process import LocalAws
from tests.plugins.airflow_of_runs import AirflowOfRuns
from tests.plugins.conftest import live_clusters
from tests.plugins.harness import QUEUE, TaskInstance, bash_job, job_flow, live_jobs

RUN = "manual__2013-01-01T00:00:00+00:00"
LONG_AGO = "2013-01-01T00:00:00Z"
ASKED_BY = ["task", "rest"]

MUTATING = {
    "emr": {"TerminateJobFlows", "SetTerminationProtection"},
    "batch": {"TerminateJob", "CancelJob"},
}


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> AirflowOfRuns:
    airflow = AirflowOfRuns(runs={("etl", RUN): "running"})
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", airflow, raising=False)
    return airflow


@pytest.fixture(params=ASKED_BY)
def new_owners(request: pytest.FixtureRequest, airflow: AirflowOfRuns) -> Callable[[], Owners]:
    """From inside a task, and from a shell."""
    if request.param == "task":
        return TaskOwners
    return lambda: RestOwners(airflow.client(), "local")


@pytest.fixture
def end(batch: LocalAws, new_owners: Callable[[], Owners]) -> Callable[[], Outcome]:
    """A whole round, with no grace to wait for."""
    return lambda: round_of(batch, new_owners)


def reaper_of(
    aws: LocalAws, new_owners: Callable[[], Owners], grace: timedelta = timedelta(0)
) -> Reaper:
    places = Clusters.of(aws_client("emr", None, None), "local", 1.0), jobs_of(aws)
    return Reaper(places, new_owners, grace)


def jobs_of(aws: LocalAws) -> BatchJobs:
    return BatchJobs.of(aws_client("batch", None, None), "local", 1.0)


def round_of(aws: LocalAws, new_owners: Callable[[], Owners]) -> Outcome:
    look = reaper_of(aws, new_owners).look()
    assert look.problems == []
    return reaper_of(aws, new_owners).end(ids(look))


def ids(look: Look) -> list[tuple[Kind, str]]:
    return [(each.job.kind, each.job.external_id) for each in look.orphans]


def key(task_id: str = "task", **fields: Any) -> RunKey:
    return RunKey(
        **{"deployment_id": "local", "dag_id": "etl", "run_id": RUN, **fields},
        task_id=task_id,
        map_index=-1,
    )


def tags(ends_by: str = "2113-01-01T00:00:00Z") -> dict[str, str]:
    return {TAG_ENDS_BY: ends_by}


def start_cluster(
    aws: LocalAws, run_key: RunKey, ends_by: str = "2113-01-01T00:00:00Z", **spec: Any
) -> str:
    (cluster_id,) = ClusterJob(aws.client("emr"), job_flow(**spec), tags(ends_by)).submit_job(
        run_key
    )
    return cluster_id


def start_job(
    aws: LocalAws,
    run_key: RunKey,
    ends_by: str = "2113-01-01T00:00:00Z",
    script: str = "sleep 60",
    **request: Any,
) -> str:
    job = BatchJob(aws.client("batch"), bash_job(script, **request), tags(ends_by), [QUEUE])
    (job_id,) = job.submit_job(run_key)
    return job_id


def alive(aws: LocalAws) -> set[str]:
    """What nobody has ended: a job that was told to end may take a moment."""
    jobs = aws.client("batch").describe_jobs(jobs=[job["id"] for job in live_jobs(aws)] or ["none"])
    ending = {job["jobId"] for job in jobs["jobs"] if job.get("isTerminated")}
    return {*live_clusters(aws), *(job["id"] for job in live_jobs(aws))} - ending


def changes(aws: LocalAws) -> set[str]:
    """Which mutating calls were made."""
    calls = aws.calls()
    return {
        operation
        for service, operations in MUTATING.items()
        for operation in operations & calls.get(service, {}).keys()
    }


@pytest.fixture
def both(batch: LocalAws, airflow: AirflowOfRuns) -> set[str]:
    """A cluster and a job of a task of the run."""
    airflow.tasks["etl", RUN, "task", -1] = "deferred"
    return {start_cluster(batch, key()), start_job(batch, key())}


def test_what_a_running_run_needs_goes_on(
    batch: LocalAws, both: set[str], end: Callable[[], Outcome]
) -> None:
    assert end() == Outcome()
    assert alive(batch) == both
    assert changes(batch) == set()


@pytest.mark.parametrize("state", ["success", "failed"])
def test_what_is_left_of_a_run_that_has_ended_is_ended(
    batch: LocalAws, both: set[str], end: Callable[[], Outcome], airflow: AirflowOfRuns, state: str
) -> None:
    airflow.runs["etl", RUN] = state

    outcome = end()

    assert {each.job.external_id for each in outcome.ended} == both
    assert alive(batch) == set()


def test_what_is_left_of_a_deleted_run_is_ended(
    batch: LocalAws, both: set[str], end: Callable[[], Outcome], airflow: AirflowOfRuns
) -> None:
    del airflow.runs["etl", RUN]

    assert len(end().ended) == 2
    assert alive(batch) == set()


@pytest.mark.parametrize("state", ["running", "failed", None])
def test_what_belongs_to_a_paused_dag_is_left_alone(
    batch: LocalAws,
    both: set[str],
    new_owners: Callable[[], Owners],
    airflow: AirflowOfRuns,
    state: str | None,
) -> None:
    airflow.paused.add("etl")
    airflow.runs = {("etl", RUN): state} if state else {}

    look = reaper_of(batch, new_owners).look()

    assert {each.judgement.action for each in look.findings} == {Action.LEAVE}
    assert all("its DAG is paused" in str(each) for each in look.findings)
    assert alive(batch) == both


def test_what_belongs_to_a_dag_that_airflow_does_not_know_is_left_alone(
    batch: LocalAws, both: set[str], new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    airflow.dags.remove("etl")
    airflow.runs.clear()

    look = reaper_of(batch, new_owners).look()

    assert {each.judgement.action for each in look.findings} == {Action.LEAVE}
    assert alive(batch) == both


@pytest.mark.parametrize("state", ["queued", "running", "failed"])
def test_what_belongs_to_a_dag_whose_file_was_removed_is_left_alone(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns, state: str
) -> None:
    airflow.removed.add("etl")
    airflow.runs["etl", RUN] = state

    look = reaper_of(batch, lambda: RestOwners(airflow.client(), "local")).look()

    assert {each.judgement.why for each in look.findings} == {
        f"its DAG is removed, its run is {state}"
    }
    assert alive(batch) == both


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_task_too_leaves_alone_the_runs_that_a_removed_dag_left(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns, state: str
) -> None:
    """A task is not told of a removed file; but the runs of its DAG stay as they were."""
    airflow.removed.add("etl")
    airflow.runs["etl", RUN] = state

    assert round_of(batch, TaskOwners) == Outcome()
    assert alive(batch) == both


@pytest.mark.parametrize("case", ["running", "paused", "away"])
def test_what_is_past_its_time_is_ended_whatever_its_owner_s_state(
    batch: LocalAws, end: Callable[[], Outcome], airflow: AirflowOfRuns, case: str
) -> None:
    airflow.tasks["etl", RUN, "task", -1] = "running"
    airflow.paused |= {"etl"} if case == "paused" else set()
    airflow.away = "error" if case == "away" else ""
    start_cluster(batch, key(), ends_by=LONG_AGO)
    start_job(batch, key(), ends_by=LONG_AGO)
    young = {start_cluster(batch, key()), start_job(batch, key())}

    outcome = end()

    assert len(outcome.ended) == 2
    assert all("its time was up" in str(each) for each in outcome.ended)
    assert alive(batch) == young


@pytest.mark.parametrize("how", ["closed", "error", "proxy", "login"])
def test_an_airflow_that_does_not_answer_ends_nothing(
    batch: LocalAws,
    both: set[str],
    new_owners: Callable[[], Owners],
    airflow: AirflowOfRuns,
    how: str,
) -> None:
    del airflow.runs["etl", RUN]
    airflow.away = how

    look = reaper_of(batch, new_owners).look()

    assert {each.judgement.action for each in look.findings} == {Action.LEAVE}
    assert alive(batch) == both


def test_an_airflow_that_is_away_is_not_waited_for_once_more_for_each_job(
    batch: LocalAws, new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    for number in range(5):
        start_job(batch, key(run_id=f"manual__{number}"))
    airflow.away = "closed"

    assert len(reaper_of(batch, new_owners).look().findings) == 5
    assert airflow.asked == 1


def test_what_other_deployments_or_nobody_started_is_not_judged(
    batch: LocalAws, new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    airflow.runs.clear()
    emr, client = batch.client("emr"), batch.client("batch")
    marked = f"looks like ours [{key().digest}]"
    others = {
        start_cluster(batch, key(deployment_id="other"), ends_by=LONG_AGO),
        start_job(batch, key(deployment_id="other"), ends_by=LONG_AGO),
        emr.run_job_flow(**job_flow(Name=marked), Tags=[])["JobFlowId"],
        client.submit_job(**bash_job("sleep 60", jobName=f"ours-{key().digest}"))["jobId"],
        emr.run_job_flow(**job_flow(Name="a person's"), Tags=[])["JobFlowId"],
        client.submit_job(**bash_job("sleep 60", jobName="a-person-s"))["jobId"],
    }

    look = reaper_of(batch, new_owners).look()

    assert look == Look(findings=[], others=4)
    asked_to_end_them = [
        (Kind.CLUSTER if each.startswith("j-") else Kind.BATCH_JOB, each) for each in others
    ]
    assert reaper_of(batch, new_owners).end(asked_to_end_them).ended == []
    assert alive(batch) == others
    assert changes(batch) == set()


def test_what_was_started_before_owners_could_be_read_back_waits_until_its_time_is_up(
    batch: LocalAws, end: Callable[[], Outcome], airflow: AirflowOfRuns
) -> None:
    airflow.runs.clear()
    old = [*key().tags.items(), *tags().items()]
    overdue = [*key().tags.items(), *tags(LONG_AGO).items()]
    started = {}
    for name, given in (("old", old), ("overdue", overdue)):
        kept = [{"Key": k, "Value": v} for k, v in given if k != "aws-jobs:attempt"]
        flow = job_flow(Name=f"daily [{key().digest}]")
        started[name] = batch.client("emr").run_job_flow(**flow, Tags=kept)["JobFlowId"]

    end()

    assert alive(batch) == {started["old"]}


def test_a_protected_cluster_is_ended(
    batch: LocalAws, end: Callable[[], Outcome], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    protected = {"Instances": {**job_flow()["Instances"], "TerminationProtected": True}}
    start_cluster(batch, key(), **protected)

    assert len(end().ended) == 1
    assert alive(batch) == set()
    assert changes(batch) == {"TerminateJobFlows", "SetTerminationProtection"}


@pytest.mark.parametrize(
    ("state", "goes_on"),
    [
        ("deferred", True),
        ("up_for_retry", True),
        (None, True),
        ("removed", True),
        ("success", False),
        ("failed", False),
        ("upstream_failed", False),
    ],
)
def test_a_job_is_its_task_s_and_a_cluster_its_run_s(
    batch: LocalAws,
    end: Callable[[], Outcome],
    airflow: AirflowOfRuns,
    state: str | None,
    goes_on: bool,
) -> None:
    airflow.tasks["etl", RUN, "task", -1] = state
    cluster_id, job_id = start_cluster(batch, key()), start_job(batch, key())

    end()

    assert alive(batch) == ({cluster_id, job_id} if goes_on else {cluster_id})


def test_a_mapped_task_s_job_is_that_of_its_index_and_not_of_a_task_with_such_a_name(
    batch: LocalAws, end: Callable[[], Outcome], airflow: AirflowOfRuns
) -> None:
    airflow.tasks |= {
        ("etl", RUN, "map", 0): "success",
        ("etl", RUN, "map", 1): "deferred",
        ("etl", RUN, "map_1", -1): "failed",
        ("etl", RUN, "map", 11): "failed",
    }
    jobs = [
        start_job(batch, RunKey("local", "etl", RUN, "map", index), jobName=f"map{index}")
        for index in (0, 1, 2)
    ]

    end()

    # 2 has no task instance: nobody can tell.
    assert alive(batch) == {jobs[1], jobs[2]}


def test_an_array_is_ended_once_and_whole(
    batch: LocalAws, end: Callable[[], Outcome], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    start_job(batch, key(), arrayProperties={"size": 3})

    outcome = end()

    assert len(outcome.ended) == 1
    assert batch.calls()["batch"]["TerminateJob"] == {"200": 1}
    assert alive(batch) == set()


def test_run_ids_that_tags_do_not_take_are_read_back(
    batch: LocalAws, end: Callable[[], Outcome], airflow: AirflowOfRuns
) -> None:
    """Read back wrongly, they would be those of runs that were deleted."""
    airflow.runs["etl", "manual__a~b"] = "running"
    kept = start_cluster(batch, key(run_id="manual__a~b"))
    cut = start_cluster(batch, key(run_id="r" * 250 + "~" * 10))

    assert end() == Outcome()
    assert alive(batch) == {kept, cut}


def test_a_run_id_that_a_task_cannot_ask_for_is_left_alone(
    batch: LocalAws, airflow: AirflowOfRuns
) -> None:
    """The answer would be that of the run `a`."""
    airflow.runs["etl", "a"] = "failed"
    start_cluster(batch, key(run_id="a?b"))

    (finding,) = reaper_of(batch, TaskOwners).look().findings

    assert finding.judgement.action is Action.LEAVE
    assert "cannot ask Airflow for a run with the id 'a?b'" in finding.judgement.why


@pytest.mark.parametrize("shown", [None, "other"])
def test_an_airflow_that_is_not_known_to_be_ours_is_not_believed(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns, shown: str | None
) -> None:
    airflow.runs.clear()
    airflow.deployment_id = shown

    look = reaper_of(batch, lambda: RestOwners(airflow.client(), "local")).look()

    assert {each.judgement.action for each in look.findings} == {Action.LEAVE}
    said = "is the Airflow of the deployment 'other'" if shown else "has not shown which deployment"
    assert all(said in str(each) for each in look.findings)


# Between the two looks


def test_what_came_back_to_life_between_the_looks_goes_on(
    batch: LocalAws, both: set[str], new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    look = reaper_of(batch, new_owners).look()
    assert len(look.orphans) == 2

    airflow.runs["etl", RUN] = "running"
    outcome = reaper_of(batch, new_owners).end(ids(look))

    assert (outcome.ended, len(outcome.spared)) == ([], 2)
    assert alive(batch) == both
    assert changes(batch) == set()


@pytest.mark.parametrize("how", ["closed", "error", "proxy"])
def test_an_airflow_that_went_away_between_the_looks_ends_nothing(
    batch: LocalAws,
    both: set[str],
    new_owners: Callable[[], Owners],
    airflow: AirflowOfRuns,
    how: str,
) -> None:
    airflow.runs["etl", RUN] = "failed"
    look = reaper_of(batch, new_owners).look()

    airflow.away = how
    outcome = reaper_of(batch, new_owners).end(ids(look))

    assert outcome.ended == []
    assert alive(batch) == both


def test_what_is_new_at_the_second_look_waits_for_the_next_round(
    batch: LocalAws, both: set[str], new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    look = reaper_of(batch, new_owners).look()
    late = start_cluster(batch, key("late"))

    reaper_of(batch, new_owners).end(ids(look))

    assert alive(batch) == {late}


def test_what_ended_between_the_looks_is_no_error(
    batch: LocalAws, both: set[str], new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    look = reaper_of(batch, new_owners).look()
    for _, external_id in ids(look):
        if external_id.startswith("j-"):
            batch.client("emr").terminate_job_flows(JobFlowIds=[external_id])
        else:
            batch.client("batch").terminate_job(jobId=external_id, reason="a person")

    outcome = reaper_of(batch, new_owners).end([*ids(look), (Kind.BATCH_JOB, "unknown")])

    assert (outcome.ended, outcome.problems) == ([], [])
    assert all(each.endswith("has ended meanwhile") for each in outcome.spared)


def test_a_run_that_has_just_ended_has_its_grace_where_airflow_tells_when(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    airflow.ended_at[RUN] = (datetime.now(UTC) - timedelta(minutes=9)).isoformat()
    ten_minutes = reaper_of(
        batch, lambda: RestOwners(airflow.client(), "local"), timedelta(minutes=10)
    )

    outcome = ten_minutes.end(ids(ten_minutes.look()))
    assert alive(batch) == both
    assert len(outcome.spared) == 2

    airflow.ended_at[RUN] = (datetime.now(UTC) - timedelta(minutes=11)).isoformat()
    assert len(ten_minutes.end(ids(ten_minutes.look())).ended) == 2


# What AWS does


def test_a_service_that_refuses_does_not_hide_the_other(
    batch: LocalAws, both: set[str], new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    batch.set_faults(
        [
            {
                "service": "emr",
                "operation": "ListClusters",
                "kind": "error",
                "status": 400,
                "code": "AccessDeniedException",
            }
        ]
    )

    look = reaper_of(batch, new_owners).look()

    assert [each.job.kind for each in look.orphans] == [Kind.BATCH_JOB]
    assert len(look.problems) == 1
    assert "not every cluster could be looked at" in look.problems[0]


def test_throttled_calls_are_repeated_and_what_is_past_them_is_not_lost(
    batch: LocalAws, both: set[str], end: Callable[[], Outcome], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    batch.set_faults(
        [
            {"service": service, "operation": "*", "kind": "throttle", "share": 0.3, "seed": 7}
            for service in ("emr", "batch")
        ]
    )

    outcome = end()

    assert {each.job.external_id for each in outcome.ended} == both
    assert outcome.problems == []


def test_what_could_not_be_ended_does_not_keep_the_rest(
    batch: LocalAws, both: set[str], new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    look = reaper_of(batch, new_owners).look()
    batch.set_faults(
        [
            {
                "service": "emr",
                "operation": "TerminateJobFlows",
                "kind": "error",
                "status": 400,
                "code": "AccessDeniedException",
            }
        ]
    )

    outcome = reaper_of(batch, new_owners).end(ids(look))

    assert [each.job.kind for each in outcome.ended] == [Kind.BATCH_JOB]
    (problem,) = outcome.problems
    assert re.match(r"cluster j-\w+ could not be ended: .*AccessDenied", problem)


def test_clusters_are_described_at_the_pace_of_the_quota() -> None:
    class Described:
        def describe_cluster(self) -> dict[str, Any]:
            return {}

    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    rate = CallRate(8, 0.8, lambda: now[0])
    client = PacedClient(Described(), {"describe_cluster": rate}, sleep=sleep)

    for _ in range(28):
        client.call("describe_cluster")

    assert now[0] == pytest.approx(20 / 0.8)
    assert waits == pytest.approx([1.25] * 20)


# As a task


def begin(airflow: AirflowOfRuns) -> tuple[TaskInstance, dict[str, Any]]:
    ti = TaskInstance("find_orphans")
    return ti, json.loads(json.dumps(reaper_task.find_orphans(ti)))


def ending(found: dict[str, Any], grace_minutes: float) -> reaper_task.EndOrphansOperator:
    return reaper_task.EndOrphansOperator(
        task_id="end_orphans", found=found, grace_minutes=str(grace_minutes)
    )


def test_the_first_look_of_the_task_changes_nothing_and_shows_the_deployment(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"

    ti, found = begin(airflow)

    assert {external_id for _, external_id in found["orphans"]} == both
    assert ti.xcoms == {"deployment_id": "local"}
    assert alive(batch) == both
    assert changes(batch) == set()


def test_the_task_waits_for_the_grace_then_looks_again_and_ends(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    ti, found = begin(airflow)

    with pytest.raises(TaskDeferred) as deferral:
        ending(found, 10).execute(ti.context)  # type: ignore[arg-type]
    assert alive(batch) == both
    left = deferral.value.trigger.moment - datetime.now(UTC)
    assert timedelta(minutes=9) < left < timedelta(minutes=10)

    result = ending(found, 10).execute_complete(ti.context, True)  # type: ignore[arg-type]
    assert len(result["ended"]) == 2
    assert alive(batch) == set()


def test_the_task_does_not_wait_where_only_time_is_up(
    batch: LocalAws, airflow: AirflowOfRuns
) -> None:
    start_cluster(batch, key(), ends_by=LONG_AGO)
    ti, found = begin(airflow)

    ending(found, 10).execute(ti.context)  # type: ignore[arg-type]

    assert alive(batch) == set()


def test_the_task_is_skipped_where_there_is_nothing_to_do(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    ti, found = begin(airflow)

    with pytest.raises(AirflowSkipException):
        ending(found, 0).execute(ti.context)  # type: ignore[arg-type]


def test_the_task_ends_what_it_can_and_fails_for_the_rest(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    ti, found = begin(airflow)
    found["problems"] = ["not every cluster could be looked at: no right"]

    with pytest.raises(HousekeepingError, match="no right"):
        ending(found, 0).execute(ti.context)  # type: ignore[arg-type]

    assert alive(batch) == set()


# From a shell


def test_the_command_changes_nothing_unless_it_is_told_to(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow.runs["etl", RUN] = "failed"

    code = reaper.run(reaper_of(batch, TaskOwners), end=False)

    printed = capsys.readouterr().out
    assert code == 1
    assert all(external_id in printed for external_id in both)
    assert "2 would be, with --end" in printed
    assert alive(batch) == both
    assert changes(batch) == set()


def test_the_command_waits_for_the_grace_where_airflow_does_not_tell_when(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow.runs["etl", RUN] = "failed"
    naps: list[float] = []

    code = reaper.run(
        reaper_of(batch, TaskOwners, timedelta(minutes=10)), end=True, sleep=naps.append
    )

    assert (code, naps) == (0, [600.0])
    assert capsys.readouterr().out.count("ended ") == 2
    assert alive(batch) == set()


@pytest.mark.parametrize(
    ("state", "paused", "code"), [("running", False, 0), ("running", True, 1), ("failed", True, 1)]
)
def test_the_exit_code_tells_whether_a_person_has_to_look(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns, state: str, paused: bool, code: int
) -> None:
    airflow.runs["etl", RUN] = state
    airflow.paused |= {"etl"} if paused else set()

    assert reaper.run(reaper_of(batch, TaskOwners), end=True) == code
    assert alive(batch) == both


def test_without_an_airflow_the_command_ends_only_what_is_past_its_time(
    batch: LocalAws, both: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start_cluster(batch, key(), ends_by=LONG_AGO)

    code = reaper.main(["--end"])

    assert code == 1
    assert "AIRFLOW_API_URL is not set" in capsys.readouterr().out
    assert alive(batch) == both


def test_the_command_says_what_it_lacks(
    batch: LocalAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AIRFLOW_VAR_AWS_JOBS")

    assert reaper.main([]) == 2
    assert "AIRFLOW_VAR_AWS_JOBS" in capsys.readouterr().err


def test_no_command_line_takes_a_secret() -> None:
    options = reaper._parser().format_help()

    assert not re.search(r"--\w*(token|password|user|url)", options)
    assert TAG_DEPLOYMENT not in options
