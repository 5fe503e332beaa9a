"""Both EMR DAGs on one day of real flights, with real Spark; and what runs again after that."""

from __future__ import annotations

import json

import pytest

from aws_jobs.identity import TAG_DEPLOYMENT, TAG_ENDS_BY, TAG_RUN_KEY, TAG_TASK
from aws_jobs.links.emr import CLUSTER_LINK, LOGS_LINK, STEP_LINK
from tests.e2e.harness import Case, World

DAY = "2013-01-08"
OTHER_DAY = "2013-01-09"
DAILY = "emr_daily_etl"
BY_SENSORS = "emr_step_sensors"

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def runs(world: World) -> dict[str, Case]:
    """A run of each DAG, both under way."""
    return {
        dag_id: world.begin("triggered for a day", dag_id, {"day": DAY})
        for dag_id in (DAILY, BY_SENSORS)
    }


@pytest.fixture(scope="module")
def daily_run(world: World, runs: dict[str, Case]) -> Case:
    return world.end(runs[DAILY])


def test_the_daily_etl_runs_each_task_on_one_cluster(daily_run: Case) -> None:
    assert daily_run.state == "success"
    assert daily_run.started == 1
    assert set(daily_run.ran) == {
        "check_input",
        "create_cluster",
        "ingest",
        "report",
        "terminate_cluster",
        "check_output",
        "publish",
    }


def test_the_daily_etl_accounts_for_each_row_of_the_source(
    world: World, daily_run: Case, source_rows: dict[str, int]
) -> None:
    counts = world.rest.xcom(DAILY, daily_run.run_id, "check_output")

    assert counts["day"] == DAY
    assert counts["rows_in"] == source_rows[DAY] == counts["rows_out"] + counts["rows_rejected"]
    assert 0 < counts["rows_delays"] <= counts["rows_out"]


def test_the_day_is_published_from_where_its_steps_wrote(world: World, daily_run: Case) -> None:
    (cluster,) = world.clusters(DAILY, daily_run.run_id)
    wrote_to = f"s3://localaws-data/flights/day={DAY}/{cluster['id']}"

    published = world.published(DAY)

    assert published["location"] == f"{wrote_to}/delays/"
    assert published["flights_location"] == f"{wrote_to}/flights/"
    assert published["published_by"] == daily_run.run_id
    for part in ("delays", "flights"):
        assert any(key.endswith(".parquet") for key in world.objects(f"{wrote_to}/{part}/"))


def test_the_asset_event_carries_the_day_and_its_row_counts(
    world: World, daily_run: Case, source_rows: dict[str, int]
) -> None:
    event = world.published_events(DAILY, daily_run.run_id)[0]

    assert event["name"] == "flight_delays"
    assert event["extra"]["day"] == DAY
    assert event["extra"]["rows_in"] == source_rows[DAY]
    assert event["extra"] == world.rest.xcom(DAILY, daily_run.run_id, "publish")


def test_each_emr_task_links_to_its_cluster_step_and_logs(world: World, daily_run: Case) -> None:
    (cluster,) = world.clusters(DAILY, daily_run.run_id)
    step_id = world.rest.xcom(DAILY, daily_run.run_id, "ingest")

    for task_id in ("create_cluster", "ingest", "report", "terminate_cluster"):
        links = world.rest.links(DAILY, daily_run.run_id, task_id)
        assert cluster["id"] in (links[CLUSTER_LINK] or "")
        assert cluster["id"] in (links[LOGS_LINK] or "")
    links = world.rest.links(DAILY, daily_run.run_id, "ingest")
    assert step_id in (links[STEP_LINK] or "")
    assert step_id in (links[LOGS_LINK] or "")


def test_the_cluster_says_whose_it_is_and_when_it_must_have_ended(
    world: World, daily_run: Case
) -> None:
    (cluster,) = world.clusters(DAILY, daily_run.run_id)
    settings = json.loads(world.stack.environ["AIRFLOW_VAR_AWS_JOBS"])
    tags = cluster["tags"]

    assert tags[TAG_DEPLOYMENT] == settings["deployment_id"]
    assert tags[TAG_TASK] == "create_cluster"
    assert tags["owner"] == settings["owner"]
    assert tags["cost-centre"] == settings["cost_centre"]
    assert tags[TAG_RUN_KEY] in cluster["name"]
    assert tags[TAG_ENDS_BY] > world.rest.run(DAILY, daily_run.run_id)["end_date"]


def test_the_published_form_runs_whole_with_the_ids_handed_over_by_xcom(
    world: World, runs: dict[str, Case], source_rows: dict[str, int]
) -> None:
    case = world.end(runs[BY_SENSORS])

    assert case.state == "success"
    assert case.started == 1
    assert set(case.ran) == {
        "create_cluster",
        "cluster_sensor",
        "submit_steps",
        "step_sensor",
        "check_output",
        "terminate_cluster",
    }
    counts = world.rest.xcom(BY_SENSORS, case.run_id, "check_output")
    assert counts["rows_in"] == source_rows[DAY] == counts["rows_out"] + counts["rows_rejected"]


def test_clearing_the_report_makes_a_new_cluster_for_it_and_ingests_nothing(
    world: World, daily_run: Case
) -> None:
    (first,) = world.clusters(DAILY, daily_run.run_id)[:1]

    with world.happens("`report` cleared after the run", DAILY, daily_run.run_id) as case:
        world.rest.clear(DAILY, daily_run.run_id, ["report"], downstream=True)

    assert case.state == "success"
    assert case.started == 1
    assert set(case.ran) == {
        "create_cluster",
        "report",
        "terminate_cluster",
        "check_output",
        "publish",
    }
    newest = world.clusters(DAILY, daily_run.run_id)[-1]
    assert newest["id"] in world.published(DAY)["location"]
    assert first["id"] in world.published(DAY)["flights_location"]


def test_clearing_publish_publishes_again_and_starts_no_cluster(
    world: World, daily_run: Case
) -> None:
    before = world.published(DAY)

    with world.happens("`publish` cleared after the run", DAILY, daily_run.run_id) as case:
        world.rest.clear(DAILY, daily_run.run_id, ["publish"])

    assert case.state == "success"
    assert case.started == 0
    assert set(case.ran) == {"publish"}
    assert world.published(DAY) == before


def test_marking_a_step_failed_while_it_runs_ends_step_and_cluster_and_publishes_nothing(
    world: World,
) -> None:
    case = world.begin("`ingest` marked failed while it waits", DAILY, {"day": OTHER_DAY})
    world.rest.wait_for_task(DAILY, case.run_id, "ingest", {"deferred"})
    world.rest.mark_task(DAILY, case.run_id, "ingest", "failed")
    world.end(case)

    assert case.state == "failed"
    assert case.started == 1
    assert set(case.ran) == {"check_input", "create_cluster", "ingest", "terminate_cluster"}
    (cluster,) = world.clusters(DAILY, case.run_id)
    steps = world.client("emr").list_steps(ClusterId=cluster["id"])["Steps"]
    assert [step["Status"]["State"] for step in steps] != ["COMPLETED"]
    assert world.published(OTHER_DAY) == {}
