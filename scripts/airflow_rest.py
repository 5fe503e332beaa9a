"""A small client of Airflow's REST API, for what `make` starts and for the tests.

Airflow's own command line costs 6 to 8 seconds a call; this costs milliseconds.
https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

ENDED = frozenset({"success", "failed"})


class AirflowRestError(RuntimeError):
    """The API refused a call. ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WaitedTooLongError(TimeoutError):
    """What was waited for did not come; the message says what was there instead."""


class AirflowRest:
    """One person's session with an Airflow.

    :param base_url: such as ``http://127.0.0.1:8080``.
    :param transport: how requests travel, for a test without an Airflow.
    """

    def __init__(
        self,
        base_url: str,
        username: str,
        password: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url
        self._login = {"username": username, "password": password}
        # No proxy: it is an Airflow on this machine. 60 s: a busy laptop answers late.
        self._http = httpx.Client(
            base_url=base_url, timeout=60, trust_env=False, transport=transport
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call one endpoint below ``/api/v2`` and give its answer.

        :raises AirflowRestError: for every answer of 400 and above.
        """
        answer = self._send(method, path, body, params)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            self._log_in()
            answer = self._send(method, path, body, params)
        if answer.is_error:
            raise AirflowRestError(
                answer.status_code, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
            )
        return answer.json() if answer.content else None

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        params: Mapping[str, Any] | None,
    ) -> httpx.Response:
        return self._http.request(method, f"/api/v2{path}", json=body, params=params)

    def _log_in(self) -> None:
        answer = self._http.post("/auth/token", json=self._login)
        if answer.is_error:
            raise AirflowRestError(
                answer.status_code, f"login as {self._login['username']} refused: {answer.text}"
            )
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def health(self) -> dict[str, Any]:
        """Give each component's health; needs no login."""
        answer = self._http.get("/api/v2/monitor/health", timeout=5)
        answer.raise_for_status()
        return dict(answer.json())

    def set_pools(self, pools: Mapping[str, Mapping[str, Any]]) -> None:
        """Make pools, or give those that are there these slots: name to ``slots`` and more."""
        entities = [{"name": name, **settings} for name, settings in pools.items()]
        action = {"action": "create", "entities": entities, "action_on_existence": "overwrite"}
        answer = self.call("PATCH", "/pools", {"actions": [action]})
        if errors := answer["create"]["errors"]:
            raise AirflowRestError(httpx.codes.OK, f"pools could not be made: {errors}")

    # DAGs

    def dag_ids(self) -> set[str]:
        """Give the ids of all DAGs that Airflow has parsed."""
        return {dag["dag_id"] for dag in self._pages("GET", "/dags", "dags")}

    def import_errors(self) -> dict[str, str]:
        """Give the DAG files that could not be parsed, with the reason."""
        errors = self._pages("GET", "/importErrors", "import_errors")
        return {error["filename"]: error["stack_trace"] for error in errors}

    def wait_for_dags(self, dag_ids: Collection[str], timeout: float = 120) -> None:
        """Wait until Airflow knows these DAGs.

        :raises WaitedTooLongError: with the import errors.
        """

        def missing() -> set[str]:
            return set(dag_ids) - self.dag_ids()

        self._wait(
            lambda: not missing(),
            timeout,
            lambda: f"Airflow does not know {sorted(missing())}; errors: {self.import_errors()}",
        )

    def set_paused(self, dag_id: str, paused: bool) -> None:
        """Pause or unpause a DAG."""
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": paused}, {"update_mask": "is_paused"})

    # Runs

    def trigger(
        self,
        dag_id: str,
        logical_date: datetime | str | None = None,
        conf: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> str:
        """Start a run and give its id. Without a logical date it has none, as in the API."""
        day = logical_date.isoformat() if isinstance(logical_date, datetime) else logical_date
        body: dict[str, Any] = {"logical_date": day, "conf": dict(conf or {})}
        if run_id:
            body["dag_run_id"] = run_id
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Give all runs of a DAG, oldest first."""
        return list(
            self._pages("GET", f"/dags/{dag_id}/dagRuns", "dag_runs", {"order_by": "run_after"})
        )

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Give one run."""
        return dict(self.call("GET", _run_path(dag_id, run_id)))

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        timeout: float = 300,
        states: Collection[str] = ENDED,
    ) -> dict[str, Any]:
        """Wait until a run is in one of these states (default: it has ended) and give it.

        :raises WaitedTooLongError: with the state of each of its tasks.
        """
        self._wait(
            lambda: self.run(dag_id, run_id)["state"] in states,
            timeout,
            lambda: (
                f"run {run_id} of {dag_id} is {self.run(dag_id, run_id)['state']}:"
                f" {self.task_states(dag_id, run_id)}"
            ),
        )
        return self.run(dag_id, run_id)

    def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a run ``success`` or ``failed``, or put it back as ``queued``."""
        self.call("PATCH", _run_path(dag_id, run_id), {"state": state}, {"update_mask": "state"})

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a run that has ended."""
        self.call("DELETE", _run_path(dag_id, run_id))

    # Tasks

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Give all task instances of a run."""
        return list(
            self._pages("GET", f"{_run_path(dag_id, run_id)}/taskInstances", "task_instances")
        )

    def task(
        self, dag_id: str, run_id: str, task_id: str, map_index: int | None = None
    ) -> dict[str, Any]:
        """Give one task instance."""
        return dict(self.call("GET", _task_path(dag_id, run_id, task_id, map_index)))

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Give the state of each task of a run; a mapped one is named ``task[0]``."""
        return {
            task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}[{task['map_index']}]":
            task["state"]
            for task in self.tasks(dag_id, run_id)
        }  # fmt: skip

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: Collection[str] = ENDED,
        timeout: float = 120,
        map_index: int | None = None,
    ) -> dict[str, Any]:
        """Wait until a task is in one of these states and give it.

        :raises WaitedTooLongError: with the state of each task of the run.
        """
        self._wait(
            lambda: self.task(dag_id, run_id, task_id, map_index)["state"] in states,
            timeout,
            lambda: f"{task_id} is not {sorted(states)}: {self.task_states(dag_id, run_id)}",
        )
        return self.task(dag_id, run_id, task_id, map_index)

    def mark_task(
        self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int | None = None
    ) -> None:
        """Mark a task ``success``, ``failed`` or ``skipped``, as a person does in the UI."""
        self.call(
            "PATCH",
            _task_path(dag_id, run_id, task_id, map_index),
            {"new_state": state},
            {"update_mask": "new_state"},
        )

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Iterable[str | tuple[str, int]],
        *,
        downstream: bool = False,
    ) -> list[str]:
        """Clear tasks of a run, as a person does in the UI; give the ids of all that were cleared.

        :param task_ids: a mapped one as ``(task id, map index)``.
        """
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [list(each) if isinstance(each, tuple) else each for each in task_ids],
            "only_failed": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        answer = self.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)
        return [task["task_id"] for task in answer["task_instances"]]

    def log(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        try_number: int | None = None,
        map_index: int = -1,
    ) -> str:
        """Give a task's log as text, a line an event; of its last try unless one is named."""
        index = map_index if map_index >= 0 else None
        path = _task_path(dag_id, run_id, task_id)
        number = try_number or self.task(dag_id, run_id, task_id, index)["try_number"]
        answer = self.call(
            "GET", f"{path}/logs/{number}", params={"full_content": True, "map_index": map_index}
        )
        return "\n".join(_line(event) for event in answer["content"])

    def xcom(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        key: str = "return_value",
        map_index: int = -1,
    ) -> Any:
        """Give what a task handed over; None when there is nothing under that key."""
        path = f"{_task_path(dag_id, run_id, task_id)}/xcomEntries/{quote(key, safe='')}"
        params = {"map_index": map_index, "deserialize": False, "stringify": False}
        try:
            return self.call("GET", path, params=params)["value"]
        except AirflowRestError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Give a task's extra links by name."""
        answer = self.call("GET", f"{_task_path(dag_id, run_id, task_id)}/links")
        return dict(answer["extra_links"])

    # Backfills

    def backfill(
        self,
        dag_id: str,
        from_date: str,
        to_date: str,
        *,
        max_active_runs: int = 2,
        reprocess: str = "none",
        conf: Mapping[str, Any] | None = None,
    ) -> int:
        """Create a backfill of the days from ``from_date`` to ``to_date`` and give its id.

        :param reprocess: which days that have a run go again: ``none``, ``failed``, ``completed``.
        """
        body = {
            "dag_id": dag_id,
            "from_date": f"{from_date}T00:00:00Z",
            "to_date": f"{to_date}T00:00:00Z",
            "max_active_runs": max_active_runs,
            "reprocess_behavior": reprocess,
            "dag_run_conf": dict(conf or {}),
        }
        return int(self.call("POST", "/backfills", body)["id"])

    def wait_for_backfill(self, backfill_id: int, timeout: float = 600) -> dict[str, Any]:
        """Wait until a backfill is complete and give it.

        :raises WaitedTooLongError: with what Airflow says of it.
        """

        def now() -> dict[str, Any]:
            return dict(self.call("GET", f"/backfills/{backfill_id}"))

        self._wait(
            lambda: now()["completed_at"] is not None, timeout, lambda: f"still open: {now()}"
        )
        return now()

    def _pages(
        self, method: str, path: str, key: str, params: Mapping[str, Any] | None = None
    ) -> Iterable[dict[str, Any]]:
        offset = 0
        while True:
            answer = self.call(
                method, path, params={**(params or {}), "limit": 100, "offset": offset}
            )
            yield from answer[key]
            offset += len(answer[key])
            if not answer[key] or offset >= answer["total_entries"]:
                return

    @staticmethod
    def _wait(
        reached: Callable[[], bool], timeout: float, describe: Callable[[], str], every: float = 0.5
    ) -> None:
        deadline = time.monotonic() + timeout
        while not reached():
            if time.monotonic() > deadline:
                raise WaitedTooLongError(f"after {timeout:.0f} s: {describe()}")
            time.sleep(every)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def _task_path(dag_id: str, run_id: str, task_id: str, map_index: int | None = None) -> str:
    path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}"
    return path if map_index is None or map_index < 0 else f"{path}/{map_index}"


def _line(event: Mapping[str, Any] | str) -> str:
    """Give one event of a log as a line; a skip with its reason, a traceback as its last cause."""
    if isinstance(event, str):
        return event
    said = [event.get("timestamp"), event.get("level"), event["event"], event.get("reason")]
    line = " ".join(filter(None, said))
    details = event.get("error_detail") or []
    causes = [f"{cause['exc_type']}: {cause['exc_value']}" for cause in details]
    return "\n".join([line, *causes])
