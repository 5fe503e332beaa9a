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
# Newcomers wait this long for others, so that they are asked for together.
_GATHER_SECONDS = 0.25
# A sweep comes at least this often, so that waiters see their deadlines pass while AWS is silent.
_TICK_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Watch:
    """What one waiter waits for.

    :param group: what can be asked for in one call: a cluster's steps, or all clusters.
    :param item: the id within the group.
    :param interval: seconds between two looks at the most.
    """

    group: Hashable
    item: str
    interval: float
    since: float = field(default_factory=time.monotonic)

    def pace(self, now: float) -> float:
        """Seconds until the next look: quick at first, slower for a long wait."""
        return min(self.interval, max(_FIRST_SECONDS, (now - self.since) * _AGE_SHARE))


class Watchlist:
    """All watches of one stream; the stream is woken when one is added."""

    def __init__(self) -> None:
        self._watches: dict[Hashable, list[Watch]] = defaultdict(list)
        self.wake: asyncio.Event | None = None

    def groups(self) -> Mapping[Hashable, Sequence[Watch]]:
        """Return the watches by what can be asked for in one call."""
        return self._watches

    @contextmanager
    def watching(self, watch: Watch) -> Iterator[None]:
        """Keep a watch on the list."""
        self._watches[watch.group].append(watch)
        if self.wake is not None:
            self.wake.set()
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
    """What one call answered: the states of some ids, None for an id that AWS does not know.

    An empty sweep says only that time has passed.
    """

    states: Mapping[tuple[Hashable, str], Any] = field(default_factory=dict)


class Ask(Protocol):
    """Asks AWS for the items of a group, one sweep a call, as far as the group needs."""

    def __call__(self, group: Hashable, items: Sequence[str]) -> AsyncIterator[Sweep]:
        """Yield the states that each call answered."""


async def sweeps(waiting: Watchlist, ask: Ask) -> AsyncIterator[Sweep]:
    """Ask for all that is watched, for ever, and never raise: waiters wait while AWS fails."""
    waiting.wake = asyncio.Event()
    asked: dict[Hashable, _Asked] = defaultdict(_Asked)
    while True:
        group, due = _next_due(waiting, asked)
        if due > time.monotonic():
            yield Sweep()
            await _sleep_until(due, waiting.wake)
            continue
        items = list(dict.fromkeys(watch.item for watch in waiting.groups()[group]))
        asked[group].at = time.monotonic()
        try:
            async for sweep in ask(group, items):
                yield sweep
            asked[group].failures = 0
        except Exception as error:
            asked[group].failures += 1
            _report(error, group)
            yield Sweep()
        for gone in asked.keys() - waiting.groups().keys():
            del asked[gone]


@dataclass
class _Asked:
    """When a group was last asked for, and how often in a row that failed."""

    at: float = 0.0
    failures: int = 0

    @property
    def backoff(self) -> float:
        """Seconds that a failing group is left alone: 1, 2, 4 ... 32."""
        return 0.5 * 2 ** min(self.failures, 6) if self.failures else 0.0


def _next_due(waiting: Watchlist, asked: Mapping[Hashable, _Asked]) -> tuple[Hashable, float]:
    """Return the group that is due first, and when; a tick where nothing is."""
    now = time.monotonic()
    first: tuple[Hashable, float] = (None, now + _TICK_SECONDS)
    for group, watches in waiting.groups().items():
        last = asked[group].at
        newest = max(watch.since for watch in watches)
        wait = max(min(watch.pace(now) for watch in watches), asked[group].backoff)
        due = last + wait * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        if newest >= last and not asked[group].failures:
            due = newest + _GATHER_SECONDS
        if due < first[1]:
            first = (group, due)
    return first


async def _sleep_until(due: float, wake: asyncio.Event) -> None:
    wake.clear()
    try:
        await asyncio.wait_for(wake.wait(), timeout=max(0.01, due - time.monotonic()))
    except TimeoutError:
        return


def _report(error: Exception, group: Hashable) -> None:
    if is_passing(error):
        log.info("AWS did not answer for %s: %s", group, error)
    else:
        log.warning("Asking for %s failed: %s", group, error, exc_info=error)


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
