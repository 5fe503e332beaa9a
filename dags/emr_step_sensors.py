"""
# The same two steps in five tasks: create, wait, submit, wait, terminate

The form in which such workflows are often published, with XCom for the hand-over of ids: the
cluster's from `create_cluster`, the steps' from `submit_steps`.

| | this form | `emr_daily_etl` |
|---|---|---|
| a step that failed | its sensor is cleared: all steps run again | its task retries it alone |
| the steps | queue on the cluster at once, without Airflow between them | one after the other |
| a cluster that is made elsewhere | sensors watch it | not meant for it |
| the data | below a prefix of this run, checked, not published | checked and published |

Choose this form where many short steps should queue on the cluster, or where the cluster or its
steps are made by somebody else; choose `emr_daily_etl` for everything else.

**Clear** a `step_sensor` and a new cluster, all steps and the end of the cluster run again: a step
of a cluster that has ended cannot be waited for. **Settings, connection, day**: as `emr_daily_etl`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task

from aws_jobs import daily_output
from aws_jobs.flights_params import flights_params
from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrSubmitStepsOperator,
    EmrTerminateClusterOperator,
)
from aws_jobs.run_day import run_day
from aws_jobs.sensors.emr import EmrClusterSensor, EmrStepSensor
from aws_jobs.specs import load_spec

SPECS = Path(__file__).parents[1] / "include" / "emr"
CLUSTER = load_spec(SPECS / "daily_cluster.yaml")
# Where the first fails, the second must not run on what it left.
INGEST = load_spec(SPECS / "ingest_step.yaml") | {"ActionOnFailure": "CANCEL_AND_WAIT"}
REPORT = load_spec(SPECS / "report_step.yaml") | {"ActionOnFailure": "CANCEL_AND_WAIT"}

DAY = "{{ run_day(dag_run, params) }}"
WRITES_TO = (
    "s3://{{ var.json.aws_jobs.bucket }}/{{ params.output_prefix }}"
    "/day={{ run_day(dag_run, params) }}/{{ ti.xcom_pull(task_ids='create_cluster') }}"
)


@dag(
    schedule=None,
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    max_active_runs=4,
    default_args={"owner": "data-engineering", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params=flights_params("flights/by-step-sensors"),
    user_defined_macros={"run_day": run_day},
    tags=["emr", "spark"],
    doc_md=__doc__,
)
def emr_step_sensors() -> None:
    create_cluster = EmrCreateClusterOperator(
        task_id="create_cluster", job_flow=CLUSTER, values={"day": DAY}, wait_until_ready=False
    )
    cluster_sensor = EmrClusterSensor(
        task_id="cluster_sensor", cluster_id=create_cluster.output, timeout=3600
    )
    submit_steps = EmrSubmitStepsOperator(
        task_id="submit_steps",
        cluster_id=create_cluster.output,
        steps=[INGEST, REPORT],
        values={
            "day": DAY,
            "raw_uri": "s3://{{ settings.bucket }}/{{ params.input_prefix }}/{{ day }}.csv",
            "output_uri": WRITES_TO,
            "flights_uri": "{{ output_uri }}/flights",
            "rejected_uri": "{{ output_uri }}/rejected",
        },
    )
    step_sensor = EmrStepSensor.partial(
        task_id="step_sensor",
        cluster_id=create_cluster.output,
        timeout=12 * 3600,
        map_index_template="{{ task.step_id }}",
    ).expand(step_id=submit_steps.output)
    terminate_cluster = EmrTerminateClusterOperator(
        task_id="terminate_cluster", cluster_id=create_cluster.output
    )

    @task
    def check_output(day: str, written: str) -> dict[str, Any]:
        return daily_output.check_output(daily_output.DailyOutput(day, written, written))

    create_cluster >> cluster_sensor >> submit_steps
    step_sensor >> check_output(DAY, WRITES_TO)
    step_sensor >> terminate_cluster.as_teardown(
        setups=[create_cluster, submit_steps], on_failure_fail_dagrun=True
    )


emr_step_sensors()
