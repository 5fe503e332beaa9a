"""The documented backfill, on real flights with real Spark: exactly its days, each once."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest

from tests.e2e.harness import Case, World

DAG = "emr_daily_etl"
DAYS = [(date(2013, 1, 1) + timedelta(days=number)).isoformat() for number in range(3)]
COMMAND = (
    *("backfill", "create", "--dag-id", DAG),
    *("--from-date", DAYS[0], "--to-date", DAYS[-1], "--max-active-runs", "2"),
)

# Two Spark steps a day, and each has the machine for itself at best.
pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]


def runs_of_backfills(world: World) -> dict[str, dict[str, object]]:
    return {
        run["logical_date"][:10]: run
        for run in world.rest.runs(DAG)
        if run["run_type"] == "backfill"
    }


def most_at_once(runs: list[dict[str, object]]) -> int:
    """Return how many runs were under way at the same moment at the most."""
    spans = [
        tuple(datetime.fromisoformat(str(run[end])) for end in ("start_date", "end_date"))
        for run in runs
    ]
    return max(sum(start <= begun < end for start, end in spans) for begun, _ in spans)


def test_a_backfill_publishes_each_of_its_days_and_a_second_one_nothing(
    world: World, source_rows: dict[str, int]
) -> None:
    world.airflow(*COMMAND)
    runs = runs_of_backfills(world)
    assert sorted(runs) == DAYS
    cases = [
        world.end(Case(f"backfilled for {day}", DAG, str(runs[day]["dag_run_id"])), timeout=800)
        for day in DAYS
    ]

    ends = [(case.state, case.started, case.left) for case in cases]
    assert ends == [("success", 1, 0)] * len(DAYS)
    published = {day: world.published(day) for day in DAYS}
    assert {day: int(each["rows_in"]) for day, each in published.items()} == {
        day: source_rows[day] for day in DAYS
    }
    assert [each["published_by"] for each in published.values()] == [case.run_id for case in cases]
    assert most_at_once(list(runs_of_backfills(world).values())) <= 2

    (backfill,) = world.rest.call("GET", "/backfills", params={"dag_id": DAG})["backfills"]
    world.rest.wait_for_backfill(backfill["id"])
    clusters = len(world.all_clusters())
    before = runs_of_backfills(world)
    world.airflow(*COMMAND)
    backfills = world.rest.call("GET", "/backfills", params={"dag_id": DAG})["backfills"]
    (second,) = [each for each in backfills if each["id"] != backfill["id"]]
    world.rest.wait_for_backfill(second["id"])

    assert runs_of_backfills(world) == before
    assert len(world.all_clusters()) == clusters
    assert {day: world.published(day) for day in DAYS} == published
