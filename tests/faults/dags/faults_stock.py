"""The fault suite's DAGs with the stock operators, deferrable, wired as their documentation says.

https://airflow.apache.org/docs/apache-airflow-providers-amazon/stable/operators/emr/emr.html
https://airflow.apache.org/docs/apache-airflow-providers-amazon/stable/operators/batch.html
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import fault_requests as requests
from airflow.providers.amazon.aws.operators.batch import BatchOperator
from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.sdk import DAG, BaseOperator, get_parsing_context, task, timezone

# They look every 30 or 60 s by default, which would only prolong the suite.
WAIT: dict[str, Any] = {"deferrable": True, "waiter_delay": 2}


def emr_tasks(kinds: list[str]) -> list[BaseOperator]:
    """Make cluster and step, and return what the published result stands on."""
    # Of text the operator makes a dictionary, so that a template may become a number or a boolean.
    job_flow = str(requests.CLUSTER)
    for template in (requests.PROTECTED, requests.PRIMARIES, requests.CORE_NODES):
        job_flow = job_flow.replace(f"'{template}'", template)
    create_cluster = EmrCreateJobFlowOperator(
        task_id="create_cluster",
        job_flow_overrides=job_flow,
        wait_for_completion=True,
        waiter_max_attempts=1800,
        **WAIT,
    )
    terminate_cluster = EmrTerminateJobFlowOperator(
        task_id="terminate_cluster",
        job_flow_id=create_cluster.output,
        waiter_max_attempts=1800,
        **WAIT,
    ).as_teardown(setups=create_cluster, on_failure_fail_dagrun=True)
    if "step" not in kinds:
        create_cluster >> terminate_cluster
        return [create_cluster]
    step = EmrAddStepsOperator(
        task_id="step",
        job_flow_id=create_cluster.output,
        steps=[requests.STEP],
        waiter_max_attempts=1800,
        **WAIT,
    )
    create_cluster >> step >> terminate_cluster
    return [step]


def batch_task(task_id: str, kind: str, **more: Any) -> BaseOperator:
    """Make the task of a Batch job."""
    return BatchOperator(
        task_id=task_id,
        job_name=requests.job_name(kind),
        job_queue=requests.QUEUE,
        job_definition=requests.DEFINITION,
        parameters=requests.job_parameters(kind),
        deferrable=True,
        poll_interval=2,
        **more,
    )


for kinds in requests.KIND_SETS:
    dag_id = "-".join(["faults_stock", *kinds])
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
            works.append(batch_task("job", "job"))
        if "array" in kinds:
            works.append(
                batch_task("array_job", "array", array_properties={"size": requests.ARRAY_SIZE})
            )

        @task
        def publish() -> None:
            pass

        works >> publish()
