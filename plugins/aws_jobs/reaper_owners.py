"""Asking Airflow for the owners of external jobs: from inside a task, or by its REST API."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from aws_jobs.airflow_states import (
    airflow_dag_is_paused,
    airflow_run_state,
    airflow_task_states,
    is_away,
)
from aws_jobs.exceptions import AwsJobsError
from aws_jobs.reaper_decision import RUN_ENDED, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

# What the REST API shows of an Airflow's housekeeping, so that a shell knows whom it asks.
HOUSEKEEPING_DAG = "aws_housekeeping"
HOUSEKEEPING_TASK = "find_orphans"
DEPLOYMENT_KEY = "deployment_id"
_LATEST_RUNS = 20

# Whose tasks need not be asked for.
RUN_OVER = RUN_ENDED | {None}

URL_VARIABLE = "AIRFLOW_API_URL"
TOKEN_VARIABLE = "AIRFLOW_API_TOKEN"  # noqa: S105 - the name, not the token
USERNAME_VARIABLE = "AIRFLOW_API_USERNAME"
PASSWORD_VARIABLE = "AIRFLOW_API_PASSWORD"  # noqa: S105 - the name, not the password


class AirflowSilentError(AwsJobsError):
    """Airflow cannot be asked, or has not said what can be relied on."""


class Owners(Protocol):
    """One look at Airflow; what it has said once is not asked for again."""

    def run_owner(self, dag_id: str, run_id: str) -> Owner:
        """Return how a DAG and a run of it are.

        :raises Exception: where Airflow does not say.
        """

    def task_owner(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> Owner:
        """Return how a DAG, a run of it, and a task instance of that are.

        :raises Exception: where Airflow does not say.
        """


@dataclass
class TaskOwners:
    """Asks from inside a task; a task is not told when something ended, nor of a removed file."""

    _answers: dict[Any, Any] = field(default_factory=dict)
    _silent: Exception | None = None

    def run_owner(self, dag_id: str, run_id: str) -> Owner:
        """Ask for the DAG, then for the run."""
        paused = self._once(airflow_dag_is_paused, dag_id)
        dag = "unknown to Airflow" if paused is None else "paused" if paused else "active"
        return Owner(dag, self._once(airflow_run_state, dag_id, run_id))

    def task_owner(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> Owner:
        """Ask for all instances of the task at once."""
        owner = self.run_owner(dag_id, run_id)
        if owner.run in RUN_OVER:
            return owner
        states = self._once(airflow_task_states, dag_id, run_id, task_id)
        return Owner(owner.dag, owner.run, map_index in states, states.get(map_index))

    def _once(self, ask: Callable[..., Any], *ids: str) -> Any:
        from airflow.sdk.exceptions import AirflowRuntimeError

        if self._silent is not None:
            raise AirflowSilentError(f"Airflow did not answer before: {self._silent}")
        key = (ask, *ids)
        if key not in self._answers:
            try:
                self._answers[key] = ask(*ids)
            except AirflowRuntimeError as error:
                # It was asked several times: whatever follows would take as long.
                self._silent = error if is_away(error) else None
                raise
        return self._answers[key]


@dataclass
class RestOwners:
    """Asks the public REST API.

    :param http: a session with it, logged in.
    :param deployment_id: whose Airflow it has to be. An Airflow that is another's knows nothing of
        our runs, or has runs of the same names: nothing that it says is taken before it has shown,
        by what its own housekeeping has noted, which deployment it is.
    """

    http: httpx.Client
    deployment_id: str
    _answers: dict[str, Any] = field(default_factory=dict)
    _silent: Exception | None = None

    def run_owner(self, dag_id: str, run_id: str) -> Owner:
        """Ask for the DAG, then for the run."""
        self._require_deployment()
        dag = self._get(_dag_path(dag_id))
        run = self._get(_run_path(dag_id, run_id), unknown=f"run_id: `{run_id}` was not found")
        return Owner(_dag_words(dag), run and run["state"], ended_at=_end_of(run))

    def task_owner(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> Owner:
        """Ask for the task instance where its run is there."""
        owner = self.run_owner(dag_id, run_id)
        if owner.run in RUN_OVER:
            return owner
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}"
        if map_index >= 0:
            path = f"{path}/{map_index}"
        task = self._get(path)
        state = task and task["state"]
        return Owner(owner.dag, owner.run, task is not None, state, _end_of(task))

    def _require_deployment(self) -> None:
        if DEPLOYMENT_KEY not in self._answers:
            self._answers[DEPLOYMENT_KEY] = self._deployment()
        shown = self._answers[DEPLOYMENT_KEY]
        if shown is None:
            raise AirflowSilentError(
                f"{self.http.base_url} has not shown which deployment it is: let "
                f"{HOUSEKEEPING_DAG} run there once"
            )
        if shown != self.deployment_id:
            raise AirflowSilentError(
                f"{self.http.base_url} is the Airflow of the deployment {shown!r}, not of "
                f"{self.deployment_id!r}: {URL_VARIABLE} names another"
            )

    def _deployment(self) -> str | None:
        """Return what the latest housekeeping has noted."""
        query = f"order_by=-run_after&limit={_LATEST_RUNS}"
        listed = self._get(f"{_dag_path(HOUSEKEEPING_DAG)}/dagRuns?{query}")
        for run in (listed or {"dag_runs": []})["dag_runs"]:
            path = _run_path(HOUSEKEEPING_DAG, run["dag_run_id"])
            entry = f"{path}/taskInstances/{HOUSEKEEPING_TASK}/xcomEntries/{DEPLOYMENT_KEY}"
            if noted := self._get(f"{entry}?stringify=false"):
                return str(noted["value"])
        return None

    def _get(self, path: str, unknown: str = "") -> Any:
        """Return an answer; None where Airflow does not know this.

        :param unknown: what it says then, where it matters: a proxy, too, answers 404 while Airflow
            is away.
        """
        if path not in self._answers:
            self._answers[path] = self._ask(path, unknown)
        return self._answers[path]

    def _ask(self, path: str, unknown: str) -> Any:
        import httpx

        if self._silent is not None:
            raise AirflowSilentError(str(self._silent)) from self._silent
        try:
            answer = self.http.get(f"/api/v2{path}")
        except httpx.TransportError as error:
            self._silent = error
            raise AirflowSilentError(f"{self.http.base_url}: {error}") from error
        if answer.status_code == httpx.codes.NOT_FOUND and unknown in _detail_of(answer):
            return None
        if answer.status_code != httpx.codes.OK:
            raise AirflowSilentError(
                f"{self.http.base_url} answered {answer.status_code}: {answer.text[:200]}"
            )
        try:
            return answer.json()
        except ValueError as error:
            raise AirflowSilentError(f"{self.http.base_url} is no Airflow: {error}") from error


def airflow_session(environ: Mapping[str, str]) -> httpx.Client:
    """Log in to the REST API that environment variables name.

    :raises AirflowSilentError: where they are not set, or Airflow refuses.
    """
    import httpx

    url = environ.get(URL_VARIABLE)
    if not url:
        raise AirflowSilentError(f"{URL_VARIABLE} is not set: such as http://127.0.0.1:8080")
    http = httpx.Client(base_url=url, timeout=30)
    token = environ.get(TOKEN_VARIABLE) or _new_token(http, environ)
    http.headers["Authorization"] = f"Bearer {token}"
    return http


def _new_token(http: httpx.Client, environ: Mapping[str, str]) -> str:
    import httpx

    login = {
        "username": environ.get(USERNAME_VARIABLE, ""),
        "password": environ.get(PASSWORD_VARIABLE, ""),
    }
    if not all(login.values()):
        raise AirflowSilentError(
            f"{TOKEN_VARIABLE} is not set, nor are {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}"
        )
    try:
        answer = http.post("/auth/token", json=login).raise_for_status()
        return str(answer.json()["access_token"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise AirflowSilentError(f"{http.base_url} gave no token: {error}") from error


def _dag_path(dag_id: str) -> str:
    return f"/dags/{quote(dag_id, safe='')}"


def _run_path(dag_id: str, run_id: str) -> str:
    return f"{_dag_path(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _dag_words(dag: Mapping[str, Any] | None) -> str:
    if dag is None:
        return "unknown to Airflow"
    if dag["is_stale"]:
        return "removed"
    return "paused" if dag["is_paused"] else "active"


def _end_of(thing: Mapping[str, Any] | None) -> datetime | None:
    moment = (thing or {}).get("end_date")
    return datetime.fromisoformat(moment) if moment else None


def _detail_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return ""
