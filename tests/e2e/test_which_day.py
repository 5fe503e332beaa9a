"""The run for a date processes that date, whoever started it; and a day without raw data."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from scripts.airflow_rest import AirflowRest, AirflowRestError
from tests.e2e.harness import Case, World

DAG = "which_day"
DAILY = "emr_daily_etl"


@pytest.fixture(scope="module", autouse=True)
def run_without_data(world: World) -> Case:
    """Begun first: its task waits half a minute before its second try."""
    return world.begin("by hand, without raw data", DAILY, {"day": "2013-12-31"})


def told(rest: AirflowRest, run_id: str) -> str:
    """Wait for a run and return its day, which the log must name too."""
    run = rest.wait_for_run(DAG, run_id, timeout=120)
    log = rest.log(DAG, run_id, "tell")
    assert run["state"] == "success", log
    day = str(rest.xcom(DAG, run_id, "tell"))
    assert f"The day is {day}, from the " in log
    return day


def test_a_scheduled_run_is_for_the_day_that_is_over(world: World) -> None:
    run = world.scheduled_run(DAG)
    run_after = datetime.fromisoformat(run["run_after"])

    day = told(world.rest, run["dag_run_id"])

    assert day == (run_after - timedelta(days=1)).date().isoformat()
    assert "of a scheduled run" in world.rest.log(DAG, run["dag_run_id"], "tell")


def test_a_backfilled_run_is_for_its_day(world: World) -> None:
    world.rest.backfill(DAG, "2013-03-01", "2013-03-01")

    (run,) = [run for run in world.rest.runs(DAG) if run["run_type"] == "backfill"]
    assert told(world.rest, run["dag_run_id"]) == "2013-03-01"
    assert "of a backfill run" in world.rest.log(DAG, run["dag_run_id"], "tell")


def test_a_backfilled_run_refuses_another_day(world: World) -> None:
    other = "which_day_too"
    world.rest.backfill(other, "2013-03-02", "2013-03-02", conf={"day": "2013-03-09"})

    (run,) = [run for run in world.rest.runs(other) if run["run_type"] == "backfill"]
    assert world.rest.wait_for_run(other, run["dag_run_id"])["state"] == "failed"
    log = world.rest.log(other, run["dag_run_id"], "tell")
    assert "The parameter day is '2013-03-09' in a backfill run" in log


def test_a_run_triggered_with_a_logical_date_is_for_that_date(world: World) -> None:
    run_id = world.rest.trigger(DAG, "2013-03-03T00:00:00Z")

    assert told(world.rest, run_id) == "2013-03-03"


@pytest.mark.parametrize("logical_date", [None, "2013-03-04T12:34:56Z"])
def test_the_parameter_day_wins_in_a_manual_run(world: World, logical_date: str | None) -> None:
    run_id = world.rest.trigger(DAG, logical_date, conf={"day": "2013-03-05"})

    assert told(world.rest, run_id) == "2013-03-05"
    assert "from the parameter day" in world.rest.log(DAG, run_id, "tell")


def test_a_run_with_neither_day_nor_logical_date_says_what_to_give(world: World) -> None:
    run_id = world.rest.trigger(DAG)

    assert world.rest.wait_for_run(DAG, run_id)["state"] == "failed"
    log = world.rest.log(DAG, run_id, "tell")
    assert "The run has neither a day nor a logical date" in log


def test_a_run_triggered_by_the_command_line_is_for_its_logical_date(world: World) -> None:
    world.airflow("dags", "trigger", DAG, "--logical-date", "2013-03-06", "--run-id", "by-cli")

    assert told(world.rest, "by-cli") == "2013-03-06"


def test_dags_test_is_for_the_date_that_it_is_given(world: World) -> None:
    # The scheduler would run the tasks of a run that it sees, beside the command.
    world.rest.set_paused(DAG, True)
    try:
        printed = world.airflow("dags", "test", DAG, "2013-03-07")
    finally:
        world.rest.set_paused(DAG, False)

    assert "The day is 2013-03-07, from the logical date" in printed


@pytest.mark.parametrize(
    "conf",
    [
        {"day": "2013-02-30"},
        {"day": "yesterday"},
        {"instance_type": "m5.xlarge; rm -rf /"},
        {"core_instances": 0},
        {"core_instances": "3"},
        {"input_prefix": "../secrets"},
    ],
    ids=str,
)
def test_a_parameter_that_cannot_be_meant_is_refused_before_there_is_a_run(
    world: World, conf: dict[str, object]
) -> None:
    before = len(world.rest.runs(DAILY))

    with pytest.raises(AirflowRestError) as refusal:
        world.rest.trigger(DAILY, conf=conf)

    assert refusal.value.status == 400
    assert len(world.rest.runs(DAILY)) == before


def test_a_scheduled_day_without_raw_data_is_skipped_and_starts_no_cluster(world: World) -> None:
    run = world.scheduled_run(DAILY)

    case = world.end(Case("scheduled, without raw data", DAILY, run["dag_run_id"]))

    assert case.state == "success"
    assert (case.started, case.left) == (0, 0)
    assert set(world.rest.task_states(DAILY, case.run_id).values()) == {"skipped"}
    reason = world.why_skipped(DAILY, case.run_id, "check_input")
    day = run["logical_date"][:10]
    assert f"s3://localaws-data/raw/flights/{day}.csv has not come" in reason
    assert "No cluster was started" in reason


def test_a_manual_run_without_raw_data_fails_with_the_name_of_what_is_missing(
    world: World, run_without_data: Case
) -> None:
    case = world.end(run_without_data)

    assert case.state == "failed"
    assert (case.started, case.left) == (0, 0)
    assert set(case.ran) == {"check_input"}
    log = world.rest.log(DAILY, case.run_id, "check_input")
    assert "s3://localaws-data/raw/flights/2013-12-31.csv does not exist" in log
