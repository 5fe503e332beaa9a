"""Airflow's own EMR operators work against localaws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.providers.amazon.aws.sensors.emr import EmrStepSensor
from airflow.sdk.exceptions import AirflowException

from tests.localaws.conftest import BUCKET, Emr, bash, group

REQUEST = {
    "Name": "stock",
    "ReleaseLabel": "emr-7.12.0",
    "LogUri": f"s3://{BUCKET}/logs/",
    "Instances": {"KeepJobFlowAliveWhenNoSteps": True, "InstanceGroups": [group("MASTER", 1)]},
}


@pytest.fixture
def context(emr: Emr, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As much of a task's context as an operator's links ask for."""
    for name, value in emr.aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", "aws://")
    ti = mock.MagicMock()
    return {"ti": ti, "task_instance": ti, "dag": SimpleNamespace(dag_id="d"), "params": {}}


def run(operator: Any, context: Any) -> Any:
    return operator.execute(context)


def test_create_add_wait_and_terminate(emr: Emr, context: Any) -> None:
    create = EmrCreateJobFlowOperator(task_id="create", job_flow_overrides=REQUEST)
    cluster = run(create, context)
    add = EmrAddStepsOperator(
        task_id="add",
        job_flow_id=cluster,
        steps=[bash("echo from airflow")],
        wait_for_completion=True,
        waiter_delay=1,
    )
    (step,) = run(add, context)
    sensor = EmrStepSensor(task_id="wait", job_flow_id=cluster, step_id=step, poke_interval=1)
    run(sensor, context)
    run(EmrTerminateJobFlowOperator(task_id="end", job_flow_id=cluster), context)

    assert emr.log(cluster, "steps", step, "stdout") == "from airflow\n"
    emr.await_state(cluster, "TERMINATED")


def test_create_waits_until_the_cluster_is_ready(emr: Emr, context: Any) -> None:
    create = EmrCreateJobFlowOperator(
        task_id="create", job_flow_overrides=REQUEST, wait_for_completion=True, waiter_delay=1
    )

    cluster = run(create, context)

    assert emr.state(cluster) == "WAITING"


def test_the_sensor_shows_why_a_step_failed(emr: Emr, context: Any) -> None:
    cluster = emr.start()
    (step,) = emr.add(cluster, "echo 'FATAL no fuel' >&2; exit 2")
    emr.await_step(cluster, step, "FAILED")
    sensor = EmrStepSensor(task_id="wait", job_flow_id=cluster, step_id=step, poke_interval=1)

    with pytest.raises(AirflowException, match="FATAL no fuel"):
        run(sensor, context)
