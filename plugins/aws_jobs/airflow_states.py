"""How Airflow says a run, a task and a DAG are, asked from inside a task."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from airflow.sdk.exceptions import AirflowRuntimeError

T = TypeVar("T")

# Airflow's client for tasks puts a run's id into the URL as it is: the answer would be of another.
_BREAKS_URL = re.compile(r"[/?#%\\]|^\.+$")


def airflow_run_state(dag_id: str, run_id: str) -> str | None:
    """Return the state of a run; None where Airflow does not know it.

    :raises airflow.sdk.exceptions.AirflowRuntimeError: where Airflow did not say.
    :raises ValueError: where it cannot be asked for a run with such an id.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    if _BREAKS_URL.search(run_id):
        raise ValueError(f"a task cannot ask Airflow for a run with the id {run_id!r}")
    state = _unless_unknown(run_id, lambda: RuntimeTaskInstance.get_dagrun_state(dag_id, run_id))
    return None if state is None else str(getattr(state, "value", state))


def airflow_task_states(dag_id: str, run_id: str, task_id: str) -> dict[int, str | None]:
    """Return the states of a task's instances by map index; -1 for a task that is not mapped.

    :raises airflow.sdk.exceptions.AirflowRuntimeError: where Airflow did not say.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(dag_id, task_ids=[task_id], run_ids=[run_id])
    # The answer names an instance `task` or `task_3`.
    return {
        -1 if name == task_id else int(name.removeprefix(f"{task_id}_")): state
        for name, state in states.get(run_id, {}).items()
    }


def airflow_dag_is_paused(dag_id: str) -> bool | None:
    """Return whether a DAG is paused; None where Airflow does not know it.

    Airflow does not tell a task that a DAG's file is gone: such a DAG is as it was.

    :raises airflow.sdk.exceptions.AirflowRuntimeError: where Airflow did not say.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return _unless_unknown(dag_id, lambda: RuntimeTaskInstance.get_dag(dag_id).is_paused)


def is_away(error: AirflowRuntimeError) -> bool:
    """Whether Airflow's API server did not answer, or failed."""
    status = (error.error.detail or {}).get("status_code")
    return status is None or status >= 500


def _unless_unknown(what: str, ask: Callable[[], T]) -> T | None:
    """Ask, and return None where Airflow does not know what it was asked for."""
    from airflow.sdk.exceptions import AirflowRuntimeError

    try:
        return ask()
    except AirflowRuntimeError as error:
        if _says_unknown(error, what):
            return None
        raise


def _says_unknown(error: AirflowRuntimeError, what: str) -> bool:
    """Whether Airflow itself says that it does not know this very thing.

    A proxy answers 404 while Airflow is away, and so does Airflow where an id breaks its URL.
    """
    details: dict[str, Any] = error.error.detail or {}
    match details.get("status_code"), details.get("detail"):
        case 404, {"detail": {"reason": "not_found", "message": str(message)}}:
            return _names(message, what)
    return False


def _names(message: str, what: str) -> bool:
    """Whether a message of Airflow's quotes an id, which may be a part of another."""
    return any(f"{quote}{what}{quote}" in message for quote in "'`")
