"""Runs of `aws_housekeeping` with hardly any grace, in a real Airflow."""

from __future__ import annotations

import time

from scripts.airflow_rest import ENDED, AirflowRest

HOUSEKEEPING = "aws_housekeeping"


def keep_house(rest: AirflowRest, run_id: str) -> dict[str, str | None]:
    """Run it, and return the states of its tasks."""
    return wait_for_housekeeping(rest, begin_housekeeping(rest, run_id))


def begin_housekeeping(rest: AirflowRest, run_id: str) -> str:
    """Begin a run, and return its id."""
    return rest.trigger(HOUSEKEEPING, conf={"grace_minutes": 0.05}, run_id=run_id)


def wait_for_housekeeping(
    rest: AirflowRest, run_id: str, timeout: float = 240
) -> dict[str, str | None]:
    """Wait for a run's end, and return the states of its tasks."""
    give_up = time.monotonic() + timeout
    while rest.run(HOUSEKEEPING, run_id)["state"] not in ENDED:
        for run in rest.runs(HOUSEKEEPING):
            # One of the schedule's own, if its hour strikes just now, would wait for ten minutes.
            if run["run_type"] == "scheduled" and run["state"] in {"queued", "running"}:
                rest.mark_run(HOUSEKEEPING, run["dag_run_id"], "failed")
        assert time.monotonic() < give_up, rest.task_states(HOUSEKEEPING, run_id)
        time.sleep(0.5)
    return rest.task_states(HOUSEKEEPING, run_id)
