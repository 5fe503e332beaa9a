"""Cases that are begun together, because most of their time is waiting, and judged one by one.

    CASES = [Case("the step fails once", ["cluster", "step"], conf={"failing_tries": 1})]
    outcomes = outcomes_of(GROUP)

    @each_of(CASES)
    def test_ends(case: Case, outcomes: Outcomes) -> None:
        outcomes.check(case)

Only those are begun that pytest was asked for, so that each can be run alone with ``-k``.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from localaws.faults import CLUSTER_KINDS, JOB_KINDS
from tests.faults.strikes import Strike
from tests.faults.world import FaultRun, FaultWorld, slug


@dataclass(frozen=True, eq=False)
class Case:
    """One run and what happens to it.

    :param words: the case in words: its row of the table.
    :param kinds: of external jobs.
    :param faults: what localaws does to the clusters, steps and jobs of this run alone.
    :param strikes: what is done to its task processes.
    :param happens: what a person does, once the run has begun.
    :param states: in which the run may end.
    :param submissions: how many external jobs each of these tasks makes.
    :param undone: kinds whose work need not be done, because a person has called it done.
    :param conf: parameters of the DAG.
    :param quick: whether it is one of the few that always run.
    """

    words: str
    kinds: Sequence[str]
    faults: Sequence[Mapping[str, Any]] = ()
    strikes: Sequence[Strike] = ()
    happens: Callable[[FaultRun], None] | None = None
    states: Collection[str] = ("success",)
    submissions: Mapping[str, int] = field(default_factory=dict)
    undone: Collection[str] = ()
    conf: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False

    @property
    def holds(self) -> bool:
        """Whether processes stand still until something has happened to them."""
        return any(strike.action == "HOLD" for strike in self.strikes)

    @property
    def own_faults(self) -> list[dict[str, Any]]:
        """The fault plan, held to what this run makes."""
        names = f"f*-{slug(self.words)}--"
        return [
            {**fault, "cluster": f"{names}cluster*"}
            if fault["kind"] in CLUSTER_KINDS
            else {**fault, "job": f"{names}{fault.get('job', '*')}"}
            if fault["kind"] in JOB_KINDS
            else dict(fault)
            for fault in self.faults
        ]


class Outcomes:
    """What became of cases.

    :param world: whose operators are held to the cases, if they are ours.
    """

    def __init__(self, world: FaultWorld) -> None:
        self._world = world
        self._wrong: dict[str, list[Exception]] = {}

    def judge(self, *cases: Case, plan: Sequence[Mapping[str, Any]] = ()) -> Outcomes:
        """Begin all cases, let happen what happens, and judge each.

        :param plan: faults that strike all of them.
        """
        world = self._world
        own = [fault for case in cases for fault in case.own_faults]
        world.set_faults([*own, *map(dict, plan)])
        runs: dict[Case, FaultRun] = {}
        with ThreadPoolExecutor(max(1, len(cases))) as at_once:
            for case in cases:
                if not case.holds:
                    self._begin(case, runs)
                    at_once.submit(self._let_happen, case, runs.get(case))
            # processes that stand still take slots: these begin when their turn has come
            for case in cases:
                if case.holds:
                    self._begin(case, runs)
                    self._let_happen(case, runs.get(case))
        for case, run in runs.items():
            with self._noting(case):
                world.judge(
                    run, states=case.states, submissions=case.submissions, undone=case.undone
                )
        world.set_faults([])
        return self

    def check(self, *cases: Case) -> None:
        """Fail where a case has not gone as it should."""
        wrong = [error for case in cases for error in self._wrong.get(case.words, [])]
        if wrong and self._world.is_ours:
            # what it was judged for says more than what was not to be had before
            raise wrong[-1]

    def _begin(self, case: Case, runs: dict[Case, FaultRun]) -> None:
        with self._noting(case):
            runs[case] = self._world.begin(
                case.words, case.kinds, strikes=case.strikes, **case.conf
            )

    def _let_happen(self, case: Case, run: FaultRun | None) -> None:
        with self._noting(case):
            if case.happens is not None and run is not None:
                case.happens(run)

    @contextmanager
    def _noting(self, case: Case) -> Iterator[None]:
        """Note what goes wrong: the other cases go on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self._wrong.setdefault(case.words, []).append(error)


@contextmanager
def as_far_as_it_goes(world: FaultWorld) -> Iterator[None]:
    """Let the stock operators be judged though they have not come to where ours come."""
    try:
        yield
    except Exception:
        if world.is_ours:
            raise
        traceback.print_exc()


def each_of(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Make a test of each case."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=slug(case.words), marks=[pytest.mark.quick] if case.quick else [])
            for case in cases
        ],
    )


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
        return Outcomes(world).judge(*asked)

    return outcomes
