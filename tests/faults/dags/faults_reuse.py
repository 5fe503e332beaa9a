"""Runs that share clusters: the suite's cluster and step, with a pool, and with a short lease."""

from __future__ import annotations

from datetime import timedelta

import fault_requests as requests
from airflow.sdk import DAG, task, timezone

from aws_jobs.lease_pool import ClusterReuse
from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrTerminateClusterOperator,
)

LEASES = {"faults_reuse": timedelta(hours=1), "faults_reuse_briefly": timedelta(seconds=10)}
CLUSTER = {**requests.CLUSTER, "StepConcurrencyLevel": "{{ params.users }}"}

for dag_id, lease in LEASES.items():
    with DAG(
        dag_id,
        schedule=None,
        start_date=timezone.datetime(2013, 1, 1),
        max_active_runs=100,
        default_args={"retries": requests.RETRIES, "retry_delay": timedelta(seconds=1)},
        params={**requests.PARAMS, "pool": "", "users": 3},
    ):

        @task
        def publish() -> None:
            pass

        create_cluster = EmrCreateClusterOperator(
            task_id="create_cluster",
            job_flow=CLUSTER,
            reuse=ClusterReuse("{{ params.pool }}", lease=lease),
        )
        step = EmrStepOperator(task_id="step", cluster_id=create_cluster.output, step=requests.STEP)
        terminate_cluster = EmrTerminateClusterOperator(
            task_id="terminate_cluster", cluster_id=create_cluster.output
        ).as_teardown(setups=create_cluster, on_failure_fail_dagrun=True)
        create_cluster >> step >> terminate_cluster
        step >> publish()
