"""Housekeeping with a real Airflow: asked by its REST API, and from inside its own tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from aws_jobs import reaper
from aws_jobs.batch_job import BatchJob
from aws_jobs.identity import TAG_ENDS_BY, RunKey
from aws_jobs.job_flow import ClusterJob
from scripts.local_env import ADMIN
from tests.e2e.harness import World
from tests.housekeeping import (
    HOUSEKEEPING,
    begin_housekeeping,
    keep_house,
    wait_for_housekeeping,
)
from tests.plugins.harness import job_flow

DAG, PAUSED = "which_day", "which_day_too"
DAY = {"day": "2013-03-05"}
LONG_AGO, LATER = "2013-01-01T00:00:00Z", "2113-01-01T00:00:00Z"
QUEUE, DEFINITION = "local-mapping-graviton-on-demand", "local-mapping-graviton"
# More than the queue's machines have: such a job waits until somebody ends it.
ENDLESS = {"resourceRequirements": [{"type": "VCPU", "value": "4000"}]}


def start_cluster(world: World, run_key: RunKey, ends_by: str = LATER) -> str:
    tags = {TAG_ENDS_BY: ends_by}
    (cluster_id,) = ClusterJob(world.client("emr"), job_flow(), tags).submit_job(run_key)
    return cluster_id


def start_job(world: World, run_key: RunKey) -> str:
    request = {
        "jobName": "endless",
        "jobQueue": QUEUE,
        "jobDefinition": DEFINITION,
        "containerOverrides": ENDLESS,
    }
    job = BatchJob(world.client("batch"), request, {TAG_ENDS_BY: LATER}, [QUEUE])
    (job_id,) = job.submit_job(run_key)
    return job_id


def alive(world: World) -> set[str]:
    clusters = [each for each in world.all_clusters() if not each["state"].startswith("TERMINAT")]
    jobs = [each for each in world.all_jobs() if each["state"] not in {"SUCCEEDED", "FAILED"}]
    return {each["id"] for each in [*clusters, *jobs]}


@pytest.fixture
def owners(world: World) -> Iterator[dict[str, RunKey]]:
    """Run keys of runs that have ended, were deleted, and belong to a paused DAG."""
    rest = world.rest
    rest.wait_for_dags([HOUSEKEEPING])
    runs = [rest.trigger(DAG, conf=DAY, run_id=name) for name in ("ended", "del+eted")]
    rest.set_paused(PAUSED, True)
    rest.set_paused(HOUSEKEEPING, False)
    rest.trigger(PAUSED, conf=DAY, run_id="resting")
    for run_id in runs:
        rest.wait_for_run(DAG, run_id)
    rest.delete_run(DAG, "del+eted")
    yield {
        "ended": RunKey("local", DAG, "ended", "tell", -1),
        "deleted": RunKey("local", DAG, "del+eted", "tell", -1),
        "paused": RunKey("local", PAUSED, "resting", "tell", -1),
        "needed": RunKey("local", HOUSEKEEPING, "by-hand", "end_orphans", -1),
        "unknown DAG": RunKey("local", "gone", "ended", "tell", -1),
        "other": RunKey("other", DAG, "ended", "tell", -1),
    }
    rest.set_paused(HOUSEKEEPING, True)
    rest.set_paused(PAUSED, False)
    rest.wait_for_run(PAUSED, "resting")


@pytest.fixture
def shell(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person sets who works from a shell."""
    environ = world.stack.environ
    for name in environ:
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, environ[name])
    # Housekeeping takes what the triggers leave of the quotas, here a half.
    settings = json.loads(environ["AIRFLOW_VAR_AWS_JOBS"]) | {"quota_share": 0.5}
    monkeypatch.setenv("AIRFLOW_VAR_AWS_JOBS", json.dumps(settings))
    monkeypatch.setenv("AIRFLOW_API_URL", world.stack.airflow_url)
    monkeypatch.setenv("AIRFLOW_API_USERNAME", ADMIN)
    monkeypatch.setenv("AIRFLOW_API_PASSWORD", world.stack.password)


def judged(printed: str) -> dict[str, str]:
    """Read the table: what is to be done with each id."""
    rows = re.findall(r"^(end|leave|keep|release)(?: now)? +(?:cluster|job) +(\S+)", printed, re.M)
    return {external_id: action for action, external_id in rows}


@pytest.mark.usefixtures("shell")
def test_housekeeping_ends_what_nobody_needs_and_nothing_else(
    world: World, owners: dict[str, RunKey], capsys: pytest.CaptureFixture[str]
) -> None:
    assert keep_house(world.rest, "first") == {"find_orphans": "success", "end_orphans": "skipped"}

    ended = {
        start_cluster(world, owners["ended"]),
        start_cluster(world, owners["deleted"]),
        start_job(world, owners["ended"]),
        start_job(world, owners["deleted"]),
    }
    overdue = start_cluster(world, owners["paused"], ends_by=LONG_AGO)
    left = {
        start_cluster(world, owners["paused"]),
        start_job(world, owners["paused"]),
        start_cluster(world, owners["unknown DAG"]),
    }
    others = {start_cluster(world, owners["other"]), start_job(world, owners["other"])}

    # Its own run is the one that goes on; it is not there yet, and what it needs neither.
    assert reaper.main([]) == 1
    todo = judged(capsys.readouterr().out)
    assert {each for each, action in todo.items() if action == "end"} == ended | {overdue}
    assert {each for each, action in todo.items() if action == "leave"} == left
    assert not others & todo.keys()
    assert alive(world) == ended | {overdue} | left | others

    run_id = begin_housekeeping(world.rest, "by-hand")
    needed = {start_cluster(world, owners["needed"]), start_job(world, owners["needed"])}
    states = wait_for_housekeeping(world.rest, run_id)

    told = json.dumps(world.rest.xcom(HOUSEKEEPING, run_id, "end_orphans"))
    assert states == {"find_orphans": "success", "end_orphans": "success"}, told
    assert alive(world) == left | others | needed
    assert all(each in told for each in ended | {overdue})

    # By now, their run has ended too.
    assert reaper.main(["--end", "--grace", "0"]) == 1
    assert capsys.readouterr().out.count("ended ") >= 2
    assert alive(world) == left | others

    end_all(world, left | others)


def end_all(world: World, external_ids: set[str]) -> None:
    emr: Any = world.client("emr")
    for external_id in external_ids:
        if external_id.startswith("j-"):
            emr.terminate_job_flows(JobFlowIds=[external_id])
        else:
            world.client("batch").terminate_job(jobId=external_id, reason="the test is over")
    world.wait_until(lambda: not world.left_running() and not world.jobs_left_running())
