"""Airflow's own EMR and Batch operators work against localaws."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from airflow.providers.amazon.aws.hooks.batch_client import BatchClientHook
from airflow.providers.amazon.aws.operators.batch import BatchOperator
from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.providers.amazon.aws.sensors.emr import EmrStepSensor
from airflow.providers.amazon.aws.utils.task_log_fetcher import AwsTaskLogFetcher
from airflow.sdk.exceptions import AirflowException

from tests.localaws.conftest import BUCKET, Batch, Emr, bash, group

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


@pytest.fixture
def quick_delays() -> Iterator[None]:
    """The hook's own delays are random, up to ten seconds."""
    with mock.patch.object(BatchClientHook, "delay", side_effect=lambda *_: time.sleep(0.05)):
        yield


def batch_operator(script: str, **more: Any) -> BatchOperator:
    return BatchOperator(
        task_id="map",
        job_name="stock",
        job_queue="shared",
        job_definition="bash",
        parameters={"script": script},
        **more,
    )


@pytest.mark.usefixtures("quick_delays")
def test_the_batch_operator_waits_and_reads_the_log(batch: Batch, context: Any) -> None:
    operator = batch_operator(
        "echo from airflow", awslogs_enabled=True, awslogs_fetch_interval=timedelta(seconds=1)
    )

    with mock.patch.object(AwsTaskLogFetcher, "event_to_str", wraps=lambda e: e["message"]) as read:
        run(operator, context)

    assert batch.state(str(operator.job_id)) == "SUCCEEDED"
    assert [call.args[0]["message"] for call in read.call_args_list] == ["from airflow"]


@pytest.mark.usefixtures("quick_delays")
def test_the_batch_operator_fails_with_the_job(batch: Batch, context: Any) -> None:
    with pytest.raises(AirflowException, match="failed"):
        run(batch_operator("exit 9"), context)
