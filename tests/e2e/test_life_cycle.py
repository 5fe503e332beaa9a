"""What runs again and what is left when something goes wrong, and who publishes a day."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.harness import Case, World

DAG = "daily_by_bash"
CREATE, TERMINATE = "create_cluster", "terminate_cluster"
ALL = {CREATE, "ingest", "report", TERMINATE, "check_output", "publish"}

# What a run is asked for, by what happens to it then.
RUNS: dict[str, dict[str, object]] = {
    "the first cluster fails to start": {"day": "2013-02-01", "failing_bootstraps": 1},
    "no cluster starts": {"day": "2013-02-02", "failing_bootstraps": 9},
    "`ingest` fails once": {"day": "2013-02-03", "failing_ingests": 1},
    "`ingest` fails": {"day": "2013-02-04", "failing_ingests": 3},
    "one of two for a day": {"day": "2013-02-05"},
    "the other at once": {"day": "2013-02-05"},
}


@pytest.fixture(scope="module")
def runs(world: World) -> dict[str, Case]:
    """All of them, under way."""
    return {name: world.begin(name, DAG, conf) for name, conf in RUNS.items()}


def test_a_cluster_that_fails_to_start_once_is_replaced_and_says_why(
    world: World, runs: dict[str, Case]
) -> None:
    case = world.end(runs["the first cluster fails to start"])

    assert case.state == "success"
    assert (case.started, case.left) == (2, 0)
    assert set(case.ran) == ALL
    first, second = world.clusters(DAG, case.run_id)
    assert (first["state"], second["state"]) == ("TERMINATED_WITH_ERRORS", "TERMINATED")
    log = world.logs(DAG, case.run_id, CREATE)
    assert "BOOTSTRAP_FAILURE" in log
    assert "bootstrap: try 1, of which 1 fail" in log


def test_a_cluster_that_never_starts_fails_the_run_with_none_alive(
    world: World, runs: dict[str, Case]
) -> None:
    case = world.end(runs["no cluster starts"])

    assert case.state == "failed"
    assert case.left == 0
    assert set(case.ran) == {CREATE}
    states = [cluster["state"] for cluster in world.clusters(DAG, case.run_id)]
    assert 1 < len(states) <= case.ran[CREATE]
    assert set(states) == {"TERMINATED_WITH_ERRORS"}


def test_a_step_that_fails_once_is_submitted_again_to_the_same_cluster(
    world: World, runs: dict[str, Case]
) -> None:
    case = world.end(runs["`ingest` fails once"])

    assert case.state == "success"
    assert (case.started, case.left) == (1, 0)
    assert case.ran["ingest"] > 1
    assert "ingest: try 1 of 1 that fail" in world.logs(DAG, case.run_id, "ingest")


def test_a_step_that_keeps_failing_fails_the_run_and_ends_the_cluster_until_it_is_cleared(
    world: World, runs: dict[str, Case]
) -> None:
    case = world.end(runs["`ingest` fails"])

    assert case.state == "failed"
    assert (case.started, case.left) == (1, 0)
    assert set(case.ran) == {CREATE, "ingest", TERMINATE}
    assert world.rest.task_states(DAG, case.run_id) == {
        CREATE: "success",
        "ingest": "failed",
        "report": "upstream_failed",
        "check_output": "upstream_failed",
        "publish": "upstream_failed",
        TERMINATE: "success",
    }
    assert world.published("2013-02-04") == {}

    with world.happens("`ingest` cleared after it failed", DAG, case.run_id) as cleared:
        world.rest.clear(DAG, case.run_id, ["ingest"], downstream=True)

    assert cleared.state == "success"
    assert (cleared.started, cleared.left) == (1, 0)
    assert set(cleared.ran) == ALL
    assert world.published("2013-02-04")["published_by"] == case.run_id


def test_two_runs_of_a_day_at_once_leave_one_result_that_is_whole(
    world: World, runs: dict[str, Case]
) -> None:
    one, other = (world.end(runs[name]) for name in ("one of two for a day", "the other at once"))

    assert (one.state, one.started, one.left) == ("success", 1, 0)
    assert (other.state, other.started, other.left) == ("success", 1, 0)
    published = world.published("2013-02-05")
    (cluster,) = world.clusters(DAG, published["published_by"])
    for location in ("location", "flights_location"):
        assert f"/{cluster['id']}/" in published[location]


def test_a_run_that_read_its_data_earlier_does_not_replace_what_a_later_one_published(
    world: World, tmp_path: Path
) -> None:
    day, go_on = "2013-02-06", tmp_path / "go-on"
    slow = world.begin(
        "overtaken by a later run", DAG, {"day": day, "report_waits_for": str(go_on)}
    )
    world.rest.wait_for_task(DAG, slow.run_id, "report", {"deferred"})

    later = world.new_run("overtakes an earlier run", DAG, {"day": day})
    go_on.touch()
    world.end(slow)

    assert (later.state, slow.state) == ("success", "success")
    assert world.rest.task(DAG, slow.run_id, "publish")["state"] == "skipped"
    assert f"published already by {later.run_id}" in world.why_skipped(DAG, slow.run_id, "publish")
    assert world.published(day)["published_by"] == later.run_id
