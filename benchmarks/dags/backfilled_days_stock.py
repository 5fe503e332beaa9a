"""A day's cluster with two steps of bash, of the stock operators."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.sdk import CronDataIntervalTimetable, dag, task

from benchmarks.small_cluster import bash_step, job_flow

DAILY = CronDataIntervalTimetable("0 0 * * *", timezone="UTC")
# An end, so that nothing is scheduled when the DAG is unpaused: backfills only.
SPAN = (datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 31, tzinfo=UTC))
RETRIES = {"retries": 3, "retry_delay": timedelta(seconds=1)}
SCRIPT = "sleep 10"
STEPS = ("ingest", "report")


@task
def publish() -> None:
    """Do nothing: a run needs a leaf beside the teardown."""


@dag(schedule=DAILY, start_date=SPAN[0], end_date=SPAN[1], catchup=False, default_args=RETRIES)
def backfilled_days_stock() -> None:
    """Have a cluster a day, as the provider's documentation wires it, deferred."""
    create_cluster = EmrCreateJobFlowOperator(
        task_id="create_cluster", job_flow_overrides=job_flow("days-stock", 1)
    )
    cluster_id: Any = create_cluster.output
    ingest, report = (
        EmrAddStepsOperator(
            task_id=step,
            job_flow_id=cluster_id,
            steps=[bash_step(step, SCRIPT)],
            deferrable=True,
            waiter_delay=30,
        )
        for step in STEPS
    )
    terminate_cluster = EmrTerminateJobFlowOperator(
        task_id="terminate_cluster", job_flow_id=cluster_id, deferrable=True, waiter_delay=30
    )
    create_cluster >> ingest >> report >> publish()
    report >> terminate_cluster.as_teardown(setups=create_cluster, on_failure_fail_dagrun=True)


backfilled_days_stock()
