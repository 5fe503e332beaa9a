"""The chain of `emr_daily_etl`, with the same operators, steps of bash, and faults on request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task

from aws_jobs import daily_output
from aws_jobs.flights_params import flights_params
from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrTerminateClusterOperator,
)
from aws_jobs.run_day import run_day
from aws_jobs.specs import load_spec

NOTHING = "-"

DAY = "{{ run_day(dag_run, params) }}"
DAY_URI = "s3://{{ var.json.aws_jobs.bucket }}/flights-by-bash/day={{ run_day(dag_run, params) }}/"
WRITES_TO = DAY_URI + "{{ ti.xcom_pull(task_ids='create_cluster') }}"
INGESTED = DAY_URI + "{{ ti.xcom_pull(task_ids='ingest', key='cluster_id') }}"
REPORTED = DAY_URI + "{{ ti.xcom_pull(task_ids='report', key='cluster_id') }}"

# On EMR a bootstrap action runs on each node, before the cluster takes steps.
CLUSTER = load_spec(Path(__file__).parents[3] / "include" / "emr" / "daily_cluster.yaml") | {
    "BootstrapActions": [
        {
            "Name": "fail-at-first",
            "ScriptBootstrapAction": {
                "Path": "s3://{{ settings.bucket }}/{{ settings.code_prefix }}/e2e/bootstrap.sh",
                "Args": ["{{ ti.try_number }}", "{{ params.failing_bootstraps }}"],
            },
        }
    ]
}

INGEST = """
set -eu
day=$1 output=$2 try=$3 failing_tries=$4
read_at=$(date -u +%Y-%m-%dT%H:%M:%S.%6N+00:00)
if [ "$try" -le "$failing_tries" ]; then
  echo "ingest: try $try of $failing_tries that fail" >&2
  exit 3
fi
mkdir out
printf '{"day": "%s", "read_at": "%s", "rows_in": 3, "rows_out": 2, "rows_rejected": 1}' \
  "$day" "$read_at" > out/ingest.json
s3-dist-cp --src out --dest "$output"
"""

REPORT = """
set -eu
day=$1 output=$2 awaited=$3
while [ "$awaited" != - ] && [ ! -e "$awaited" ]; do sleep 0.1; done
mkdir -p out/delays
echo delays > out/delays/part-0
printf '{"day": "%s", "rows_flights": 2, "rows_rejected": 1, "rows_delays": 1}' \
  "$day" > out/report.json
s3-dist-cp --src out --dest "$output"
"""


def bash_step(name: str, script: str, *args: str) -> dict[str, Any]:
    """Return a step that runs a script; its arguments are data and never part of the script."""
    return {
        "Name": name,
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {
            "Jar": "command-runner.jar",
            "Args": ["bash", "-c", script, name, *args],
        },
    }


@dag(
    schedule=None,
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    max_active_runs=8,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
    params={
        **flights_params("flights"),
        "failing_bootstraps": 0,
        "failing_ingests": 0,
        # A file; the report step runs until it is there.
        "report_waits_for": NOTHING,
    },
    user_defined_macros={"run_day": run_day},
)
def daily_by_bash() -> None:
    create_cluster = EmrCreateClusterOperator(
        task_id="create_cluster", job_flow=CLUSTER, values={"day": DAY}
    )
    ingest = EmrStepOperator(
        task_id="ingest",
        cluster_id=create_cluster.output,
        step=bash_step(
            "ingest",
            INGEST,
            DAY,
            WRITES_TO,
            "{{ ti.try_number }}",
            "{{ params.failing_ingests }}",
        ),
    )
    report = EmrStepOperator(
        task_id="report",
        cluster_id=create_cluster.output,
        step=bash_step("report", REPORT, DAY, WRITES_TO, "{{ params.report_waits_for }}"),
    )
    terminate_cluster = EmrTerminateClusterOperator(
        task_id="terminate_cluster", cluster_id=create_cluster.output
    )

    @task
    def check_output(day: str, ingested: str, reported: str) -> dict[str, Any]:
        return daily_output.check_output(daily_output.DailyOutput(day, ingested, reported))

    @task(max_active_tis_per_dag=1)
    def publish(
        counts: dict[str, Any], ingested: str, reported: str, published_by: str
    ) -> dict[str, Any]:
        output = daily_output.DailyOutput(counts["day"], ingested, reported)
        return daily_output.publish(
            output, counts, table="flight_delays", published_by=published_by
        )

    counts = check_output(DAY, INGESTED, REPORTED)
    create_cluster >> ingest >> report >> counts
    publish(counts, INGESTED, REPORTED, "{{ run_id }}")
    report >> terminate_cluster.as_teardown(setups=create_cluster, on_failure_fail_dagrun=True)


daily_by_bash()
