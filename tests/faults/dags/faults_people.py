"""DAGs that only some cases of what people do have need of: a daily one, and one that changes."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import fault_requests as requests
from airflow.providers.amazon.aws.operators.batch import BatchOperator
from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.sdk import DAG, BaseOperator, CronDataIntervalTimetable, task, timezone

from aws_jobs.operators.batch import BatchJobOperator
from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrTerminateClusterOperator,
)

#: The suite writes it when it deploys the second version.
DEPLOYED = Path(os.environ.get("FAULTS_PLANS", os.devnull), "deployed")
STOCK_WAIT: dict[str, Any] = {"deferrable": True, "waiter_delay": 2, "waiter_max_attempts": 1800}
COMMON: dict[str, Any] = {
    "start_date": timezone.datetime(2013, 1, 1),
    "default_args": {"retries": requests.RETRIES, "retry_delay": timedelta(seconds=1)},
    "params": requests.PARAMS,
}


def step_with(*arguments: str) -> dict[str, Any]:
    """Return the suite's step with other arguments for its script."""
    jar = requests.STEP["HadoopJarStep"]
    command = jar["Args"][: -len(requests.ARGUMENTS)]
    return {**requests.STEP, "HadoopJarStep": {**jar, "Args": [*command, *arguments]}}


def step_of_ours(request: dict[str, Any]) -> BaseOperator:
    """Run a step on a cluster of its own with this project's operators."""
    create_cluster = EmrCreateClusterOperator(task_id="create_cluster", job_flow=requests.CLUSTER)
    step = EmrStepOperator(task_id="step", cluster_id=create_cluster.output, step=request)
    terminate_cluster = EmrTerminateClusterOperator(
        task_id="terminate_cluster", cluster_id=create_cluster.output
    ).as_teardown(setups=create_cluster, on_failure_fail_dagrun=True)
    create_cluster >> step >> terminate_cluster
    return step


def step_of_stock(request: dict[str, Any]) -> BaseOperator:
    """Run a step on a cluster of its own with the amazon provider's operators."""
    job_flow = str(requests.CLUSTER)
    for template in (requests.PROTECTED, requests.PRIMARIES, requests.CORE_NODES):
        job_flow = job_flow.replace(f"'{template}'", template)
    create_cluster = EmrCreateJobFlowOperator(
        task_id="create_cluster",
        job_flow_overrides=job_flow,
        wait_for_completion=True,
        **STOCK_WAIT,
    )
    cluster_id = create_cluster.output
    step = EmrAddStepsOperator(
        task_id="step", job_flow_id=cluster_id, steps=[request], **STOCK_WAIT
    )
    terminate_cluster = EmrTerminateJobFlowOperator(
        task_id="terminate_cluster", job_flow_id=cluster_id, **STOCK_WAIT
    ).as_teardown(setups=create_cluster, on_failure_fail_dagrun=True)
    create_cluster >> step >> terminate_cluster
    return step


def job_of_ours(request: dict[str, Any]) -> BaseOperator:
    """Run a Batch job with this project's operator."""
    return BatchJobOperator(task_id="job", job=request)


def job_of_stock(request: dict[str, Any]) -> BaseOperator:
    """Run a Batch job with the amazon provider's operator."""
    return BatchOperator(
        task_id="job",
        job_name=request["jobName"],
        job_queue=request["jobQueue"],
        job_definition=request["jobDefinition"],
        parameters=request["parameters"],
        deferrable=True,
        poll_interval=2,
    )


@task
def publish() -> None:
    """End what the result stands on: a leaf beside the teardown."""


@task
def notify() -> None:
    """Be there in the second version only."""


version = DEPLOYED.read_text() if DEPLOYED.is_file() else "1"

for operators, step_of, job_of in (
    ("ours", step_of_ours, job_of_ours),
    ("stock", step_of_stock, job_of_stock),
):
    with DAG(
        f"faults_{operators}_daily",
        schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
        end_date=timezone.datetime(2013, 1, 9),
        catchup=False,
        **COMMON,
    ):
        # All runs of a backfill have the same parameters: each works in a folder of its own.
        step_of(step_with("{{ params.work }}/{{ run_id }}", *requests.ARGUMENTS[1:])) >> publish()

    with DAG(f"faults_{operators}_deployed", schedule=None, **COMMON):
        request = {
            "jobName": requests.job_name("job"),
            "jobQueue": requests.QUEUE,
            "jobDefinition": requests.DEFINITION,
            "parameters": {**requests.job_parameters("job"), "version": version},
        }
        works = [step_of(step_with(*requests.ARGUMENTS, version)), job_of(request)]
        works >> publish()
        if version != "1":
            works >> notify()
