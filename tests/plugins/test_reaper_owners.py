"""Which answers of an Airflow the reaper believes, and how fast it asks AWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from airflow.sdk.execution_time import task_runner

from aws_jobs.polling import CallRate
from aws_jobs.reaper_aws import PacedClient
from aws_jobs.reaper_decision import Owner
from aws_jobs.reaper_owners import (
    AirflowSilentError,
    Owners,
    RestOwners,
    TaskOwners,
    airflow_session,
)
from tests.plugins.airflow_of_runs import AirflowOfRuns

RUN = "scheduled__2013-01-01T00:00:00+00:00"


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> AirflowOfRuns:
    airflow = AirflowOfRuns(
        runs={("etl", RUN): "running", ("etl", "ended"): "failed"},
        tasks={("etl", RUN, "task", -1): "deferred", ("etl", RUN, "map", 3): None},
    )
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", airflow, raising=False)
    return airflow


@pytest.fixture(params=["task", "rest"])
def new_owners(request: pytest.FixtureRequest, airflow: AirflowOfRuns) -> Callable[[], Owners]:
    if request.param == "task":
        return TaskOwners
    return lambda: RestOwners(airflow.client(), "local")


def test_airflow_tells_of_a_run_and_of_its_tasks(new_owners: Callable[[], Owners]) -> None:
    owners = new_owners()

    assert owners.run_owner("etl", RUN) == Owner("active", "running")
    assert owners.run_owner("etl", "gone") == Owner("active", None)
    assert owners.task_owner("etl", RUN, "task", -1) == Owner("active", "running", task="deferred")
    assert owners.task_owner("etl", RUN, "map", 3) == Owner("active", "running", task=None)
    assert owners.task_owner("etl", RUN, "map", 4) == Owner("active", "running", has_task=False)
    assert owners.task_owner("etl", "ended", "task", -1) == Owner("active", "failed")


def test_one_look_asks_once_for_what_many_jobs_have_in_common(
    new_owners: Callable[[], Owners], airflow: AirflowOfRuns
) -> None:
    owners = new_owners()
    owners.task_owner("etl", RUN, "task", -1)
    asked = airflow.asked

    owners.task_owner("etl", RUN, "task", -1)
    owners.run_owner("etl", RUN)

    assert airflow.asked == asked


@pytest.mark.parametrize("how", ["closed", "error", "proxy", "login"])
@pytest.mark.parametrize("run_id", [RUN, "gone"])
def test_an_airflow_that_does_not_answer_says_nothing(
    new_owners: Callable[[], Owners], airflow: AirflowOfRuns, how: str, run_id: str
) -> None:
    airflow.away = how

    with pytest.raises(Exception, match=r"API_SERVER_ERROR|http://airflow"):
        new_owners().run_owner("etl", run_id)


@pytest.mark.parametrize("how", ["closed", "error", "proxy", "login"])
def test_an_airflow_that_stops_to_answer_deletes_no_run(airflow: AirflowOfRuns, how: str) -> None:
    owners = RestOwners(airflow.client(), "local")
    owners.run_owner("etl", RUN)
    airflow.away = how

    with pytest.raises(AirflowSilentError):
        owners.run_owner("etl", "gone")


@pytest.mark.parametrize(
    ("shown", "said"),
    [(None, "has not shown which deployment"), ("other", "of the deployment 'other'")],
)
def test_an_airflow_that_is_not_known_to_be_ours_is_not_believed(
    airflow: AirflowOfRuns, shown: str | None, said: str
) -> None:
    """It does not know our runs, or has others of the same names."""
    airflow.deployment_id = shown

    with pytest.raises(AirflowSilentError, match=said):
        RestOwners(airflow.client(), "local").run_owner("etl", "gone")


def test_a_task_does_not_ask_for_a_run_with_the_answer_of_another(airflow: AirflowOfRuns) -> None:
    airflow.runs["etl", "a"] = "failed"

    with pytest.raises(ValueError, match="cannot ask"):
        TaskOwners().run_owner("etl", "a?b")


def test_the_rest_api_is_asked_for_a_run_with_any_id(airflow: AirflowOfRuns) -> None:
    airflow.runs |= {("etl", "a"): "failed", ("etl", "a?b/c#d%2F"): "running"}

    owner = RestOwners(airflow.client(), "local").run_owner("etl", "a?b/c#d%2F")

    assert owner == Owner("active", "running")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "AIRFLOW_API_URL is not set"),
        ({"AIRFLOW_API_URL": "http://host:secret"}, "AIRFLOW_API_URL is not set to a URL"),
        ({"AIRFLOW_API_URL": "127.0.0.1:8080"}, "AIRFLOW_API_URL is not set to a URL"),
        ({"AIRFLOW_API_URL": "localhost:8080"}, "AIRFLOW_API_URL is not set to a URL"),
        ({"AIRFLOW_API_URL": "http://me:secret@a"}, "has a user or a password in it"),
        ({"AIRFLOW_API_URL": "http://a"}, "AIRFLOW_API_TOKEN is not set, nor are"),
        (
            {"AIRFLOW_API_URL": "http://a", "AIRFLOW_API_TOKEN": "sec\r\nsecret"},
            "characters that no token has",
        ),
        (
            {"AIRFLOW_API_URL": "http://a", "AIRFLOW_API_TOKEN": "…secret"},
            "characters that no token has",
        ),
        (
            {
                "AIRFLOW_API_URL": "http://127.0.0.1:9",
                "AIRFLOW_API_USERNAME": "u",
                "AIRFLOW_API_PASSWORD": "secret",
            },
            "gave no token",
        ),
    ],
)
def test_a_session_says_what_it_lacks_and_no_secret(environ: dict[str, str], said: str) -> None:
    with pytest.raises(AirflowSilentError, match=said) as error:
        airflow_session(environ)

    assert "secret" not in str(error.value)


def test_a_session_takes_a_token(airflow: AirflowOfRuns) -> None:
    session = airflow_session({"AIRFLOW_API_URL": "http://a", "AIRFLOW_API_TOKEN": "t\n"})

    assert session.headers["Authorization"] == "Bearer t"


def test_a_page_that_is_no_json_is_no_answer() -> None:
    page = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>login</html>"))
    http = httpx.Client(base_url="http://airflow", transport=page)

    with pytest.raises(AirflowSilentError, match="is no Airflow"):
        RestOwners(http, "local").run_owner("etl", RUN)


def answering(*, run: Any, runs: Any = None) -> httpx.Client:
    """An Airflow whose answers on runs are not what they should be."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.endswith("/dagRuns"):
            listed = {"dag_runs": [{"dag_run_id": "now"}]} if runs is None else runs
            return httpx.Response(200, json=listed)
        if "xcomEntries" in path:
            return httpx.Response(200, json={"value": "local"})
        if path.endswith("/dags/etl"):
            return httpx.Response(200, json={"is_paused": False, "is_stale": False})
        return httpx.Response(200, json=run)

    return httpx.Client(base_url="http://airflow", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize("run", [None, {"state": None}, {}, [], "failed", {"state": 1}])
def test_an_answer_that_is_not_airflow_s_does_not_mean_that_a_run_was_deleted(run: Any) -> None:
    with pytest.raises(AirflowSilentError, match="is no Airflow"):
        RestOwners(answering(run=run), "local").run_owner("etl", RUN)


@pytest.mark.parametrize("runs", [[], "ok", {"status": "healthy"}, {"dag_runs": {}}])
def test_what_is_no_airflow_is_said_to_be_none(runs: Any) -> None:
    with pytest.raises(AirflowSilentError, match="http://airflow is no Airflow"):
        RestOwners(answering(run={"state": "failed"}, runs=runs), "local").run_owner("etl", RUN)


def test_a_proxy_s_page_is_told_of_in_one_short_line() -> None:
    page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n" + "<hr>\n" * 100
    proxy = httpx.MockTransport(lambda request: httpx.Response(502, text=page))

    with pytest.raises(AirflowSilentError) as error:
        RestOwners(httpx.Client(base_url="http://a", transport=proxy), "local").run_owner(
            "etl", RUN
        )

    assert str(error.value).startswith("http://a answered 502: <html> <head><title>502 Bad")
    assert len(str(error.value)) < 120


def test_calls_keep_to_the_pace_of_the_quota() -> None:
    class Emr:
        def describe_cluster(self) -> dict[str, Any]:
            return {}

    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    rate = CallRate(8, 0.8, lambda: now[0])
    client = PacedClient(Emr(), {"describe_cluster": rate}, sleep=sleep)

    for _ in range(28):
        client.call("describe_cluster")

    assert now[0] == pytest.approx(20 / 0.8)
    assert waits == pytest.approx([1.25] * 20)
