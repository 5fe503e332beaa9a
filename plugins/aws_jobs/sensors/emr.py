"""Sensors for EMR clusters and steps, whoever made them. They never cancel anything."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator

from aws_jobs.aws_task import backstop, in_future, require_id
from aws_jobs.emr_failures import EmrFailuresMixin
from aws_jobs.triggers.emr import EmrClusterTrigger, EmrStepTrigger
from aws_jobs.verdicts import FailureClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

# What has ended stays ended, and ``timeout`` bounds the wait of all tries, as in every sensor.
_ALL = frozenset(FailureClass)


class EmrClusterSensor(EmrFailuresMixin, BaseSensorOperator):
    """Wait until a cluster is ready for steps, or until it has ended.

    ``timeout`` bounds the wait; there is no other mode than deferring.

    :param cluster_id: the cluster. (templated)
    :param target: ``ready`` or ``ended``.
    """

    template_fields: Sequence[str] = ("cluster_id",)
    ui_color = "#f9d9b0"
    no_retry = _ALL

    def __init__(self, *, cluster_id: str, target: str = "ready", **kwargs: Any) -> None:
        if target not in {"ready", "ended"}:
            raise ValueError(f"target is {target!r}; it may be 'ready' or 'ended'")
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.target = target

    def execute(self, context: Context) -> Any:
        """Wait in the triggerer."""
        cluster_id = require_id(self.cluster_id, "cluster_id")
        self.show_links(cluster_id)
        self.keep_lease(context, cluster_id)
        deadline = in_future(timedelta(seconds=self.timeout))
        self.defer(
            trigger=EmrClusterTrigger(
                cluster_id=cluster_id,
                target=self.target,
                **self.trigger_arguments(deadline=deadline, end_on_kill=False),
            ),
            method_name="execute_complete",
            kwargs={"cluster_id": cluster_id},
            timeout=backstop(deadline),
        )

    def execute_complete(self, context: Context, event: dict[str, Any], cluster_id: str) -> None:
        """Succeed at the target; explain anything else."""
        self.show_links(cluster_id)
        if event["outcome"] != self.target:
            self.explain(self.judge_cluster(cluster_id, event["outcome"]))
        self.log.info("Cluster %s is %s", cluster_id, event["state"])


class EmrStepSensor(EmrFailuresMixin, BaseSensorOperator):
    """Wait until a step has completed.

    ``timeout`` bounds the wait; there is no other mode than deferring.

    :param cluster_id: the step's cluster. (templated)
    :param step_id: the step. (templated)
    """

    template_fields: Sequence[str] = ("cluster_id", "step_id")
    ui_color = "#f9eab0"
    no_retry = _ALL

    def __init__(self, *, cluster_id: str, step_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.step_id = step_id

    def execute(self, context: Context) -> Any:
        """Wait in the triggerer."""
        cluster_id = require_id(self.cluster_id, "cluster_id")
        step_id = require_id(self.step_id, "step_id")
        self.show_links(cluster_id, step_id)
        self.keep_lease(context, cluster_id)
        deadline = in_future(timedelta(seconds=self.timeout))
        self.defer(
            trigger=EmrStepTrigger(
                cluster_id=cluster_id,
                step_id=step_id,
                queued_until=deadline,
                running_seconds=self.timeout,
                **self.trigger_arguments(deadline=deadline, end_on_kill=False),
            ),
            method_name="execute_complete",
            kwargs={"cluster_id": cluster_id, "step_id": step_id},
            timeout=backstop(deadline),
        )

    def execute_complete(
        self, context: Context, event: dict[str, Any], cluster_id: str, step_id: str
    ) -> None:
        """Succeed where the step completed; explain anything else."""
        self.show_links(cluster_id, step_id)
        if event["state"] != "COMPLETED":
            self.explain(self.judge_step(cluster_id, step_id, event["outcome"]))
        self.log.info("Step %s of cluster %s has completed", step_id, cluster_id)
