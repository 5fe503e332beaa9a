"""EMR operators against a localaws that runs what it is given."""

from __future__ import annotations

from collections.abc import Callable

from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrTerminateClusterOperator,
)
from localaws.process import LocalAws
from tests.plugins.harness import TaskInstance, bash_step, job_flow, run


def test_a_cluster_is_created_used_and_terminated(
    aws: LocalAws, ti: TaskInstance, live: Callable[[], list[str]]
) -> None:
    cluster_id = run(EmrCreateClusterOperator(task_id="create", job_flow=job_flow()), ti)
    step = EmrStepOperator(task_id="step", cluster_id=cluster_id, step=bash_step("echo hello"))
    step_id = run(step, TaskInstance("step"))
    assert live() == [cluster_id]
    run(EmrTerminateClusterOperator(task_id="end", cluster_id=cluster_id), TaskInstance("end"))

    assert step_id.startswith("s-")
    assert live() == []
