"""A day's cluster with two steps of bash: its own, and one that runs share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, dag, task

from aws_jobs.lease_pool import ClusterReuse
from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrTerminateClusterOperator,
)
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


def _days(name: str, concurrency: int, reuse: ClusterReuse | None) -> None:
    create_cluster = EmrCreateClusterOperator(
        task_id="create_cluster", job_flow=job_flow(name, concurrency), reuse=reuse
    )
    cluster_id: Any = create_cluster.output
    ingest, report = (
        EmrStepOperator(task_id=step, cluster_id=cluster_id, step=bash_step(step, SCRIPT))
        for step in STEPS
    )
    terminate_cluster = EmrTerminateClusterOperator(
        task_id="terminate_cluster", cluster_id=cluster_id
    )
    create_cluster >> ingest >> report >> publish()
    report >> terminate_cluster.as_teardown(setups=create_cluster, on_failure_fail_dagrun=True)


@dag(schedule=DAILY, start_date=SPAN[0], end_date=SPAN[1], catchup=False, default_args=RETRIES)
def backfilled_days_ours() -> None:
    """Have a cluster a day."""
    _days("days-own", 1, None)


@dag(schedule=DAILY, start_date=SPAN[0], end_date=SPAN[1], catchup=False, default_args=RETRIES)
def backfilled_days_shared() -> None:
    """Share clusters, four runs at once."""
    _days("days-shared", 4, ClusterReuse(pool="benchmark"))


backfilled_days_ours()
backfilled_days_shared()
