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
DEPLOYMENT_KEY = "deployment"
_LATEST_RUNS = 20
# Of what is no answer of Airflow's, and may be a whole page.
_LONGEST_ANSWER = 80

# Whose tasks need not be asked for.
RUN_OVER = RUN_ENDED | {None}

URL_VARIABLE = "AIRFLOW_API_URL"
TOKEN_VARIABLE = "AIRFLOW_API_TOKEN"  # noqa: S105 - the name, not the token
USERNAME_VARIABLE = "AIRFLOW_API_USERNAME"
PASSWORD_VARIABLE = "AIRFLOW_API_PASSWORD"  # noqa: S105 - the name, not the password


class AirflowSilentError(AwsJobsError):
    """Airflow cannot be asked, or has not said what can be relied on."""


class Owners(Protocol):
    """Asks Airflow; what it has said is not asked for again until that is to be forgotten.

    An Airflow that did not answer once is not asked any more: each answer would take as long.
    """

    def run_owner(self, dag_id: str, run_id: str) -> Owner:
        """Return how a DAG and a run of it are.

        :raises AirflowSilentError: where Airflow does not say.
        :raises ValueError: where it cannot be asked for such an id.
        """

    def task_owner(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> Owner:
        """Return how a DAG, a run of it, and a task instance of that are.

        :raises AirflowSilentError: where Airflow does not say.
        :raises ValueError: where it cannot be asked for such an id.
        """

    def forget(self) -> None:
        """Ask anew from now on."""


@dataclass
class TaskOwners:
    """Asks from inside a task; a task is not told when something ended, nor of a removed file."""

    _answers: dict[Any, Any] = field(default_factory=dict)
    _silent: AirflowSilentError | None = None

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

    def forget(self) -> None:
        """Ask anew from now on."""
        self._answers.clear()

    def _once(self, ask: Callable[..., Any], *ids: str) -> Any:
        from airflow.sdk.exceptions import AirflowRuntimeError

        if self._silent is not None:
            raise self._silent
        key = (ask, *ids)
        if key not in self._answers:
            try:
                self._answers[key] = ask(*ids)
            except AirflowRuntimeError as error:
                silent = AirflowSilentError(f"Airflow did not say: {error}")
                self._silent = silent if is_away(error) else None
                raise silent from error
        return self._answers[key]


@dataclass
class RestOwners:
    """Asks the public REST API.

    :param http: a session with it, logged in.
    :param deployment: whose Airflow it has to be. An Airflow that is another's knows nothing of
        our runs, or has runs of the same names: nothing that it says is taken before it has shown,
        by what its own housekeeping has noted, which deployment it is, in which account and region.
    """

    http: httpx.Client
    deployment: str
    _answers: dict[str, Any] = field(default_factory=dict)
    _shown: str | None = None
    _silent: AirflowSilentError | None = None

    def run_owner(self, dag_id: str, run_id: str) -> Owner:
        """Ask for the DAG, then for the run."""
        self._require_deployment()
        dag = self._dag(dag_id)
        run = self._get(_run_path(dag_id, run_id), unknown=f"run_id: `{run_id}` was not found")
        if run is None:
            return Owner(dag, None)
        return Owner(dag, self._part(run, "state", str), ended_at=_end_of(run))

    def task_owner(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> Owner:
        """Ask for the task instance where its run is there."""
        owner = self.run_owner(dag_id, run_id)
        if owner.run in RUN_OVER:
            return owner
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}"
        if map_index >= 0:
            path = f"{path}/{map_index}"
        task = self._get(path)
        if task is None:
            return Owner(owner.dag, owner.run, has_task=False)
        state = self._part(task, "state", str | None)
        return Owner(owner.dag, owner.run, task=state, ended_at=_end_of(task))

    def forget(self) -> None:
        """Ask anew from now on."""
        self._answers.clear()

    def _dag(self, dag_id: str) -> str:
        dag = self._get(_dag_path(dag_id))
        if dag is None:
            return "unknown to Airflow"
        if self._part(dag, "is_stale", bool):
            return "removed"
        return "paused" if self._part(dag, "is_paused", bool) else "active"

    def _require_deployment(self) -> None:
        self._shown = self._shown or self._deployment()
        if self._shown is None:
            raise AirflowSilentError(
                f"{self.http.base_url} has not shown which deployment it is: let "
                f"{HOUSEKEEPING_DAG} run there once"
            )
        if self._shown != self.deployment:
            raise AirflowSilentError(
                f"{self.http.base_url} is the Airflow of the deployment {self._shown!r}, not of "
                f"{self.deployment!r}: {URL_VARIABLE}, the settings or AWS's credentials are "
                "another's"
            )

    def _deployment(self) -> str | None:
        """Return what the latest housekeeping has noted."""
        query = f"order_by=-run_after&limit={_LATEST_RUNS}"
        listed = self._get(f"{_dag_path(HOUSEKEEPING_DAG)}/dagRuns?{query}")
        for run in self._part(listed, "dag_runs", list) if listed else ():
            path = _run_path(HOUSEKEEPING_DAG, self._part(run, "dag_run_id", str))
            entry = f"{path}/taskInstances/{HOUSEKEEPING_TASK}/xcomEntries/{DEPLOYMENT_KEY}"
            if noted := self._get(f"{entry}?stringify=false"):
                return str(self._part(noted, "value", str))
        return None

    def _part(self, answer: Any, key: str, kind: Any) -> Any:
        """Return a part of an answer, which has it if it is Airflow's."""
        if isinstance(answer, dict) and key in answer and isinstance(answer[key], kind):
            return answer[key]
        raise AirflowSilentError(f"{self.http.base_url} is no Airflow: it answers without {key!r}")

    def _get(self, path: str, unknown: str = "") -> dict[str, Any] | None:
        """Return an answer; None where Airflow does not know this.

        :param unknown: what it says then, where it matters: a proxy, too, answers 404 while Airflow
            is away.
        """
        if path not in self._answers:
            self._answers[path] = self._ask(path, unknown)
        answer: dict[str, Any] | None = self._answers[path]
        return answer

    def _ask(self, path: str, unknown: str) -> dict[str, Any] | None:
        import httpx

        if self._silent is not None:
            raise self._silent
        try:
            answer = self.http.get(f"/api/v2{path}")
        except httpx.TransportError as error:
            self._silent = AirflowSilentError(f"{self.http.base_url} did not answer: {error}")
            raise self._silent from error
        if answer.status_code == httpx.codes.NOT_FOUND and unknown in _detail_of(answer):
            return None
        if answer.status_code != httpx.codes.OK:
            text = " ".join(answer.text.split())[:_LONGEST_ANSWER]
            raise AirflowSilentError(f"{self.http.base_url} answered {answer.status_code}: {text}")
        try:
            told = answer.json()
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise AirflowSilentError(f"{self.http.base_url} is no Airflow: it answers no object")
        return told


def airflow_session(environ: Mapping[str, str]) -> httpx.Client:
    """Log in to the REST API that environment variables name.

    :raises AirflowSilentError: where they are not set or no good, or Airflow refuses.
    """
    import httpx

    http = httpx.Client(base_url=_base_url(environ), timeout=30)
    token = environ.get(TOKEN_VARIABLE, "").strip() or _new_token(http, environ)
    # What an HTTP client says of such a header has the token in it.
    if not token.isascii() or not token.isprintable():
        raise AirflowSilentError(f"{TOKEN_VARIABLE} has characters that no token has")
    http.headers["Authorization"] = f"Bearer {token}"
    return http


def _base_url(environ: Mapping[str, str]) -> httpx.URL:
    """Return where Airflow is; what is said of it elsewhere may show it, so it has no password."""
    import httpx

    try:
        url = httpx.URL(environ.get(URL_VARIABLE, "").strip())
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise AirflowSilentError(
            f"{URL_VARIABLE} is not set to a URL, such as http://127.0.0.1:8080"
        )
    if url.userinfo:
        raise AirflowSilentError(
            f"{URL_VARIABLE} has a user or a password in it: they belong into {USERNAME_VARIABLE} "
            f"and {PASSWORD_VARIABLE}"
        )
    return url


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
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise AirflowSilentError(f"{http.base_url} gave no token: {error}") from error


def _dag_path(dag_id: str) -> str:
    return f"/dags/{quote(dag_id, safe='')}"


def _run_path(dag_id: str, run_id: str) -> str:
    return f"{_dag_path(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _end_of(thing: Mapping[str, Any]) -> datetime | None:
    moment = thing.get("end_date")
    return datetime.fromisoformat(moment) if moment else None


def _detail_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return ""
