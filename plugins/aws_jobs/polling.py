"""The shared poller: one loop asks AWS for what all deferred tasks of a process wait for.

It is the stream behind Airflow's shared triggers. A trigger registers what it watches and takes the
sweeps that come; the loop asks for everything that is watched, in as few calls as the API allows,
and never faster than the account's quotas.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aws_jobs.aws_errors import is_passing, is_throttled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence

log = logging.getLogger(__name__)

# A job is asked for after a tenth of the time that it has been watched, within these bounds.
_FIRST_SECONDS = 1.0
_AGE_SHARE = 0.1
# Newcomers wait this long for others, so that they are asked for together; and so do answers, as
# each sweep wakes all who wait.
_GATHER_SECONDS = 0.25
# A trigger's event comes this long after its start, at the earliest: longer than a busy scheduler
# takes for its loop. ``[aws_jobs] settle_seconds`` in Airflow's configuration.
_SETTLE_SECONDS = 10.0
# A sweep comes at least this often, so that waiters see deadlines pass while AWS is silent. As it
# wakes all of them, it comes later than the next look at Batch jobs would.
_TICK_SECONDS = 12.0


@dataclass(frozen=True, eq=False)
class Watch:
    """What one waiter waits for.

    :param group: what can be asked for in one call: a cluster's steps, or all clusters.
    :param item: the id within the group.
    :param interval: seconds between two looks at the most.
    :param quickest: seconds between two looks at the least.
    :param first: seconds until the first look, so that newcomers are asked for together.
    """

    group: Hashable
    item: str
    interval: float
    quickest: float = _FIRST_SECONDS
    first: float = _GATHER_SECONDS
    since: float = field(default_factory=time.monotonic)

    def pace(self, now: float) -> float:
        """Seconds until the next look: quick at first, slower for a long wait."""
        return min(self.interval, max(self.quickest, (now - self.since) * _AGE_SHARE))


class Watchlist:
    """All watches of one stream; who asks for them is woken when one is added."""

    def __init__(self) -> None:
        self._watches: dict[Hashable, list[Watch]] = {}
        self.wakes: list[asyncio.Event] = []

    def groups(self) -> Mapping[Hashable, Sequence[Watch]]:
        """Return the watches by what can be asked for in one call."""
        return self._watches

    @contextmanager
    def watching(self, watch: Watch) -> Iterator[None]:
        """Keep a watch on the list."""
        self._watches.setdefault(watch.group, []).append(watch)
        for wake in self.wakes:
            wake.set()
        try:
            yield
        finally:
            group = self._watches[watch.group]
            group.remove(watch)
            if not group:
                del self._watches[watch.group]


_watchlists: dict[Hashable, Watchlist] = defaultdict(Watchlist)


def watchlist(stream_key: Hashable) -> Watchlist:
    """Return the watchlist of a stream: one per process, service, connection and region."""
    return _watchlists[stream_key]


class CallRate:
    """A token bucket for one API call that halves its rate when AWS throttles, and recovers.

    :param burst: calls at once.
    :param refill: calls a second.
    """

    def __init__(
        self, burst: float, refill: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = max(1.0, burst)
        self._full = refill
        self._refill = refill
        self._tokens = self._burst
        self._clock = clock
        self._at = clock()

    @property
    def refill(self) -> float:
        """Calls a second at present."""
        return self._refill

    def take(self) -> float:
        """Take a token and return the seconds to wait until it is there."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._refill)
        self._at = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._refill)

    def throttled(self) -> None:
        """Halve the rate, down to a sixteenth, and give up what was saved."""
        self._refill = max(self._full / 16, self._refill / 2)
        self._tokens = min(self._tokens, 0.0)

    def answered(self) -> None:
        """Recover a tenth of the full rate."""
        self._refill = min(self._full, self._refill + self._full / 10)


@dataclass(frozen=True)
class Sweep:
    """What one call answered: the status of some ids, None for an id that AWS does not know.

    A text is AWS's refusal to say. An empty sweep says only that time has passed.
    """

    states: Mapping[tuple[Hashable, str], Any] = field(default_factory=dict)


class Ask(Protocol):
    """Asks AWS for the items of a group, one sweep a call, as far as the group needs."""

    def __call__(self, group: Hashable, items: Sequence[str]) -> AsyncIterator[Sweep]:
        """Yield the states that each call answered."""


def _all(group: Hashable) -> bool:
    return True


async def sweeps(
    waiting: Watchlist, ask: Ask, lanes: Sequence[Callable[[Hashable], bool]] = (_all,)
) -> AsyncIterator[Sweep]:
    """Ask for all that is watched, for ever, and never raise: waiters wait while AWS fails.

    :param lanes: which groups are asked for one after the other. Lanes do not wait for each other,
        so a call that has to wait for its quota delays only those that need the same.
    """
    answers: asyncio.Queue[Sweep] = asyncio.Queue()
    tasks = [asyncio.create_task(_ask_in_lane(waiting, ask, lane, answers)) for lane in lanes]
    try:
        while True:
            yield await _gather(answers)
    finally:
        for task in tasks:
            task.cancel()


async def _gather(answers: asyncio.Queue[Sweep]) -> Sweep:
    """Return what was answered in a moment as one sweep, an empty one after a time of silence."""
    try:
        first = await asyncio.wait_for(answers.get(), timeout=_TICK_SECONDS)
    except TimeoutError:
        return Sweep()
    await asyncio.sleep(_GATHER_SECONDS)
    states = dict(first.states)
    while not answers.empty():
        states |= answers.get_nowait().states
    return Sweep(states)


async def _ask_in_lane(
    waiting: Watchlist,
    ask: Ask,
    lane: Callable[[Hashable], bool],
    answers: asyncio.Queue[Sweep],
) -> None:
    wake = asyncio.Event()
    waiting.wakes.append(wake)
    asked: dict[Hashable, _Asked] = defaultdict(_Asked)
    try:
        while True:
            groups = {group: w for group, w in waiting.groups().items() if lane(group)}
            group, due = _next_due(groups, asked)
            if due > time.monotonic():
                await _sleep_until(due, wake)
            else:
                await _ask_for(group, groups[group], ask, asked[group], answers)
            for gone in asked.keys() - waiting.groups().keys():
                del asked[gone]
    finally:
        waiting.wakes.remove(wake)


async def _ask_for(
    group: Hashable,
    watches: Sequence[Watch],
    ask: Ask,
    asked: _Asked,
    answers: asyncio.Queue[Sweep],
) -> None:
    items = list(dict.fromkeys(watch.item for watch in watches))
    asked.at = time.monotonic()
    try:
        async for sweep in ask(group, items):
            answers.put_nowait(sweep)
        asked.failures = 0
    except Exception as error:
        asked.failures += 1
        _report(error, group)


@dataclass
class _Asked:
    """When a group was last asked for, and how often in a row that failed."""

    at: float = 0.0
    failures: int = 0

    @property
    def backoff(self) -> float:
        """Seconds that a failing group is left alone: 1, 2, 4 ... 32."""
        return 0.5 * 2 ** min(self.failures, 6) if self.failures else 0.0


def _next_due(
    groups: Mapping[Hashable, Sequence[Watch]], asked: Mapping[Hashable, _Asked]
) -> tuple[Hashable, float]:
    """Return the group that is due first, and when; a tick where nothing is."""
    now = time.monotonic()
    first: tuple[Hashable, float] = (None, now + _TICK_SECONDS)
    for group, watches in groups.items():
        last = asked[group].at
        wait = max(min(watch.pace(now) for watch in watches), asked[group].backoff)
        due = last + wait * random.uniform(0.8, 1.0)  # noqa: S311 - jitter
        newcomers = [watch.since + watch.first for watch in watches if watch.since >= last]
        if newcomers and not asked[group].failures:
            due = min([*newcomers, due] if last else newcomers)
        if due < first[1]:
            first = (group, due)
    return first


async def _sleep_until(due: float, wake: asyncio.Event) -> None:
    """Sleep until then, or until a newcomer may be due; what is due is looked for among all."""
    wake.clear()
    try:
        await asyncio.wait_for(wake.wait(), timeout=max(0.01, due - time.monotonic()))
    except TimeoutError:
        return
    await asyncio.sleep(min(_GATHER_SECONDS, max(0.0, due - time.monotonic())))


def _report(error: Exception, group: Hashable) -> None:
    if is_passing(error):
        log.info("AWS did not answer for %s: %s", group, error)
    else:
        log.warning("Asking for %s failed: %s", group, error, exc_info=error)


async def settle(began: float) -> None:
    """Let Airflow note the deferral before its end: at once, the task would lose a try.

    The scheduler takes the end of a worker's process for that of its task when the task is queued
    again by the time of its next loop (apache/airflow#71580). In the last try no process of the
    task's would run again, and end what it has started.

    :param began: when the trigger began, by the monotonic clock.
    """
    from airflow.sdk.configuration import conf

    seconds = conf.getfloat("aws_jobs", "settle_seconds", fallback=_SETTLE_SECONDS)
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))


async def paced(rate: CallRate, call: Callable[..., Any], **arguments: Any) -> Any:
    """Make one call in a thread, when its rate allows."""
    if wait := rate.take():
        await asyncio.sleep(wait)
    try:
        answer = await asyncio.to_thread(call, **arguments)
    except Exception as error:
        if is_throttled(error):
            rate.throttled()
        raise
    rate.answered()
    return answer
