"""What a task takes for an answer of Airflow's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time import task_runner

from aws_jobs.airflow_states import (
    airflow_dag_is_paused,
    airflow_run_state,
    airflow_task_states,
    is_away,
)
from tests.plugins.airflow_of_runs import AirflowOfRuns, refusal


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> AirflowOfRuns:
    airflow = AirflowOfRuns(runs={("etl", "run"): "running"})
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", airflow, raising=False)
    return airflow


def test_airflow_is_asked_how_a_run_is(airflow: AirflowOfRuns) -> None:
    assert airflow_run_state("etl", "run") == "running"


def test_a_run_that_airflow_does_not_know_is_over(airflow: AirflowOfRuns) -> None:
    assert airflow_run_state("etl", "another") is None


def not_found(message: str) -> dict[str, Any]:
    return {"detail": {"reason": "not_found", "message": message}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"detail": "Internal Server Error"}),
        (None, None),
        (401, {"detail": "Invalid auth token"}),
        (403, {"detail": "Forbidden"}),
        # A proxy's, and that of a path that Airflow does not have.
        (404, {"detail": "Not Found"}),
        (404, {}),
        (404, None),
        (404, ["Not Found"]),
        # That of another run.
        (404, not_found("Dag run with dag_id 'etl' and run_id 'run' was not found")),
        (404, not_found("Dag run with dag_id 'etl' and run_id 'gone_too' was not found")),
        (500, not_found("Dag run with dag_id 'etl' and run_id 'gone' was not found")),
    ],
)
@pytest.mark.parametrize(
    "ask", [lambda: airflow_run_state("etl", "gone"), lambda: airflow_dag_is_paused("gone")]
)
def test_an_answer_that_is_not_about_the_very_thing_means_nothing(
    monkeypatch: pytest.MonkeyPatch, status: int | None, body: Any, ask: Callable[[], Any]
) -> None:
    class Refusing:
        def send(self, msg: Any) -> Any:
            raise refusal(status, body)

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Refusing(), raising=False)

    with pytest.raises(AirflowRuntimeError):
        ask()


@pytest.mark.parametrize("run_id", ["a/b", "a?b", "a#b", "a%2Fb", "..", "a\\b"])
def test_a_run_id_that_breaks_the_url_is_not_asked_for(airflow: AirflowOfRuns, run_id: str) -> None:
    with pytest.raises(ValueError, match="cannot ask"):
        airflow_run_state("etl", run_id)


def test_the_instances_of_a_task_are_told_apart_from_those_of_another(
    airflow: AirflowOfRuns,
) -> None:
    airflow.tasks = {
        ("etl", "run", "map", 0): "success",
        ("etl", "run", "map", 12): None,
        ("etl", "run", "map_1", -1): "failed",
        ("etl", "another", "map", 2): "failed",
    }

    assert airflow_task_states("etl", "run", "map") == {0: "success", 12: None}
    assert airflow_task_states("etl", "run", "map_1") == {-1: "failed"}
    assert airflow_task_states("etl", "gone", "map") == {}


def test_a_dag_is_paused_or_not_or_unknown(airflow: AirflowOfRuns) -> None:
    airflow.dags.add("resting")
    airflow.paused.add("resting")

    asked = {dag_id: airflow_dag_is_paused(dag_id) for dag_id in ("etl", "resting", "gone")}

    assert asked == {"etl": False, "resting": True, "gone": None}


@pytest.mark.parametrize(
    ("status", "away"), [(None, True), (500, True), (404, False), (401, False)]
)
def test_an_airflow_that_is_away_is_told_from_one_that_refuses(
    status: int | None, away: bool
) -> None:
    assert is_away(refusal(status, None)) == away
