"""Scheduler and triggerer die while tasks of all kinds are at each point: one death for many."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest

from tests.faults.cases import as_far_as_it_goes
from tests.faults.external_jobs import NAMES
from tests.faults.strikes import Strike
from tests.faults.test_kill_points import POINTS, PROTECTED, SUBMISSIONS, TEARDOWN
from tests.faults.world import KINDS, FaultRun, FaultWorld, slug

GROUP = "Scheduler and triggerer"

#: So many seconds longer than usual a cluster starts, so that its task is deferred meanwhile.
SLOW_START = 12
ONCE = {task: 1 for task in SUBMISSIONS}
ENDING = ("unprotect", "terminate", "wait")
# For what runs beside the tasks that stand still.
_FREE_SLOTS = 4


@dataclass(frozen=True)
class Death:
    """How a component is ended.

    :param keeps_jobs: each task then makes its external job once; else its process may be asked to
        end, and ends the job.
    :param tasks_hang: the tasks' processes go on standing still, until they are ended.
    """

    words: str
    number: signal.Signals
    alone: bool
    keeps_jobs: bool
    tasks_hang: bool = False

    def of(self, world: FaultWorld, component: str) -> None:
        world.kill(component, self.number, alone=self.alone)


TRIGGERER = {
    "KILL": Death("SIGKILL of the triggerer", signal.SIGKILL, alone=False, keeps_jobs=True),
    "TERM": Death("SIGTERM to the triggerer", signal.SIGTERM, alone=False, keeps_jobs=True),
}
SCHEDULER = {
    "HOST": Death("loss of the scheduler's host", signal.SIGKILL, alone=False, keeps_jobs=True),
    "KILL": Death("SIGKILL of the scheduler alone", signal.SIGKILL, alone=True, keeps_jobs=False),
    # Another scheduler gives them to other processes, while the first ones stand still.
    "HANG": Death(
        "SIGKILL of the scheduler alone, its tasks hang",
        signal.SIGKILL,
        alone=True,
        keeps_jobs=False,
        tasks_hang=True,
    ),
    "TERM": Death("SIGTERM to the scheduler alone", signal.SIGTERM, alone=True, keeps_jobs=True),
    "STOP": Death(
        "SIGTERM to the scheduler and its tasks", signal.SIGTERM, alone=False, keeps_jobs=False
    ),
}


# The triggerer


@pytest.mark.parametrize("death", TRIGGERER)
def test_triggerer_ends_while_all_kinds_are_deferred(world: FaultWorld, death: str) -> None:
    end = TRIGGERER[death]
    starting = f"{end.words} while a cluster starts"
    world.set_faults(
        [{"kind": "slow_start", "cluster": f"*{slug(starting)}*", "seconds": SLOW_START}]
    )
    works = world.begin(f"{end.words} while deferred", KINDS, waits=True)
    for task in ("step", "job", "array_job"):
        works.wait_task(task, "deferred")
    starts = world.begin(starting, ["cluster"], seconds=0)
    starts.wait_task("create_cluster", "deferred")

    end.of(world, "triggerer")
    works.let_work_end()
    world.restart("triggerer")

    world.judge(works, submissions=ONCE)
    world.judge(starts, submissions={"create_cluster": 1})


def test_triggerer_dies_at_once_when_the_jobs_have_ended(world: FaultWorld) -> None:
    run = world.begin("SIGKILL of the triggerer when the jobs have ended", KINDS, waits=True)
    waiting = ("step", "job", "array_job")
    for task in waiting:
        run.wait_task(task, "deferred")

    run.let_work_end()
    kinds = ("step", "job", "array")
    run.until(lambda: all(run.external_job(kind).ended for kind in kinds), every=0.2)
    world.kill("triggerer", signal.SIGKILL)
    world.restart("triggerer")

    world.judge(run, submissions=ONCE)


def test_triggerer_dies_while_the_cluster_is_ending(world: FaultWorld) -> None:
    hold = Strike("reported", "HOLD", "terminate_cluster")
    run = world.begin(
        "SIGKILL of the triggerer during the teardown's wait", ["cluster"], strikes=[hold]
    )
    run.wait_until_held()

    world.kill("triggerer", signal.SIGKILL)
    run.let_go()
    world.restart("triggerer")

    world.judge(run, submissions={"create_cluster": 1})


# The scheduler


@pytest.fixture
def held(request: pytest.FixtureRequest, world: FaultWorld) -> list[FaultRun]:
    """Runs of which each has tasks that stand still, at each point and of all kinds.

    One point after the other, so that not all processes begin at once.
    """
    words = SCHEDULER[request.getfixturevalue("death")].words
    runs: list[FaultRun] = []
    for name in (*POINTS, *ENDING):
        world.set_slots(sum(len(run.plan.strikes) for run in runs) + len(KINDS) + _FREE_SLOTS)
        begun = begin_held(world, words, name)
        runs += begun
        with as_far_as_it_goes(world):
            begun[0].wait_until_held(timeout=300)
    for run in runs:
        with as_far_as_it_goes(world):
            run.wait_until_held(timeout=300)
    world.set_slots()
    return runs


def begin_held(world: FaultWorld, words: str, name: str) -> list[FaultRun]:
    """Begin runs whose tasks stand still at a point."""
    point = (POINTS | TEARDOWN)[name]
    case = f"{words}: {point.words}"

    def hold(*tasks: str) -> list[Strike]:
        return [point.strike(world.operators, "HOLD", task) for task in tasks]

    if name in ENDING:
        ends, protected = hold("terminate_cluster"), name in PROTECTED
        return [world.begin(case, ["cluster"], strikes=ends, protected=protected, seconds=0)]
    # A step is reached only where its cluster's task is not held.
    others = hold("create_cluster", "job", "array_job")
    return [
        world.begin(case, ["cluster", "job", "array"], strikes=others),
        world.begin(case, ["step"], strikes=hold("step")),
    ]


@pytest.mark.parametrize("death", SCHEDULER)
def test_scheduler_ends_while_tasks_of_all_kinds_are_at_each_point(
    world: FaultWorld, held: list[FaultRun], death: str
) -> None:
    end = SCHEDULER[death]

    end.of(world, "scheduler")
    if not end.tasks_hang:
        for run in held:
            run.let_go()
    world.restart("scheduler")

    problems = []
    for run in held:
        once = {NAMES[kind]: 1 for kind in run.kinds}
        try:
            world.judge(run, submissions=once if end.keeps_jobs else None, timeout=600)
        except AssertionError as problem:
            problems.append(str(problem))
    assert not problems, "\n".join(problems)
