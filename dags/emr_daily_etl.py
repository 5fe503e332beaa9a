"""
# One day of flights on a transient EMR cluster

Checks the day's raw data, starts a cluster, ingests and reports the day, ends the cluster on every
way out, checks the row counts and publishes the day in the Glue table `flight_delays`. Runs that
name the same `cluster_pool`, such as those of a backfill, share clusters.

**Day.** A scheduled or backfilled run is for its logical date. In a run by hand the parameter `day`
wins, because the form fills in the logical date with the present moment.

**Run it again** whenever you like: each run writes below a prefix of its own, and publishing is one
step. A scheduled day without raw data is skipped, and no cluster is started.

**When it fails** the task's log names the cause, the ids and the next step.

| clear | what runs again |
|---|---|
| `check_input` | everything |
| `ingest`, `report` | a new cluster, the step and what follows it, the end of the cluster |
| `check_output`, `publish` | that task and what follows it; no cluster |

Settings: the Airflow variable `aws_jobs`. Connection: `aws_default`. Specs: `include/emr`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, CronDataIntervalTimetable, dag, task

from aws_jobs import daily_output
from aws_jobs.flights_params import RAW_COLUMNS, cluster_pool_param, flights_params
from aws_jobs.lease_pool import ClusterReuse
from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrTerminateClusterOperator,
)
from aws_jobs.run_day import run_day
from aws_jobs.sensors.preflight import EmrPreflightSensor
from aws_jobs.specs import load_spec

SPECS = Path(__file__).parents[1] / "include" / "emr"
CLUSTER = load_spec(SPECS / "daily_cluster.yaml")
INGEST = load_spec(SPECS / "ingest_step.yaml")
REPORT = load_spec(SPECS / "report_step.yaml")

DAY = "{{ ti.xcom_pull(task_ids='check_input')['day'] }}"
DAY_URI = "{{ ti.xcom_pull(task_ids='check_input')['day_uri'] }}"
RAW_URI = "{{ ti.xcom_pull(task_ids='check_input')['input_uri'] }}"
# A step that runs again writes to another place, so its output never touches what is published: it
# runs on a new cluster, or its run has taken a shared one anew, which `cluster_use` tells.
WRITES_TO = (
    DAY_URI + "/{{ ti.xcom_pull(task_ids='create_cluster', key='cluster_use')"
    " or ti.xcom_pull(task_ids='create_cluster') }}"
)
INGESTED = (
    DAY_URI + "/{{ ti.xcom_pull(task_ids='ingest', key='cluster_use')"
    " or ti.xcom_pull(task_ids='ingest', key='cluster_id') }}"
)
REPORTED = (
    DAY_URI + "/{{ ti.xcom_pull(task_ids='report', key='cluster_use')"
    " or ti.xcom_pull(task_ids='report', key='cluster_id') }}"
)
# Each run has one step at a time, so as many runs as steps may share a cluster.
STEP_CONCURRENCY = "{{ 4 if params.cluster_pool else 1 }}"

FLIGHT_DELAYS = Asset("flight_delays")


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=4,
    default_args={"owner": "data-engineering", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={**flights_params("flights"), "cluster_pool": cluster_pool_param()},
    user_defined_macros={"run_day": run_day},
    tags=["emr", "spark", "daily"],
    doc_md=__doc__,
)
def emr_daily_etl() -> None:
    check_input = EmrPreflightSensor(
        task_id="check_input",
        input_uri="s3://{{ settings.bucket }}/{{ params.input_prefix }}/{{ day }}.csv",
        columns=RAW_COLUMNS,
        job_flow=CLUSTER,
        steps=[INGEST, REPORT],
        values={
            "day": "{{ run_day(dag_run, params) }}",
            "day_uri": "s3://{{ settings.bucket }}/{{ params.output_prefix }}/day={{ day }}",
            # Known when the cluster is; until then any place will do to check the rest.
            "raw_uri": "{{ day_uri }}",
            "output_uri": "{{ day_uri }}",
            "flights_uri": "{{ day_uri }}",
            "rejected_uri": "{{ day_uri }}",
            "step_concurrency": STEP_CONCURRENCY,
        },
    )
    create_cluster = EmrCreateClusterOperator(
        task_id="create_cluster",
        job_flow=CLUSTER,
        values={"day": DAY, "step_concurrency": STEP_CONCURRENCY},
        reuse=ClusterReuse("{{ params.cluster_pool or '' }}"),
    )
    ingest = EmrStepOperator(
        task_id="ingest",
        cluster_id=create_cluster.output,
        step=INGEST,
        values={"day": DAY, "raw_uri": RAW_URI, "output_uri": WRITES_TO},
    )
    report = EmrStepOperator(
        task_id="report",
        cluster_id=create_cluster.output,
        step=REPORT,
        values={
            "day": DAY,
            "flights_uri": f"{INGESTED}/flights",
            "rejected_uri": f"{INGESTED}/rejected",
            "output_uri": WRITES_TO,
        },
    )
    terminate_cluster = EmrTerminateClusterOperator(
        task_id="terminate_cluster", cluster_id=create_cluster.output
    )

    @task
    def check_output(day: str, ingested: str, reported: str) -> dict[str, Any]:
        return daily_output.check_output(daily_output.DailyOutput(day, ingested, reported))

    # Glue cannot update a partition on a condition, so only one task at a time publishes.
    @task(outlets=[FLIGHT_DELAYS], max_active_tis_per_dag=1)
    def publish(
        counts: dict[str, Any],
        ingested: str,
        reported: str,
        published_by: str,
        *,
        outlet_events: Any = None,
    ) -> dict[str, Any]:
        output = daily_output.DailyOutput(counts["day"], ingested, reported)
        published = daily_output.publish(
            output, counts, table="flight_delays", published_by=published_by
        )
        outlet_events[FLIGHT_DELAYS].extra = published
        return published

    counts = check_output(DAY, INGESTED, REPORTED)
    check_input >> create_cluster >> ingest >> report >> counts
    publish(counts, INGESTED, REPORTED, "{{ run_id }}")
    report >> terminate_cluster.as_teardown(setups=create_cluster, on_failure_fail_dagrun=True)


emr_daily_etl()
