"""Sensors watch what others made, say why it failed, and never cancel anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from aws_jobs.exceptions import InputError
from aws_jobs.sensors.emr import EmrClusterSensor, EmrStepSensor
from localaws.process import LocalAws
from tests.plugins.harness import TaskInstance, bash_step, run, start


def step_of(aws: LocalAws, cluster_id: str, script: str) -> str:
    steps = [bash_step(script)]
    emr = aws.client("emr")
    return str(emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"][0])


def step_sensor(cluster_id: str, step_id: str, **arguments: Any) -> EmrStepSensor:
    arguments = {"timeout": 60, **arguments}
    return EmrStepSensor(task_id="wait", cluster_id=cluster_id, step_id=step_id, **arguments)


def test_a_sensor_waits_for_a_cluster_that_somebody_made(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    run(EmrClusterSensor(task_id="wait", cluster_id=cluster_id, timeout=60), ti)

    assert aws.client("emr").describe_cluster(ClusterId=cluster_id)["Cluster"]["Status"][
        "State"
    ] in {"WAITING", "RUNNING"}


def test_a_sensor_says_why_a_cluster_ended(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    aws.client("emr").terminate_job_flows(JobFlowIds=[cluster_id])

    with pytest.raises(AirflowFailException, match="USER_REQUEST"):
        run(EmrClusterSensor(task_id="wait", cluster_id=cluster_id, timeout=60), ti)


def test_a_sensor_waits_for_the_end_of_a_cluster(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    sensor = EmrClusterSensor(task_id="wait", cluster_id=cluster_id, target="ended", timeout=60)
    aws.client("emr").terminate_job_flows(JobFlowIds=[cluster_id])

    run(sensor, ti)

    assert aws.count("emr", "TerminateJobFlows") == 1


def test_a_sensor_knows_two_targets() -> None:
    with pytest.raises(ValueError, match="'ready' or 'ended'"):
        EmrClusterSensor(task_id="wait", cluster_id="j-1", target="RUNNING")


def test_a_sensor_waits_for_a_step(aws: LocalAws, cluster_id: str, ti: TaskInstance) -> None:
    run(step_sensor(cluster_id, step_of(aws, cluster_id, "true")), ti)

    assert aws.count("emr", "AddJobFlowSteps") == 1


def test_a_sensor_says_why_a_step_failed(aws: LocalAws, cluster_id: str, ti: TaskInstance) -> None:
    step_id = step_of(aws, cluster_id, "echo 'loader: no such table' >&2; exit 1")

    with pytest.raises(AirflowFailException, match="no such table"):
        run(step_sensor(cluster_id, step_id), ti)


def test_a_soft_sensor_is_skipped(aws: LocalAws, cluster_id: str, ti: TaskInstance) -> None:
    step_id = step_of(aws, cluster_id, "exit 1")

    with pytest.raises(AirflowSkipException):
        run(step_sensor(cluster_id, step_id, soft_fail=True), ti)


def test_a_sensors_time_is_bounded_and_the_step_goes_on(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    step_id = step_of(aws, cluster_id, "sleep 30")

    with pytest.raises(AirflowFailException, match="time budget"):
        run(step_sensor(cluster_id, step_id, timeout=2), ti)

    assert aws.count("emr", "CancelSteps") == 0


def test_a_killed_sensor_cancels_nothing(aws: LocalAws, cluster_id: str, ti: TaskInstance) -> None:
    deferred = start(step_sensor(cluster_id, step_of(aws, cluster_id, "sleep 30")), ti)

    asyncio.run(deferred.trigger.on_kill())

    assert aws.count("emr", "CancelSteps") == 0


def test_a_sensor_refuses_an_id_that_was_not_handed_over(ti: TaskInstance, aws: LocalAws) -> None:
    with pytest.raises(InputError, match="step_id"):
        run(step_sensor("j-1", "None"), ti)
