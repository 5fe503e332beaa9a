"""Wait for EMR clusters and steps, together with everybody else who does."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from aws_jobs.aws_errors import is_passing
from aws_jobs.cluster_lease import end_or_release
from aws_jobs.emr_polling import CLUSTERS, shared_ask
from aws_jobs.job_flow import (
    CLUSTER_ENDING,
    CLUSTER_READY,
    CLUSTER_STARTING,
    STEP_ENDED,
    cancel_steps,
    terminate_cluster,
)
from aws_jobs.lease_renewal import (
    forget_client,
    in_lease_thread,
    lease_table,
    renewing,
    split_arguments,
)
from aws_jobs.polling import Watch, settle, sweeps
from aws_jobs.triggers.shared import SharedTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable

    from aws_jobs.polling import Sweep, Watchlist


def _is_clusters(group: Hashable) -> bool:
    return group == CLUSTERS


def _is_steps(group: Hashable) -> bool:
    return group != CLUSTERS


class EmrTrigger(SharedTrigger):
    """Base of the triggers that share EMR's stream.

    :param lease: the run's lease on a shared cluster and its ``table``, to be renewed meanwhile.
    """

    service = "emr"

    def __init__(self, *, lease: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lease = lease

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that all these triggers have."""
        return {**super().arguments(), **({"lease": self.lease} if self.lease else {})}

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[Sweep]
    ) -> AsyncIterator[TriggerEvent]:
        """Wait, and keep the lease."""
        async with renewing(self.lease, self.aws_conn_id, self.region):
            async for event in super().filter_shared_stream(shared_stream):
                yield event

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
        """Terminate the cluster; give back the lease on a shared one."""
        if self.lease is None:
            terminate_cluster(emr, self.cluster_id)
            return
        table, lease = split_arguments(self.lease)
        end_or_release(emr, lease_table(table, self.aws_conn_id, self.region), lease)


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


class EmrPoolTrigger(BaseTrigger):
    """Wait until nobody is founding a cluster for a pool: then there is one to join, or to found.

    Outcomes: ``free``, ``timeout``, ``refused`` with DynamoDB's message, which a new client has had
    as well.

    :param table: the table of leases.
    :param deadline: Unix time at which waiting ends.
    :param interval: seconds between two looks at the most; the first come quicker.
    """

    def __init__(
        self,
        *,
        table: str,
        pool_id: str,
        deadline: float,
        interval: float,
        aws_conn_id: str | None,
        region: str | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table
        self.pool_id = pool_id
        self.deadline = deadline
        self.interval = interval
        self.aws_conn_id = aws_conn_id
        self.region = region
        self._was_refused = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on."""
        return (
            "aws_jobs.triggers.emr.EmrPoolTrigger",
            {
                "table": self.table,
                "pool_id": self.pool_id,
                "deadline": self.deadline,
                "interval": self.interval,
                "aws_conn_id": self.aws_conn_id,
                "region": self.region,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the founder has founded, or is taken for dead."""
        began = time.monotonic()
        pause = 1.0
        while True:
            event = await self._look()
            left = self.deadline - time.time()
            if event is None and left <= 0:
                event = {"outcome": "timeout"}
            if event is not None:
                await settle(began)
                yield TriggerEvent(event)
                return
            await asyncio.sleep(min(pause * random.uniform(0.8, 1.2), left))  # noqa: S311 - jitter
            pause = min(self.interval, pause * 1.5)

    async def _look(self) -> dict[str, Any] | None:
        client_of = self.table, self.aws_conn_id, self.region
        try:
            pool = await in_lease_thread(lambda: lease_table(*client_of).pool(self.pool_id))
        except Exception as error:
            if is_passing(error):
                return None
            if self._was_refused:
                return {"outcome": "refused", "message": str(error)}
            self._was_refused = True
            forget_client(*client_of)
            return None
        return None if pool.is_being_founded else {"outcome": "free"}
