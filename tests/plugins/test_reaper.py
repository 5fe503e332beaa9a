"""The reaper against a localaws: what it ends, and above all what it does not."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from airflow.sdk.execution_time import task_runner
from botocore.exceptions import EndpointConnectionError

from aws_jobs import emr_polling, reaper, reaper_task
from aws_jobs.batch_job import BatchJob
from aws_jobs.cluster_lease import Lease, LeaseTable, lease_user, user_owner
from aws_jobs.exceptions import HousekeepingError
from aws_jobs.identity import TAG_DEPLOYMENT, TAG_ENDS_BY, TAG_POOL, RunKey
from aws_jobs.job_flow import ClusterJob
from aws_jobs.reaper_attempts import Attempts
from aws_jobs.reaper_aws import BatchJobs, Clusters
from aws_jobs.reaper_decision import Action, Kind, LiveJob
from aws_jobs.reaper_owners import Owners, RestOwners, TaskOwners
from aws_jobs.reaper_round import Judge, Look, Outcome, Reaper
from aws_jobs.settings import Settings
from localaws.process import LocalAws
from tests.plugins.airflow_of_runs import AirflowOfRuns
from tests.plugins.conftest import SETTINGS, live_clusters
from tests.plugins.harness import (
    QUEUE,
    TaskInstance,
    bash_job,
    bash_step,
    job_flow,
    live_jobs,
)

RUN = "manual__2013-01-01T00:00:00+00:00"
LONG_AGO, LATER = "2013-01-01T00:00:00Z", "2113-01-01T00:00:00Z"
LEASES = "reaper-leases"
ASKED_BY = ["task", "rest"]

MUTATING = {
    "emr": {"TerminateJobFlows", "SetTerminationProtection"},
    "batch": {"TerminateJob", "CancelJob"},
}


@pytest.fixture(autouse=True)
def _large_quotas(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no look waits for its share of them."""
    monkeypatch.setattr("aws_jobs.batch_polling.QUOTA", (1000, 1000.0))
    for call in ("DescribeCluster", "ListClusters"):
        monkeypatch.setitem(emr_polling.QUOTAS, call, (1000, 1000.0))


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


@cache
def client(aws: LocalAws, service: str) -> Any:
    """One for all tests: it takes longer to make than what it does here."""
    made = aws.client(service, retries={"total_max_attempts": 1})
    made.meta.events.register("after-call.batch.DescribeJobQueues", leave_empty_queues_out)
    return made


def leave_empty_queues_out(parsed: dict[str, Any], **kwargs: Any) -> None:
    """Those of the project's own stacks: five listings each, at every look."""
    parsed["jobQueues"] = [each for each in parsed["jobQueues"] if each["jobQueueName"] == QUEUE]


def reaper_of(
    aws: LocalAws,
    new_owners: Callable[[], Owners],
    grace: timedelta = timedelta(0),
    **settings: Any,
) -> Reaper:
    given = Settings(**{**SETTINGS, **settings})
    return Reaper.of(given, partial(client, aws), new_owners, grace)


def round_of(aws: LocalAws, new_owners: Callable[[], Owners]) -> Outcome:
    return reaper_of(aws, new_owners).end(ids(reaper_of(aws, new_owners).look()))


def ids(look: Look) -> list[tuple[Kind, str]]:
    return [each.key for each in [*look.overdue, *look.orphans]]


def key(task_id: str = "task", **fields: Any) -> RunKey:
    return RunKey(
        **{"deployment_id": "local", "dag_id": "etl", "run_id": RUN, **fields},
        task_id=task_id,
        map_index=-1,
    )


def tags(ends_by: str = LATER) -> dict[str, str]:
    return {TAG_ENDS_BY: ends_by}


def start_cluster(aws: LocalAws, run_key: RunKey, ends_by: str = LATER, **spec: Any) -> str:
    (cluster_id,) = ClusterJob(client(aws, "emr"), job_flow(**spec), tags(ends_by)).submit_job(
        run_key
    )
    return cluster_id


def start_job(
    aws: LocalAws,
    run_key: RunKey,
    ends_by: str = LATER,
    script: str = "sleep 60",
    **request: Any,
) -> str:
    job = BatchJob(client(aws, "batch"), bash_job(script, **request), tags(ends_by), [QUEUE])
    (job_id,) = job.submit_job(run_key)
    return job_id


def alive(aws: LocalAws) -> set[str]:
    """What nobody has ended: a job that was told to end may take a moment."""
    jobs = client(aws, "batch").describe_jobs(
        jobs=[job["id"] for job in live_jobs(aws)] or ["none"]
    )
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


@pytest.mark.parametrize("state", ["running", None])
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


@pytest.mark.parametrize("state", ["running", "failed"])
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


def test_a_task_too_leaves_alone_the_runs_that_a_removed_dag_left(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    """A task is not told of a removed file; but the runs of its DAG stay as they were."""
    airflow.removed.add("etl")

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


def test_an_airflow_that_does_not_answer_ends_nothing(
    batch: LocalAws, both: set[str], new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    del airflow.runs["etl", RUN]
    airflow.away = "closed"

    look = reaper_of(batch, new_owners).look()

    assert {each.judgement.action for each in look.findings} == {Action.LEAVE}
    assert len(look.problems) == 1
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
    emr, jobs = client(batch, "emr"), client(batch, "batch")
    marked = f"looks like ours [{key().digest}]"
    others = {
        start_cluster(batch, key(deployment_id="other"), ends_by=LONG_AGO),
        start_job(batch, key(deployment_id="other"), ends_by=LONG_AGO),
        emr.run_job_flow(**job_flow(Name=marked), Tags=[])["JobFlowId"],
        jobs.submit_job(**bash_job("sleep 60", jobName=f"ours-{key().digest}"))["jobId"],
        emr.run_job_flow(**job_flow(Name="a person's"), Tags=[])["JobFlowId"],
        jobs.submit_job(**bash_job("sleep 60", jobName="a-person-s"))["jobId"],
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
        started[name] = client(batch, "emr").run_job_flow(**flow, Tags=kept)["JobFlowId"]

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
    ("state", "goes_on"), [("deferred", True), (None, True), ("upstream_failed", False)]
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


def test_an_airflow_that_went_away_between_the_looks_ends_nothing(
    batch: LocalAws, both: set[str], new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    look = reaper_of(batch, new_owners).look()

    airflow.away = "closed"
    airflow.asked = 0
    outcome = reaper_of(batch, new_owners).end(ids(look))

    assert (outcome.ended, len(outcome.left)) == ([], 2)
    assert len(outcome.problems) == 1
    assert airflow.asked == 1
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
            client(batch, "emr").terminate_job_flows(JobFlowIds=[external_id])
        else:
            client(batch, "batch").terminate_job(jobId=external_id, reason="a person")

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
    assert len(outcome.left) == 2

    airflow.ended_at[RUN] = (datetime.now(UTC) - timedelta(minutes=11)).isoformat()
    assert len(ten_minutes.end(ids(ten_minutes.look())).ended) == 2


# What AWS does


def denied(operation: str, service: str = "emr", **fault: Any) -> dict[str, Any]:
    refusal = {"kind": "error", "status": 400, "code": "AccessDeniedException"}
    return {"service": service, "operation": operation, **refusal, **fault}


def test_a_service_that_refuses_does_not_hide_the_other(
    batch: LocalAws, both: set[str], new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    batch.set_faults([denied("ListClusters")])

    look = reaper_of(batch, new_owners).look()

    assert [each.job.kind for each in look.orphans] == [Kind.BATCH_JOB]
    assert len(look.problems) == 1
    assert "not every cluster could be looked at" in look.problems[0]


def test_throttled_calls_are_repeated_and_what_is_past_them_is_not_lost(
    batch: LocalAws, both: set[str], end: Callable[[], Outcome], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    operations = {"emr": ["DescribeCluster", "TerminateJobFlows"], "batch": ["TerminateJob"]}
    batch.set_faults(
        [
            {"service": service, "operation": operation, "kind": "throttle", "count": 1}
            for service, names in operations.items()
            for operation in names
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
    batch.set_faults([denied("TerminateJobFlows")])

    outcome = reaper_of(batch, new_owners).end(ids(look))

    assert [each.job.kind for each in outcome.ended] == [Kind.BATCH_JOB]
    (problem,) = outcome.problems
    assert re.match(r"cluster j-\w+ could not be ended: .*AccessDenied", problem)


def test_one_cluster_hides_none_of_the_others(
    batch: LocalAws, new_owners: Callable[[], Owners]
) -> None:
    overdue = {start_cluster(batch, key(), ends_by=LONG_AGO) for _ in range(3)}
    batch.set_faults([denied("DescribeCluster", count=1)])

    look = reaper_of(batch, new_owners).look()

    found = {each.job.external_id for each in look.overdue}
    assert (len(found), len(look.problems)) == (2, 1)
    reaper_of(batch, new_owners).end(ids(look))
    assert alive(batch) == overdue - found


def test_a_tag_may_have_no_value() -> None:
    cluster = {
        "Name": "daily",
        "Status": {"State": "WAITING"},
        "Tags": [{"Key": "team"}, {"Key": TAG_ENDS_BY, "Value": LONG_AGO}],
    }

    class Emr:
        def describe_cluster(self, ClusterId: str) -> dict[str, Any]:
            return {"Cluster": cluster}

    (found,) = Clusters.of(Emr(), 1.0).describe(["j-1"])

    assert found.tags == {"team": "", TAG_ENDS_BY: LONG_AGO}


def test_what_is_needed_and_says_not_when_its_time_is_up_is_for_a_person_to_look_at(
    batch: LocalAws, new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    cluster_id = start_cluster(batch, key(), ends_by="tomorrow")

    (finding,) = reaper_of(batch, new_owners).look().left

    assert "does not say when its time is up" in str(finding)
    assert alive(batch) == {cluster_id}


def test_one_queue_hides_none_of_the_others(batch: LocalAws, both: set[str]) -> None:
    """It was deleted after it had been listed."""
    jobs = client(batch, "batch")

    def list_one_more(parsed: dict[str, Any], **kwargs: Any) -> None:
        parsed["jobQueues"].insert(0, {"jobQueueName": "gone"})

    jobs.meta.events.register_last("after-call.batch.DescribeJobQueues", list_one_more)
    try:
        look = reaper_of(batch, TaskOwners).look()
    finally:
        jobs.meta.events.unregister("after-call.batch.DescribeJobQueues", list_one_more)

    assert {each.job.external_id for each in look.findings} == both
    (problem,) = look.problems
    assert problem.startswith("not every job of the queue gone could be looked at: ")


def test_jobs_of_all_pages_are_looked_at_and_one_call_that_fails_hides_no_other(
    batch: LocalAws, airflow: AirflowOfRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = client(batch, "batch")

    def one_a_page(params: dict[str, Any], **kwargs: Any) -> None:
        params["maxResults"] = 1

    started = {start_job(batch, key(), ends_by=LONG_AGO) for _ in range(3)}
    monkeypatch.setattr(BatchJobs, "ids_per_call", 2)
    batch.set_faults([denied("DescribeJobs", "batch", count=1)])
    jobs.meta.events.register("before-parameter-build.batch.ListJobs", one_a_page)
    try:
        look = reaper_of(batch, TaskOwners).look()
    finally:
        jobs.meta.events.unregister("before-parameter-build.batch.ListJobs", one_a_page)

    found = {each.job.external_id for each in look.overdue}
    assert found < started
    assert len(found) in (1, 2)
    assert len(look.problems) == 1


def test_clusters_of_all_pages_are_looked_at() -> None:
    class TwoPages:
        def list_clusters(self, Marker: str = "", **arguments: Any) -> dict[str, Any]:
            listed = {"Id": f"j-{Marker}", "Name": f"daily [{key().digest}]"}
            return {"Clusters": [listed], **({} if Marker else {"Marker": "2"})}

    assert Clusters.of(TwoPages(), 1.0).marked(Attempts()) == {"j-", "j-2"}


def test_a_job_that_batch_refuses_to_end_is_not_said_to_be_ended(
    batch: LocalAws, airflow: AirflowOfRuns
) -> None:
    job_id = start_job(batch, key(), ends_by=LONG_AGO)
    batch.set_faults([denied("TerminateJob", "batch", code="ClientException", count=1)])

    outcome = reaper_of(batch, TaskOwners).end([(Kind.BATCH_JOB, job_id)])

    assert (outcome.ended, len(outcome.problems)) == ([], 1)
    assert alive(batch) == {job_id}


def test_a_job_that_ends_while_it_is_told_to_is_no_error(batch: LocalAws) -> None:
    """Batch answers for it as it does for what it refuses."""
    job_id = start_job(batch, key(), ends_by=LONG_AGO)
    place = BatchJobs.of(client(batch, "batch"), 1.0)
    (job,) = place.describe([job_id])
    client(batch, "batch").terminate_job(jobId=job_id, reason="a person")
    batch.set_faults([denied("TerminateJob", "batch", code="ClientException", count=1)])

    place.end(job, "its time was up")


def test_an_array_that_was_cancelled_lives_while_its_children_run() -> None:
    array = {"jobId": "a", "jobName": "map", "status": "PENDING", "isCancelled": True}

    class Batch:
        def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
            return {
                "jobs": [{**array, "jobId": each, "isTerminated": each == "b"} for each in jobs]
            }

    found = BatchJobs.of(Batch(), 1.0).describe(["a", "b"])

    assert [each.external_id for each in found] == ["a"]


@pytest.mark.parametrize(("share", "left"), [(0.8, 0.2), (0.4, 0.4), (0.5, 0.5), (1.0, 0.1)])
def test_housekeeping_takes_what_a_triggerer_leaves_of_the_quotas(
    share: float, left: float
) -> None:
    made = Reaper.of(
        Settings(**{**SETTINGS, "quota_share": share}), lambda service: None, TaskOwners
    )
    clusters, jobs = made.places
    assert isinstance(clusters, Clusters)
    assert isinstance(jobs, BatchJobs)

    assert clusters.emr.rates["describe_cluster"].refill == pytest.approx(1000 * left)
    assert jobs.batch.rates["list_jobs"].refill == pytest.approx(1000 * left)


def test_what_takes_too_long_is_not_begun() -> None:
    attempts = Attempts(seconds=-60)

    assert [attempts.make("a look", lambda: 1) for _ in range(3)] == [None] * 3
    assert attempts.problems == ["not everything was done within -1 minutes"]


def test_what_is_past_its_time_is_found_when_there_is_no_time_to_ask_airflow(
    airflow: AirflowOfRuns,
) -> None:
    judge = Judge(TaskOwners(), None, Attempts(seconds=-60))
    jobs = [
        LiveJob(
            Kind.CLUSTER, "j-1", f"daily [{key().digest}]", "WAITING", {**key().tags, **tags(at)}
        )
        for at in (LONG_AGO, LATER)
    ]

    actions = [judge.judge(job).judgement.action for job in jobs]

    assert actions == [Action.END_NOW, Action.LEAVE]
    assert len(judge.attempts.problems) == 1
    assert airflow.asked == 0


@pytest.mark.parametrize(
    ("error", "logged"),
    [(EndpointConnectionError(endpoint_url="https://emr"), 0), (KeyError("Name"), 1)],
)
def test_only_what_nobody_foresaw_is_logged_with_its_place_in_the_code(
    caplog: pytest.LogCaptureFixture, error: Exception, logged: int
) -> None:
    attempts = Attempts()

    def fail() -> None:
        raise error

    attempts.make("a look", fail)

    assert attempts.problems == [f"a look: {error}"]
    assert [bool(each.exc_info) for each in caplog.records] == [True] * logged


# Shared clusters


@pytest.fixture(scope="module")
def leases(localaws_process: LocalAws) -> LeaseTable:
    dynamodb = client(localaws_process, "dynamodb")
    dynamodb.create_table(
        TableName=LEASES,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    return LeaseTable(dynamodb, LEASES)


def share(
    aws: LocalAws, leases: LeaseTable, *users: str, seconds: float = 60, ends_by: str = LATER
) -> str:
    """A cluster whose founder's run was deleted long ago, with a lease for each run."""
    cluster_id = found_only(aws, ends_by)
    pool_id = f"local/pool/{cluster_id}"
    held = [lease(cluster_id, user, seconds) for user in users or ["nobody"]]
    leases.register(pool_id, "local", held[0])
    for each in held[1:]:
        shared = leases.cluster(cluster_id)
        assert shared is not None
        assert leases.join(shared, each)
    if not users:
        stored = {"id": {"S": cluster_id}}
        leases.dynamodb.update_item(
            TableName=LEASES,
            Key=stored,
            UpdateExpression="SET #users = :none",
            ExpressionAttributeNames={"#users": "users"},
            ExpressionAttributeValues={":none": {"M": {}}},
        )
    return cluster_id


def lease(cluster_id: str, run_id: str, seconds: float = 60) -> Lease:
    return Lease(cluster_id, lease_user("etl", run_id, "create", -1), f"use-{run_id}", seconds)


def users_of(leases: LeaseTable, cluster_id: str) -> list[str]:
    shared = leases.cluster(cluster_id)
    assert shared is not None
    return [user_owner(user)[1] for user in shared.users]


def sharing(aws: LocalAws, **settings: Any) -> Reaper:
    return reaper_of(aws, TaskOwners, **{"leases_table": LEASES, **settings})


def test_a_shared_cluster_is_its_users_and_not_its_founder_s(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    cluster_id = share(batch, leases, RUN)

    look = sharing(batch).look()

    assert [each.judgement.action for each in look.findings] == [Action.KEEP]
    assert alive(batch) == {cluster_id}


def test_users_that_are_gone_are_released_and_the_others_go_on(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", "ended"] = "failed"
    cluster_id = share(batch, leases, RUN, "ended", "deleted")

    outcome = sharing(batch).end(ids(sharing(batch).look()))

    assert (outcome.ended, len(outcome.released)) == ([], 1)
    assert users_of(leases, cluster_id) == [RUN]
    assert alive(batch) == {cluster_id}


def test_steps_of_users_that_are_gone_are_cancelled_and_the_others_go_on(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    cluster_id = share(batch, leases, RUN, "deleted")
    emr = client(batch, "emr")
    steps = emr.add_job_flow_steps(
        JobFlowId=cluster_id, Steps=[bash_step("sleep 60"), bash_step("sleep 60")]
    )["StepIds"]
    for user, step_id in zip((RUN, "deleted"), steps, strict=True):
        assert leases.note_steps(lease(cluster_id, user), [step_id])

    outcome = sharing(batch).end(ids(sharing(batch).look()))

    assert len(outcome.released) == 1
    states = [emr.describe_step(ClusterId=cluster_id, StepId=each)["Step"] for each in steps]
    kept, cancelled = (each["Status"]["State"] for each in states)
    assert kept in {"PENDING", "RUNNING"}
    assert cancelled in {"CANCEL_PENDING", "CANCELLED", "INTERRUPTED"}


def test_leases_are_given_back_also_where_steps_may_not_be_looked_at(
    batch: LocalAws,
    leases: LeaseTable,
    airflow: AirflowOfRuns,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster_id = share(batch, leases, RUN, "deleted")
    assert leases.note_steps(lease(cluster_id, "deleted"), ["s-1"])
    batch.set_faults([denied("ListSteps")])

    outcome = sharing(batch).end(ids(sharing(batch).look()))

    assert (len(outcome.released), outcome.problems) == (1, [])
    assert users_of(leases, cluster_id) == [RUN]
    assert f"Steps of cluster {cluster_id} go on without their run" in caplog.text


@pytest.mark.parametrize("case", ["all gone", "expired", "empty", "closing"])
def test_a_cluster_that_nobody_shares_any_more_is_ended(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns, case: str
) -> None:
    if case == "closing":
        cluster_id = share(batch, leases, RUN)
        leases.close(cluster_id)
    elif case == "empty":
        cluster_id = share(batch, leases)
    else:
        seconds = -60 if case == "expired" else 60
        cluster_id = share(batch, leases, "deleted", "deleted too", seconds=seconds)

    outcome = sharing(batch).end(ids(sharing(batch).look()))

    assert len(outcome.ended) == 1
    assert alive(batch) == set()
    shared = leases.cluster(cluster_id)
    assert shared is not None
    assert shared.is_closing


def test_a_lease_that_expired_while_its_run_goes_on_keeps_the_cluster(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    """No triggerer was there to renew it."""
    cluster_id = share(batch, leases, RUN, "deleted", seconds=-60)

    assert sharing(batch).look().orphans == []
    assert sharing(batch).end([(Kind.CLUSTER, cluster_id)]).ended == []
    assert alive(batch) == {cluster_id}


def test_who_joins_between_the_looks_keeps_the_cluster(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    cluster_id = share(batch, leases, "deleted")
    look = sharing(batch).look()
    assert len(look.orphans) == 1

    shared = leases.cluster(cluster_id)
    assert shared is not None
    assert leases.join(shared, lease(cluster_id, RUN))
    outcome = sharing(batch).end(ids(look))

    assert (outcome.ended, len(outcome.released)) == ([], 1)
    assert users_of(leases, cluster_id) == [RUN]
    assert alive(batch) == {cluster_id}


def test_who_joins_between_the_judgement_and_the_end_keeps_the_cluster(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    cluster_id = share(batch, leases)
    look = sharing(batch).look()

    class JoinsLate(LeaseTable):
        def release(self, released: Lease) -> Any:
            shared = self.cluster(cluster_id)
            assert shared is not None
            self.join(shared, lease(cluster_id, RUN))
            return super().release(released)

    late = replace(sharing(batch), leases=JoinsLate(leases.dynamodb, LEASES))
    outcome = late.end(ids(look))

    assert outcome.ended == []
    assert "somebody has joined it since" in outcome.spared[0]
    assert alive(batch) == {cluster_id}


def test_a_shared_cluster_past_its_time_is_ended_whoever_uses_it(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    cluster_id = share(batch, leases, RUN, ends_by=LONG_AGO)
    unknown_table = share(batch, leases, RUN, ends_by=LONG_AGO)

    assert len(sharing(batch).end([(Kind.CLUSTER, cluster_id)]).ended) == 1
    no_leases = sharing(batch, leases_table="gone")
    assert len(no_leases.end([(Kind.CLUSTER, unknown_table)]).ended) == 1
    assert alive(batch) == set()


@pytest.mark.parametrize("table", [None, "gone"])
def test_a_cluster_whose_users_cannot_be_told_is_left_alone(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns, table: str | None
) -> None:
    cluster_id = share(batch, leases, RUN)

    (finding,) = sharing(batch, leases_table=table).look().findings

    assert finding.judgement.action is Action.LEAVE
    assert alive(batch) == {cluster_id}


def found_only(aws: LocalAws, ends_by: str = LATER) -> str:
    """A cluster whose founder has died, or whose table is not the one it was founded with."""
    cluster_id = start_cluster(aws, key(run_id="founder"), ends_by)
    spec = {"Tags": [{"Key": TAG_POOL, "Value": "pool"}]}
    client(aws, "emr").add_tags(ResourceId=cluster_id, **spec)
    return cluster_id


def test_a_cluster_to_be_shared_that_the_table_does_not_know_is_left_until_its_time_is_up(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    young = found_only(batch)
    overdue = found_only(batch, LONG_AGO)

    outcome = sharing(batch).end([(Kind.CLUSTER, young), (Kind.CLUSTER, overdue)])

    assert [each.job.external_id for each in outcome.ended] == [overdue]
    assert [each.job.external_id for each in outcome.left] == [young]
    assert alive(batch) == {young}


def test_a_lease_that_is_taken_anew_after_the_judgement_stays(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    """Its run was cleared; the user is the same, the use is not."""
    cluster_id = share(batch, leases, "deleted")
    anew = replace(lease(cluster_id, "deleted"), use="another")

    class TakenAnew(LeaseTable):
        def cluster(self, cluster_id: str) -> Any:
            read = super().cluster(cluster_id)
            if read and not read.holds(anew):
                self.join(read, anew)
            return read

    late = replace(sharing(batch), leases=TakenAnew(leases.dynamodb, LEASES))
    outcome = late.end([(Kind.CLUSTER, cluster_id)])

    assert outcome.ended == []
    shared = leases.cluster(cluster_id)
    assert shared is not None
    assert shared.holds(anew)
    assert alive(batch) == {cluster_id}


def test_a_table_that_does_not_answer_is_asked_once_and_only_for_what_may_be_shared(
    batch: LocalAws,
    leases: LeaseTable,
    airflow: AirflowOfRuns,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aws_jobs.reaper_round._LEASE_BUDGET", 0)
    kept = start_cluster(batch, key())
    left = {share(batch, leases, RUN) for _ in range(2)}
    batch.reset_calls()
    batch.set_faults([{"service": "dynamodb", "operation": "GetItem", "kind": "error"}])

    look = sharing(batch).look()

    assert [each.job.external_id for each in look.with_action(Action.KEEP)] == [kept]
    assert {each.job.external_id for each in look.left} == left
    assert len(look.problems) == 1
    assert batch.calls()["dynamodb"]["GetItem"] == {"500": 1}


def test_a_cluster_without_a_lease_is_its_founder_s(
    batch: LocalAws, leases: LeaseTable, airflow: AirflowOfRuns
) -> None:
    kept, gone = start_cluster(batch, key()), start_cluster(batch, key(run_id="founder"))

    sharing(batch).end(ids(sharing(batch).look()))

    assert alive(batch) == {kept}
    assert gone not in alive(batch)


# As a task


@pytest.fixture
def its_clients(batch: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper_task, "aws_client", lambda service, *_: client(batch, service))


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
    assert ti.xcoms == {"deployment": f"local (123456789012, {SETTINGS['region']})"}
    assert alive(batch) == both
    assert changes(batch) == set()


@pytest.mark.usefixtures("its_clients")
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


@pytest.mark.usefixtures("its_clients")
def test_the_task_does_not_wait_where_only_time_is_up(
    batch: LocalAws, airflow: AirflowOfRuns
) -> None:
    start_cluster(batch, key(), ends_by=LONG_AGO)
    ti, found = begin(airflow)

    ending(found, 10).execute(ti.context)  # type: ignore[arg-type]

    assert alive(batch) == set()


@pytest.mark.usefixtures("its_clients")
def test_the_task_is_skipped_where_there_is_nothing_to_do(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    ti, found = begin(airflow)

    with pytest.raises(AirflowSkipException):
        ending(found, 0).execute(ti.context)  # type: ignore[arg-type]


@pytest.mark.usefixtures("its_clients")
def test_the_task_ends_what_it_can_and_fails_for_the_rest_until_the_fault_is_gone(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    batch.set_faults([denied("ListClusters")])
    ti, found = begin(airflow)

    with pytest.raises(HousekeepingError, match="not every cluster"):
        ending(found, 0).execute(ti.context)  # type: ignore[arg-type]
    assert alive(batch) == {each for each in both if each.startswith("j-")}

    # Its retry, and whoever clears it, is told the same of the first look.
    overdue = start_cluster(batch, key(), ends_by=LONG_AGO)
    batch.set_faults([])
    result = ending(found, 0).execute(ti.context)  # type: ignore[arg-type]
    assert [overdue in each for each in result["ended"]] == [True]
    assert alive(batch) == {each for each in both if each.startswith("j-")}


@pytest.mark.usefixtures("its_clients")
def test_the_task_does_not_let_what_is_past_its_time_wait_for_the_others(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    start_cluster(batch, key(), ends_by=LONG_AGO)
    ti, found = begin(airflow)

    with pytest.raises(TaskDeferred):
        ending(found, 10).execute(ti.context)  # type: ignore[arg-type]
    assert alive(batch) == both

    ending(found, 10).execute_complete(ti.context, True)  # type: ignore[arg-type]
    assert alive(batch) == set()


@pytest.mark.usefixtures("its_clients")
def test_the_task_fails_where_airflow_does_not_answer(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    ti, found = begin(airflow)
    airflow.away = "closed"

    with pytest.raises(HousekeepingError, match="Airflow did not say"):
        ending(found, 0).execute(ti.context)  # type: ignore[arg-type]
    assert alive(batch) == both


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


def test_the_command_does_not_let_what_is_past_its_time_wait_for_the_others(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    start_cluster(batch, key(), ends_by=LONG_AGO)
    alive_while_it_waits: list[set[str]] = []

    code = reaper.run(
        reaper_of(batch, TaskOwners, timedelta(minutes=10)),
        end=True,
        sleep=lambda seconds: alive_while_it_waits.append(alive(batch)),
    )

    assert (code, alive_while_it_waits) == (0, [both])
    assert alive(batch) == set()


@pytest.mark.parametrize(("case", "code"), [("needed", 0), ("paused", 1), ("away", 2)])
def test_the_exit_code_tells_what_became_of_what_was_to_end(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns, case: str, code: int
) -> None:
    airflow.runs["etl", RUN] = "failed"

    def change(seconds: float) -> None:
        airflow.runs["etl", RUN] = "running" if case == "needed" else "failed"
        airflow.paused |= {"etl"} if case == "paused" else set()
        airflow.away = "closed" if case == "away" else ""

    ten_minutes = reaper_of(batch, TaskOwners, timedelta(minutes=10))
    assert reaper.run(ten_minutes, end=True, sleep=change) == code
    assert alive(batch) == both


def test_the_exit_code_tells_of_a_run_that_has_only_just_ended(
    batch: LocalAws, both: set[str], airflow: AirflowOfRuns
) -> None:
    airflow.runs["etl", RUN] = "failed"
    airflow.ended_at[RUN] = datetime.now(UTC).isoformat()
    ten_minutes = reaper_of(
        batch, lambda: RestOwners(airflow.client(), "local"), timedelta(minutes=10)
    )

    # A clock that is behind: the grace has not passed.
    assert reaper.run(ten_minutes, end=True, sleep=lambda seconds: None) == 1
    assert alive(batch) == both


@pytest.mark.parametrize(
    "account", ["123456789012", "210987654321"], ids=["its own", "another account's"]
)
def test_the_command_believes_the_airflow_of_its_own_account_only(
    batch: LocalAws,
    both: set[str],
    airflow: AirflowOfRuns,
    monkeypatch: pytest.MonkeyPatch,
    account: str,
) -> None:
    """Two accounts may have deployments of one name; to each, all of the other looks deleted."""
    airflow.deployment_id = f"local ({account}, {SETTINGS['region']})"
    airflow.runs.clear()
    monkeypatch.setattr(reaper, "airflow_session", lambda environ: airflow.client())

    code = reaper.main(["--end", "--grace", "0"])

    is_its_own = account == "123456789012"
    assert code == (0 if is_its_own else 2)
    assert alive(batch) == (set() if is_its_own else both)


@pytest.mark.parametrize("url", ["", "http://host:port", "localhost:8080"])
def test_what_is_past_its_time_is_ended_wherever_airflow_is_said_to_be(
    batch: LocalAws, both: set[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("AIRFLOW_API_URL", url)
    start_cluster(batch, key(), ends_by=LONG_AGO)

    assert reaper.main(["--end"]) == 2
    assert alive(batch) == both


def test_a_terminal_that_cannot_show_a_run_s_id_keeps_no_cluster_alive(
    batch: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_cluster(batch, key(run_id="läuft__中"), ends_by=LONG_AGO)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "latin-1", write_through=True))

    assert reaper.main(["--end"]) == 0
    assert "läuft__\\u4e2d" in shown.getvalue().decode("latin-1")
    assert alive(batch) == set()


@pytest.mark.parametrize("grace", ["nan", "inf", "-5", "soon"])
def test_a_grace_is_a_number_of_seconds(grace: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        reaper.main(["--grace", grace])

    assert stop.value.code == 2


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

    assert code == 2
    assert capsys.readouterr().err.count("AIRFLOW_API_URL is not set") == 1
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
