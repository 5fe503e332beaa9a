"""Wait for EMR clusters and steps, together with everybody else who does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_jobs.emr_polling import CLUSTERS, shared_ask
from aws_jobs.job_flow import (
    CLUSTER_ENDING,
    CLUSTER_READY,
    CLUSTER_STARTING,
    STEP_ENDED,
    cancel_steps,
    terminate_cluster,
)
from aws_jobs.polling import Watch, sweeps
from aws_jobs.triggers.shared import SharedTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable

    from aws_jobs.polling import Sweep, Watchlist


def _is_clusters(group: Hashable) -> bool:
    return group == CLUSTERS


def _is_steps(group: Hashable) -> bool:
    return group != CLUSTERS


class EmrTrigger(SharedTrigger):
    """Base of the triggers that share EMR's stream."""

    service = "emr"

    @classmethod
    def sweeps(
        cls, waiting: Watchlist, aws_conn_id: str | None, region: str | None, quota_share: float
    ) -> AsyncIterator[Sweep]:
        """Ask for clusters and for steps, whose quotas are apart."""
        ask = shared_ask(aws_conn_id, region, quota_share)
        return sweeps(waiting, ask, lanes=(_is_clusters, _is_steps))


class EmrClusterTrigger(EmrTrigger):
    """Wait until a cluster is ready for steps, or has ended.

    Outcomes: ``ready``, ``ended``, ``timeout``, ``unseen``.

    :param target: ``ready`` or ``ended``.
    """

    def __init__(self, *, cluster_id: str, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.target = target

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on."""
        return (
            "aws_jobs.triggers.emr.EmrClusterTrigger",
            {"cluster_id": self.cluster_id, "target": self.target, **self.arguments()},
        )

    @property
    def watch(self) -> Watch:
        """The cluster, among all clusters."""
        return Watch(CLUSTERS, self.cluster_id, self.interval)

    def verdict(self, status: dict[str, Any], now: float) -> str | None:
        """Wait for the target; a cluster that is ending will not be ready any more."""
        state = status["State"]
        if self.target == "ready" and state in CLUSTER_READY:
            return "ready"
        if self.target == "ready" and state not in CLUSTER_STARTING:
            return "ended"
        if self.target == "ended" and state in CLUSTER_ENDING - {"TERMINATING"}:
            return "ended"
        return None

    def end(self, emr: Any) -> None:
        """Terminate the cluster."""
        terminate_cluster(emr, self.cluster_id)


class EmrStepTrigger(EmrTrigger):
    """Wait until a step has ended.

    Outcomes: ``ended``, ``timeout``, ``unseen``.

    :param queued_until: Unix time by which the step must have left PENDING.
    :param running_seconds: how long the step may run, counted from AWS's StartDateTime.
    """

    def __init__(
        self,
        *,
        cluster_id: str,
        step_id: str,
        queued_until: float,
        running_seconds: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.step_id = step_id
        self.queued_until = queued_until
        self.running_seconds = running_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on."""
        return (
            "aws_jobs.triggers.emr.EmrStepTrigger",
            {
                "cluster_id": self.cluster_id,
                "step_id": self.step_id,
                "queued_until": self.queued_until,
                "running_seconds": self.running_seconds,
                **self.arguments(),
            },
        )

    @property
    def watch(self) -> Watch:
        """The step, among those of its cluster."""
        return Watch(self.cluster_id, self.step_id, self.interval)

    def verdict(self, status: dict[str, Any], now: float) -> str | None:
        """Wait for the end, within the budgets for queueing and for running."""
        state = status["State"]
        if state in STEP_ENDED:
            return "ended"
        if state == "PENDING" and now >= self.queued_until:
            return "timeout"
        started = status.get("StartedAt")
        if started is not None and now >= started + self.running_seconds:
            return "timeout"
        return None

    def end(self, emr: Any) -> None:
        """Cancel the step."""
        cancel_steps(emr, self.cluster_id, [self.step_id])
