"""Cases that are begun together, because most of their time is waiting, and judged one by one.

    CASES = [Case("the step fails once", ["step"], failing_tries=1, submissions={"step": 2})]
    outcomes = fixture_of(CASES)

    @each_of(CASES)
    def test_ends(case: Case, outcomes: Outcomes) -> None:
        outcomes.check(case)

Only those are begun that pytest was asked for, so that each can be run alone with ``-k``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from localaws.faults import CLUSTER_KINDS, JOB_KINDS
from tests.faults.strikes import Strike
from tests.faults.world import FaultRun, FaultWorld, slug


@dataclass(frozen=True)
class Case:
    """One run and what happens to it.

    :param words: the case in words: its row of the table.
    :param kinds: of external jobs.
    :param faults: what localaws does to the clusters, steps and jobs of this run alone.
    :param happens: what a person does, once the run has begun.
    :param states: in which the run may end.
    :param submissions: how many external jobs each of these tasks makes.
    :param conf: parameters of the DAG.
    """

    words: str
    kinds: Sequence[str]
    faults: Sequence[Mapping[str, Any]] = ()
    strikes: Sequence[Strike] = ()
    happens: Callable[[FaultRun], None] | None = None
    states: Collection[str] = ("success",)
    submissions: Mapping[str, int] = field(default_factory=dict)
    conf: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The case as a part of run ids and of tests' names."""
        return slug(self.words)

    @property
    def own_faults(self) -> list[dict[str, Any]]:
        """The fault plan, held to what this run makes."""
        names = f"f*-{self.name}--"
        return [
            {**fault, "cluster": f"{names}cluster*"}
            if fault["kind"] in CLUSTER_KINDS
            else {"job": f"{names}*", **fault}
            if fault["kind"] in JOB_KINDS
            else dict(fault)
            for fault in self.faults
        ]


class Outcomes:
    """What became of the cases of a module."""

    def __init__(self) -> None:
        self._wrong: dict[str, list[Exception | AssertionError]] = {}

    def judge(self, world: FaultWorld, cases: Sequence[Case]) -> Outcomes:
        """Begin all cases, let happen what happens, and judge each."""
        plan = itertools.chain.from_iterable(case.own_faults for case in cases)
        world.set_faults(list(plan))
        runs = {
            case.name: world.begin(case.words, case.kinds, strikes=case.strikes, **case.conf)
            for case in cases
        }
        for case in cases:
            self._wrong[case.name] = []
            if case.happens is not None:
                with self._noting(case):
                    case.happens(runs[case.name])
        for case in cases:
            with self._noting(case):
                world.judge(runs[case.name], states=case.states, submissions=case.submissions)
        world.set_faults([])
        return self

    def check(self, case: Case) -> None:
        """Fail where the case has not gone as it should."""
        if wrong := self._wrong[case.name]:
            raise wrong[-1]

    def _noting(self, case: Case) -> _Noting:
        return _Noting(self._wrong[case.name])


class _Noting:
    """Notes what a block raises: the other cases go on."""

    def __init__(self, notes: list[Exception | AssertionError]) -> None:
        self._notes = notes

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        if isinstance(error, Exception):
            self._notes.append(error)
            return True
        return False


def each_of(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Make a test of each case."""
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def outcomes_of(group: str) -> Callable[..., Outcomes]:
    """Make the module's fixture that judges all cases pytest was asked for.

    :param group: of the table; the fixture is older than the one that gives each test its group.
    """

    @pytest.fixture(scope="module")
    def outcomes(request: pytest.FixtureRequest, world: FaultWorld) -> Outcomes:
        asked = [
            item.callspec.params["case"]
            for item in request.session.items
            if item.module is request.module and "outcomes" in item.fixturenames
        ]
        world.group = group
        return Outcomes().judge(world, asked)

    return outcomes
