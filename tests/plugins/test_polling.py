"""The shared poller: its rates, its pace, and that it never gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import ExitStack

import pytest

from aws_jobs.polling import CallRate, Sweep, Watch, Watchlist, sweeps


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_free_and_then_calls_come_at_the_refill_rate() -> None:
    rate = CallRate(burst=3, refill=0.5, clock=Clock())

    waits = [rate.take() for _ in range(5)]

    assert waits == [0, 0, 0, 2, 4]


def test_tokens_come_back_with_time_up_to_the_burst() -> None:
    clock = Clock()
    rate = CallRate(burst=2, refill=0.5, clock=clock)
    for _ in range(2):
        rate.take()

    clock.now = 100

    assert [rate.take() for _ in range(3)] == [0, 0, 2]


def test_throttling_halves_the_rate_and_answers_bring_it_back() -> None:
    rate = CallRate(burst=1, refill=1.0, clock=Clock())

    rate.throttled()
    assert rate.refill == 0.5
    for _ in range(10):
        rate.throttled()
    assert rate.refill == 1 / 16
    for _ in range(10):
        rate.answered()

    assert rate.refill == 1.0


def test_a_long_wait_is_looked_at_less_often() -> None:
    watch = Watch("group", "item", interval=30.0, since=0.0)

    assert [watch.pace(age) for age in (0, 5, 60, 100, 1000)] == [1.0, 1.0, 6.0, 10.0, 30.0]


def test_the_poller_survives_every_error() -> None:
    asked = 0

    async def ask(group: Hashable, items: Sequence[str]) -> AsyncIterator[Sweep]:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise RuntimeError("AWS is on fire")
        yield Sweep({(group, items[0]): "well"})

    async def state() -> str:
        waiting = Watchlist()
        with waiting.watching(Watch("group", "item", interval=0.05)):
            async for sweep in sweeps(waiting, ask):
                if sweep.states:
                    return str(sweep.states[("group", "item")])
        raise AssertionError("the stream ended")

    assert asyncio.run(asyncio.wait_for(state(), 20)) == "well"
    assert asked >= 3


def test_time_passes_for_waiters_although_aws_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aws_jobs.polling._TICK_SECONDS", 0.2)

    async def ask(group: Hashable, items: Sequence[str]) -> AsyncIterator[Sweep]:
        raise RuntimeError("no answer")
        yield Sweep()

    async def ticks() -> int:
        waiting = Watchlist()
        seen = 0
        with waiting.watching(Watch("group", "item", interval=1.0)):
            async for sweep in sweeps(waiting, ask):
                assert not sweep.states
                seen += 1
                if seen == 3:
                    return seen
        return seen

    assert asyncio.run(asyncio.wait_for(ticks(), 5)) == 3


def test_one_failing_group_does_not_delay_another() -> None:
    async def ask(group: Hashable, items: Sequence[str]) -> AsyncIterator[Sweep]:
        if group == "broken":
            raise RuntimeError("no answer")
        yield Sweep({(group, items[0]): "well"})

    async def well(times: int) -> int:
        waiting = Watchlist()
        seen = 0
        with (
            waiting.watching(Watch("broken", "item", interval=1.0)),
            waiting.watching(Watch("whole", "item", interval=1.0)),
        ):
            async for sweep in sweeps(waiting, ask):
                seen += bool(sweep.states)
                if seen == times:
                    return seen
        return seen

    assert asyncio.run(asyncio.wait_for(well(4), 8)) == 4


def test_answers_that_come_together_wake_the_waiters_once() -> None:
    async def ask(group: Hashable, items: Sequence[str]) -> AsyncIterator[Sweep]:
        for item in items:
            yield Sweep({(group, item): "well"})

    async def first_answer() -> int:
        waiting = Watchlist()
        with ExitStack() as together:
            for number in range(5):
                together.enter_context(waiting.watching(Watch("group", str(number), 30.0)))
            async for sweep in sweeps(waiting, ask):
                return len(sweep.states)
        raise AssertionError("the stream ended")

    assert asyncio.run(asyncio.wait_for(first_answer(), 10)) == 5


@pytest.mark.parametrize("newcomers", [1, 5])
def test_newcomers_are_asked_for_together(newcomers: int) -> None:
    calls: list[list[str]] = []

    async def ask(group: Hashable, items: Sequence[str]) -> AsyncIterator[Sweep]:
        calls.append(list(items))
        yield Sweep({(group, item): "well" for item in items})

    async def first_answer() -> None:
        waiting = Watchlist()
        watches = [Watch("group", str(number), interval=30.0) for number in range(newcomers)]
        with ExitStack() as together:
            for watch in watches:
                together.enter_context(waiting.watching(watch))
            async for sweep in sweeps(waiting, ask):
                if sweep.states:
                    return

    asyncio.run(asyncio.wait_for(first_answer(), 10))

    assert calls == [[str(number) for number in range(newcomers)]]
