"""The fault suite's DAGs with this project's operators: one for each set of kinds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import fault_requests as requests
from airflow.sdk import DAG, BaseOperator, get_parsing_context, task, timezone

from aws_jobs.operators.batch import BatchArrayOperator, BatchJobOperator
from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrTerminateClusterOperator,
)


def job_request(kind: str) -> dict[str, Any]:
    """Return the SubmitJob request of a kind."""
    return {
        "jobName": requests.job_name(kind),
        "jobQueue": requests.QUEUE,
        "jobDefinition": requests.DEFINITION,
        "parameters": requests.job_parameters(kind),
    }


def emr_tasks(kinds: list[str]) -> list[BaseOperator]:
    """Make cluster and step, and return what the published result stands on."""
    create_cluster = EmrCreateClusterOperator(task_id="create_cluster", job_flow=requests.CLUSTER)
    terminate_cluster = EmrTerminateClusterOperator(
        task_id="terminate_cluster", cluster_id=create_cluster.output
    ).as_teardown(setups=create_cluster, on_failure_fail_dagrun=True)
    if "step" not in kinds:
        create_cluster >> terminate_cluster
        return [create_cluster]
    step = EmrStepOperator(task_id="step", cluster_id=create_cluster.output, step=requests.STEP)
    create_cluster >> step >> terminate_cluster
    return [step]


for kinds in requests.KIND_SETS:
    dag_id = "-".join(["faults_ours", *kinds])
    # A task's process makes its own DAG only: there are many, and many processes.
    if get_parsing_context().dag_id not in (None, dag_id):
        continue
    with DAG(
        dag_id,
        schedule=None,
        start_date=timezone.datetime(2013, 1, 1),
        max_active_runs=100,
        default_args={"retries": requests.RETRIES, "retry_delay": timedelta(seconds=1)},
        params=requests.PARAMS,
    ):
        works = emr_tasks(kinds) if "cluster" in kinds else []
        if "job" in kinds:
            works.append(BatchJobOperator(task_id="job", job=job_request("job")))
        if "array" in kinds:
            works.append(
                BatchArrayOperator(
                    task_id="array_job",
                    job=job_request("array"),
                    items=[{"name": str(index)} for index in range(requests.ARRAY_SIZE)],
                    name_key="name",
                    manifest_prefix=requests.MANIFESTS,
                )
            )

        @task
        def publish() -> None:
            pass

        works >> publish()
