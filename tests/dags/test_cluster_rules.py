"""The rules catch what they are for: each against a small DAG that breaks it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrSubmitStepsOperator,
    EmrTerminateClusterOperator,
)
from aws_jobs.sensors.emr import EmrStepSensor
from tests.dags.cluster_rules import problems

JOB_FLOW: dict[str, Any] = {"Name": "test", "AutoTerminationPolicy": {"IdleTimeout": 600}}
STEP: dict[str, Any] = {"Name": "step", "HadoopJarStep": {"Jar": "command-runner.jar"}}


def new_dag(**arguments: Any) -> DAG:
    return DAG("example", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC), **arguments)


def build(
    *,
    job_flow: dict[str, Any] = JOB_FLOW,
    within: type[EmptyOperator] | None = None,
    teardown: bool = True,
    fail_run: bool = True,
    result: bool = True,
    end_waits: bool = True,
    **arguments: Any,
) -> DAG:
    """Return a DAG that keeps all rules, but for what is asked for."""
    with new_dag(**arguments) as dag:
        create = EmrCreateClusterOperator(task_id="create", job_flow=job_flow)
        step = EmrStepOperator(task_id="step", cluster_id=create.output, step=STEP)
        end = EmrTerminateClusterOperator(task_id="end", cluster_id=create.output)
        create >> step
        if teardown:
            end.as_teardown(setups=create, on_failure_fail_dagrun=fail_run)
        last: Any = step
        if within is not None:
            last = within(task_id="check")
            step >> last
        if end_waits:
            last >> end
        if result:
            last >> EmptyOperator(task_id="publish")
    return dag


def build_with_sensors(*, submit_is_a_setup: bool) -> DAG:
    with new_dag() as dag:
        create = EmrCreateClusterOperator(task_id="create", job_flow=JOB_FLOW)
        submit = EmrSubmitStepsOperator(task_id="submit", cluster_id=create.output, steps=[STEP])
        sensor = EmrStepSensor.partial(task_id="sensor", cluster_id=create.output).expand(
            step_id=submit.output
        )
        end = EmrTerminateClusterOperator(task_id="end", cluster_id=create.output)
        sensor >> EmptyOperator(task_id="publish")
        setups = [create, submit] if submit_is_a_setup else [create]
        sensor >> end.as_teardown(setups=setups, on_failure_fail_dagrun=True)
    return dag


@pytest.mark.parametrize("dag", [build(), build_with_sensors(submit_is_a_setup=True)], ids=repr)
def test_a_dag_that_keeps_the_rules_has_no_problem(dag: DAG) -> None:
    assert problems(dag) == []


def test_a_dag_without_a_cluster_has_no_problem() -> None:
    with new_dag(dagrun_timeout=timedelta(hours=1)) as dag:
        EmptyOperator(task_id="task")

    assert problems(dag) == []


@pytest.mark.parametrize(
    ("dag", "problem"),
    [
        (build(teardown=False), "create is no setup of an EmrTerminateClusterOperator"),
        (build(teardown=False), "end is no teardown"),
        (build(fail_run=False), "end has no on_failure_fail_dagrun=True"),
        (build(result=False), "the teardown is the only leaf"),
        (build(dagrun_timeout=timedelta(hours=6)), "dagrun_timeout is 6:00:00"),
        (build(job_flow={"Name": "test"}), "create: its job flow has no AutoTerminationPolicy"),
        (
            build(job_flow={"AutoTerminationPolicy": {"IdleTimeout": 0}}),
            "create: its job flow has no AutoTerminationPolicy",
        ),
        (build(within=EmptyOperator), "check needs no cluster, between create and end"),
        (build(end_waits=False), "step is not waited for by the end of the cluster"),
        (build_with_sensors(submit_is_a_setup=False), "submit is no setup of end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_dag_that_breaks_a_rule_is_caught(dag: DAG, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(dag)), problems(dag)
