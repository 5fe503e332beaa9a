"""Wait for external jobs together with everybody else who does.

Class paths and arguments are an interface: tasks that were deferred before a deploy come back with
them after it. Triggerer queues do not apply to triggers that share a stream.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import call_patiently
from aws_jobs.polling import Watch, settle, watchlist

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Mapping

    from aws_jobs.polling import Sweep, Watchlist

# Airflow gives on_kill 30 seconds.
_KILL_SECONDS = 25.0


class SharedTrigger(BaseEventTrigger):
    """Base of the triggers that share the stream of a service, connection and region.

    :param aws_conn_id: Airflow's AWS connection.
    :param region: None for the connection's own.
    :param quota_share: share of the account's API quotas that this triggerer may use.
    :param deadline: Unix time at which waiting ends, whatever the state.
    :param unseen_seconds: how long AWS may say that it does not know the id before waiting ends.
    :param interval: seconds between two looks at the most.
    :param end_on_kill: end the external job when a person fails, clears or marks the task; only
        for the task that started it.
    """

    service: ClassVar[str]
    """botocore's name of the service."""

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
    def end(self, client: Any) -> None:
        """End the external job."""

    @classmethod
    @abstractmethod
    def sweeps(
        cls, waiting: Watchlist, aws_conn_id: str | None, region: str | None, quota_share: float
    ) -> AsyncIterator[Sweep]:
        """Ask for all that is watched, until nobody waits."""

    def payload(self, outcome: str, known: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the event for an outcome and the status that was seen last."""
        return {"outcome": outcome, "state": (known or {}).get("State")}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that all these triggers have."""
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
        return (self.service, self.aws_conn_id, self.region)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Sweep]:
        """Ask for all that is watched with this connection, until nobody waits."""
        aws_conn_id, region = kwargs["aws_conn_id"], kwargs["region"]
        waiting = watchlist((cls.service, aws_conn_id, region))
        async for sweep in cls.sweeps(waiting, aws_conn_id, region, kwargs["quota_share"]):
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
                    yield TriggerEvent(self.payload(outcome, known))
                    return

    def _note_change(self, status: dict[str, Any] | str | None) -> None:
        """Write a line into the task's log for each change of the state."""
        if isinstance(status, str):
            state = f"not shown by AWS: {status}"
        else:
            state = status["State"] if status else "unknown to AWS"
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
        client = aws_client(self.service, self.aws_conn_id, self.region)
        call_patiently(lambda: self.end(client), budget=_KILL_SECONDS)
