"""Wait for EMR clusters and steps, together with everybody else who does.

Class paths and arguments are an interface: tasks that were deferred before a deploy come back with
them after it. Triggerer queues do not apply to triggers that share a stream.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import call_patiently
from aws_jobs.emr_polling import CLUSTERS, shared_ask
from aws_jobs.job_flow import (
    CLUSTER_ENDING,
    CLUSTER_READY,
    CLUSTER_STARTING,
    STEP_ENDED,
    cancel_steps,
    terminate_cluster,
)
from aws_jobs.polling import Watch, settle, sweeps, watchlist

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable

    from aws_jobs.polling import Sweep


def _is_clusters(group: Hashable) -> bool:
    return group == CLUSTERS


def _is_steps(group: Hashable) -> bool:
    return group != CLUSTERS


# Airflow gives on_kill 30 seconds.
_KILL_SECONDS = 25.0


class EmrTrigger(BaseEventTrigger):
    """Base of the triggers that share the EMR stream of a connection and region.

    :param aws_conn_id: Airflow's AWS connection.
    :param region: None for the connection's own.
    :param quota_share: share of the account's API quotas that this triggerer may use.
    :param deadline: Unix time at which waiting ends, whatever the state.
    :param unseen_seconds: how long AWS may say that it does not know the id before waiting ends.
    :param interval: seconds between two looks at the most.
    :param end_on_kill: end the external job when a person fails, clears or marks the task; only
        for the task that started it.
    """

    def __init__(
        self,
        *,
        aws_conn_id: str | None,
        region: str | None,
        quota_share: float,
        deadline: float,
        unseen_seconds: float,
        interval: float,
        end_on_kill: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.aws_conn_id = aws_conn_id
        self.region = region
        self.quota_share = quota_share
        self.deadline = deadline
        self.unseen_seconds = unseen_seconds
        self.interval = interval
        self.end_on_kill = end_on_kill
        self._noted = ""

    @property
    @abstractmethod
    def watch(self) -> Watch:
        """What this trigger asks for."""

    @abstractmethod
    def verdict(self, status: dict[str, Any], now: float) -> str | None:
        """Return the outcome that a status means, or None while it has to wait."""

    @abstractmethod
    def end(self, emr: Any) -> None:
        """End the external job."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that all EMR triggers have."""
        return {
            "aws_conn_id": self.aws_conn_id,
            "region": self.region,
            "quota_share": self.quota_share,
            "deadline": self.deadline,
            "unseen_seconds": self.unseen_seconds,
            "interval": self.interval,
            "end_on_kill": self.end_on_kill,
        }

    def shared_stream_key(self) -> Hashable:
        """One stream per connection and region in each triggerer process."""
        return ("emr", self.aws_conn_id, self.region)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Sweep]:
        """Ask for all that is watched with this connection, until nobody waits."""
        aws_conn_id, region = kwargs["aws_conn_id"], kwargs["region"]
        ask = shared_ask(aws_conn_id, region, kwargs["quota_share"])
        waiting = watchlist(("emr", aws_conn_id, region))
        async for sweep in sweeps(waiting, ask, lanes=(_is_clusters, _is_steps)):
            yield sweep

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[Sweep]
    ) -> AsyncIterator[TriggerEvent]:
        """Wait for the sweep that decides, or for a deadline."""
        watch, began = self.watch, time.monotonic()
        key = (watch.group, watch.item)
        known: dict[str, Any] | None = None
        unknown_since: float | None = None
        with watchlist(self.shared_stream_key()).watching(watch):
            async for sweep in shared_stream:
                now, outcome = time.time(), None
                status = sweep.states.get(key)
                if key in sweep.states and not isinstance(status, str):
                    known = status
                    unknown_since = None if known else unknown_since or now
                    outcome = self.verdict(known, now) if known else None
                    if unknown_since and now >= unknown_since + self.unseen_seconds:
                        outcome = "unseen"
                if key in sweep.states:
                    self._note_change(status)
                if outcome is None and now >= self.deadline:
                    outcome = "timeout"
                if outcome is not None:
                    await settle(began)
                    yield TriggerEvent({"outcome": outcome, "state": (known or {}).get("State")})
                    return

    def _note_change(self, status: dict[str, Any] | str | None) -> None:
        """Write a line into the task's log for each change of the state."""
        if isinstance(status, str):
            state = f"not shown by EMR: {status}"
        else:
            state = status["State"] if status else "unknown to EMR"
        if state != self._noted:
            self._noted = state
            self.log.info("%s is %s", self.watch.item, state)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait alone, as ``dag.test()`` does."""
        _, kwargs = self.serialize()
        async for event in self.filter_shared_stream(self.open_shared_stream(kwargs)):
            yield event

    async def on_kill(self) -> None:
        """End the external job of the task that a person failed, cleared or marked."""
        if not self.end_on_kill:
            return
        await asyncio.to_thread(self._end_patiently)
        self.log.info("Ended what %s waited for: the task was killed", self)

    def _end_patiently(self) -> None:
        emr = aws_client("emr", self.aws_conn_id, self.region)
        call_patiently(lambda: self.end(emr), budget=_KILL_SECONDS)


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
