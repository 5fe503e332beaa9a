"""An Airflow that knows some runs, and answers its tasks and its REST API as Airflow 3.3.2 does."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse, GetDag, GetDagRunState, GetTaskStates

from aws_jobs.reaper_owners import DEPLOYMENT_KEY, HOUSEKEEPING_DAG

HOUSEKEEPING_RUN = "scheduled__now"


@dataclass
class AirflowOfRuns:
    """Runs by DAG and id, task instances by DAG, run, task and map index, with their states."""

    deployment_id: str | None = "local"
    runs: dict[tuple[str, str], str] = field(default_factory=dict)
    tasks: dict[tuple[str, str, str, int], str | None] = field(default_factory=dict)
    ended_at: dict[str, str] = field(default_factory=dict)
    """When a run ended, by its id."""
    dags: set[str] = field(default_factory=lambda: {"etl", HOUSEKEEPING_DAG})
    paused: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    away: str = ""
    """How it does not answer: ``closed``, ``error``, ``proxy`` or ``login``."""
    asked: int = 0

    # As a task's supervisor

    def send(self, msg: Any) -> Any:
        """Answer a task."""
        self.asked += 1
        if self.away:
            status = {"error": 500, "proxy": 404, "login": 401}.get(self.away)
            raise refusal(status, {"detail": "Not Found"})
        match msg:
            case GetDag():
                self._require(msg.dag_id in self.dags, f"The Dag with dag_id: `{msg.dag_id}`")
                return SimpleNamespace(is_paused=msg.dag_id in self.paused)
            case GetDagRunState():
                key = msg.dag_id, msg.run_id
                what = f"Dag run with dag_id '{msg.dag_id}' and run_id '{msg.run_id}'"
                self._require(key in self.runs, what)
                return SimpleNamespace(state=self.runs[key])
            case GetTaskStates():
                return SimpleNamespace(task_states=self._task_states(msg))
        raise AssertionError(f"nobody asks a supervisor for {msg}")

    def _task_states(self, msg: GetTaskStates) -> dict[str, dict[str, str | None]]:
        states: dict[str, dict[str, str | None]] = {}
        for (dag_id, run_id, task_id, index), state in self.tasks.items():
            if dag_id == msg.dag_id and run_id in msg.run_ids and task_id in msg.task_ids:
                name = task_id if index < 0 else f"{task_id}_{index}"
                states.setdefault(run_id, {})[name] = state
        return states

    def _require(self, known: bool, what: str) -> None:
        if not known:
            said = {"reason": "not_found", "message": f"{what} was not found"}
            raise refusal(404, {"detail": said})

    # As a REST API

    def client(self) -> httpx.Client:
        """Return a session with it."""
        return httpx.Client(base_url="http://airflow", transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        self.asked += 1
        match self.away:
            case "closed":
                raise httpx.ConnectError("connection refused")
            case "error":
                return httpx.Response(500, text="Internal Server Error")
            case "proxy":
                return httpx.Response(404, text="default backend - 404")
            case "login":
                return httpx.Response(302, headers={"Location": "/login"})
        parts = request.url.raw_path.decode().split("?")[0].split("/")[3:]
        match [unquote(part) for part in parts]:
            case ["dags", dag_id] if dag_id in self.dags:
                flags = {"is_paused": dag_id in self.paused, "is_stale": dag_id in self.removed}
                return httpx.Response(200, json={"dag_id": dag_id, **flags})
            case ["dags", dag_id, "dagRuns"] if dag_id == HOUSEKEEPING_DAG:
                runs = [{"dag_run_id": HOUSEKEEPING_RUN}]
                return httpx.Response(200, json={"dag_runs": runs, "total_entries": 1})
            case ["dags", dag_id, "dagRuns", run_id]:
                return self._run(dag_id, run_id)
            case ["dags", _, "dagRuns", _, "taskInstances", _, "xcomEntries", key]:
                return self._xcom(key)
            case ["dags", dag_id, "dagRuns", run_id, "taskInstances", task_id, *index]:
                return self._task(dag_id, run_id, task_id, int((index or ["-1"])[0]))
        return httpx.Response(404, json={"detail": "Not Found"})

    def _run(self, dag_id: str, run_id: str) -> httpx.Response:
        if (dag_id, run_id) not in self.runs:
            what = f"The DagRun with dag_id: `{dag_id}` and run_id: `{run_id}` was not found"
            return httpx.Response(404, json={"detail": what})
        end = self.ended_at.get(run_id)
        state = self.runs[dag_id, run_id]
        return httpx.Response(200, json={"dag_run_id": run_id, "state": state, "end_date": end})

    def _task(self, dag_id: str, run_id: str, task_id: str, index: int) -> httpx.Response:
        key = dag_id, run_id, task_id, index
        if key not in self.tasks:
            what = f"The Mapped Task Instance with dag_id: `{dag_id}` and more was not found"
            return httpx.Response(404, json={"detail": what})
        return httpx.Response(200, json={"state": self.tasks[key], "end_date": None})

    def _xcom(self, key: str) -> httpx.Response:
        if key != DEPLOYMENT_KEY or self.deployment_id is None:
            return httpx.Response(404, json={"detail": f"XCom entry with key: `{key}` not found"})
        return httpx.Response(200, json={"key": key, "value": self.deployment_id})


def refusal(status: int | None, body: Any) -> AirflowRuntimeError:
    """Return what a task is told where the API server refuses, or does not answer."""
    detail = {"status_code": status, "message": "Server returned error", "detail": body}
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))
