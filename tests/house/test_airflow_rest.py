"""The client of Airflow's REST API: its login, its waiting, and what it says when it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from scripts.airflow_rest import AirflowRest, AirflowRestError, WaitedTooLongError

Answer = Callable[[httpx.Request], httpx.Response]


class FakeAirflow:
    """Answers what a test tells it to, to whom has the token of the day."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.token = "first"
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            if json.loads(request.content)["password"] != "right":
                return httpx.Response(401, text="Invalid credentials")
            return httpx.Response(201, json={"access_token": self.token})
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return httpx.Response(401)
        self.asked.append(request)
        return self.answer(request)

    def client(self, password: str = "right") -> AirflowRest:
        return AirflowRest("http://airflow", "admin", password, httpx.MockTransport(self))


def always(content: object, status: int = 200) -> Answer:
    return lambda request: httpx.Response(status, json=content)


def test_it_logs_in_by_itself_and_again_when_the_token_has_expired():
    airflow = FakeAirflow(always({"state": "running"}))
    client = airflow.client()
    client.run("d", "r")
    airflow.token = "second"

    assert client.run("d", "r") == {"state": "running"}
    assert len(airflow.asked) == 2


def test_a_wrong_password_is_said():
    with pytest.raises(AirflowRestError, match="login as admin refused: Invalid credentials"):
        FakeAirflow(always({})).client("wrong").run("d", "r")


def test_a_pool_that_is_there_is_given_its_slots():
    airflow = FakeAirflow(always({"create": {"success": ["p"], "errors": []}}))

    airflow.client().set_pools({"p": {"slots": 3, "description": "why"}})

    (asked,) = airflow.asked
    assert (asked.method, asked.url.path) == ("PATCH", "/api/v2/pools")
    assert json.loads(asked.content)["actions"] == [
        {
            "action": "create",
            "entities": [{"name": "p", "slots": 3, "description": "why"}],
            "action_on_existence": "overwrite",
        }
    ]


def test_a_pool_that_is_refused_is_said():
    refusal = {"create": {"success": [], "errors": [{"error": "no"}]}}

    with pytest.raises(AirflowRestError, match="pools could not be made"):
        FakeAirflow(always(refusal)).client().set_pools({"p": {"slots": 3}})


def test_a_refusal_says_the_call_and_airflows_reason():
    airflow = FakeAirflow(always({"detail": "no such DAG"}, status=404))

    with pytest.raises(
        AirflowRestError, match=r"GET /dags/d/dagRuns/r: 404 .*no such DAG"
    ) as error:
        airflow.client().run("d", "r")

    assert error.value.status == 404


def test_a_run_id_with_a_plus_and_colons_is_one_part_of_the_path():
    airflow = FakeAirflow(always({}))

    airflow.client().run("d", "manual__2013-01-01T00:00:00+00:00/x")

    assert airflow.asked[0].url.raw_path == (
        b"/api/v2/dags/d/dagRuns/manual__2013-01-01T00%3A00%3A00%2B00%3A00%2Fx"
    )


def test_all_pages_are_read():
    def page(request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params["offset"])
        dags = [{"dag_id": f"d{number}"} for number in range(offset, min(offset + 100, 250))]
        return httpx.Response(200, json={"dags": dags, "total_entries": 250})

    airflow = FakeAirflow(page)

    assert len(airflow.client().dag_ids()) == 250
    assert len(airflow.asked) == 3


def test_what_did_not_come_is_said_with_what_was_there_instead():
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/taskInstances"):
            tasks = [
                {"task_id": "ingest", "map_index": -1, "state": "deferred"},
                {"task_id": "part", "map_index": 3, "state": None},
            ]
            return httpx.Response(200, json={"task_instances": tasks, "total_entries": 2})
        return httpx.Response(200, json={"state": "running"})

    with pytest.raises(WaitedTooLongError, match="r of d is running") as error:
        FakeAirflow(answer).client().wait_for_run("d", "r", timeout=0)

    assert "{'ingest': 'deferred', 'part[3]': None}" in str(error.value)


def test_waiting_ends_with_the_state_that_was_waited_for():
    states = iter(["queued", "running", "failed", "failed"])
    airflow = FakeAirflow(lambda request: httpx.Response(200, json={"state": next(states)}))

    assert airflow.client().wait_for_run("d", "r", timeout=10)["state"] == "failed"


def test_a_log_is_text_with_the_cause_of_a_failure():
    content = [
        {"event": "Task failed", "level": "error", "timestamp": "2013-01-01T00:00:00Z",
         "error_detail": [{"exc_type": "ValueError", "exc_value": "because"}]},
        {"event": "last"},
    ]  # fmt: skip
    airflow = FakeAirflow(always({"content": content}))

    text = airflow.client().log("d", "r", "t", try_number=1)

    assert text.splitlines() == [
        "2013-01-01T00:00:00Z error Task failed",
        "ValueError: because",
        "last",
    ]


def test_an_xcom_that_is_not_there_is_none_and_another_refusal_is_not():
    assert FakeAirflow(always({}, status=404)).client().xcom("d", "r", "t") is None
    with pytest.raises(AirflowRestError):
        FakeAirflow(always({}, status=500)).client().xcom("d", "r", "t")


def test_clearing_asks_for_exactly_these_tasks_of_this_run():
    airflow = FakeAirflow(always({"task_instances": [{"task_id": "report"}]}))

    cleared = airflow.client().clear("d", "r", ["report", ("part", 2)])

    body = json.loads(airflow.asked[0].content)
    assert cleared == ["report"]
    assert body["task_ids"] == ["report", ["part", 2]]
    assert body["dag_run_id"] == "r"
    assert (body["dry_run"], body["only_failed"], body["include_downstream"]) == (False,) * 3
