"""A task's process is killed at each point between its start and its end.

In each run the processes of all four kinds are struck at the same point; the step's cluster was
struck before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest

from tests.faults.strikes import Strike
from tests.faults.world import KINDS, FaultRun, FaultWorld

GROUP = "Kill points"

SUBMISSIONS = {
    "create_cluster": "RunJobFlow",
    "step": "AddJobFlowSteps",
    "job": "SubmitJob",
    "array_job": "SubmitJob",
}

ACTIONS = {
    "KILL": "SIGKILL of the process",
    "TERM": "eviction (SIGTERM, SIGKILL)",
    "HOST": "loss of the host",
}


@dataclass(frozen=True)
class Point:
    """A point of a task's life, in words, and how the operators' processes come to it.

    Stock operators make no claim and store no id, so theirs is the nearest that they have.
    """

    words: str
    ours: str
    stock: str
    nth: int = 1

    def strike(self, operators: str, action: str, task_id: str) -> Strike:
        at = self.ours if operators == "ours" else self.stock
        nth = self.nth if operators == "ours" else 1
        submission = SUBMISSIONS.get(task_id, "")
        return Strike(at.format(submission=submission), action, task_id, nth=nth)


POINTS = {
    "claim": Point("before the claim", "before state_set:external_job", "before call:{submission}"),
    "call": Point(
        "after the claim, before the call", "before call:{submission}", "before call:{submission}"
    ),
    "effect": Point(
        "after the call, before the id is stored",
        "after call:{submission}",
        "after call:{submission}",
    ),
    "id": Point(
        "after the id is stored, before deferring",
        "after state_set:external_job",
        "after call:{submission}",
        nth=2,
    ),
    "defer": Point("before the deferral is reported", "defer", "defer"),
    "resume": Point("at the resume", "resume", "resume"),
    "return": Point("after the work, before that is reported", "return", "return"),
}

# EMR refuses to terminate a protected cluster, so there the second call is the one with effect.
TEARDOWN = {
    "terminate": Point(
        "teardown: before it terminates",
        "before call:TerminateJobFlows",
        "before call:TerminateJobFlows",
    ),
    "unprotect": Point(
        "teardown: refused as protected, before it unprotects",
        "before call:SetTerminationProtection",
        "before call:SetTerminationProtection",
    ),
    "unprotected": Point(
        "teardown: after it has unprotected",
        "after call:SetTerminationProtection",
        "after call:SetTerminationProtection",
    ),
    "terminated": Point(
        "teardown: after it has terminated",
        "after call:TerminateJobFlows",
        "after call:TerminateJobFlows",
    ),
    "wait": Point("teardown: before the deferral is reported", "defer", "defer"),
    "gone": Point("teardown: at the resume", "resume", "resume"),
}
PROTECTED = ("unprotect", "unprotected")
# Of a lost host, tasks hold their slots until their heartbeats are missed.
SLOTS = 10
QUICK = (("effect", "KILL"), ("id", "TERM"), ("unprotected", "KILL"))

CASES = list(product([*POINTS, *TEARDOWN], ACTIONS))


def begin(world: FaultWorld, name: str, action: str) -> FaultRun:
    point = (POINTS | TEARDOWN)[name]
    case = f"{ACTIONS[action]} {point.words}"
    if name in TEARDOWN:
        strike = point.strike(world.operators, action, "terminate_cluster")
        return world.begin(
            case, ["cluster"], strikes=[strike], protected=name in PROTECTED, seconds=0
        )
    strikes = [point.strike(world.operators, action, task) for task in SUBMISSIONS]
    return world.begin(case, KINDS, strikes=strikes, seconds=_work_seconds(name, action))


def _work_seconds(name: str, action: str) -> int:
    """Return how long a job takes: until the next try, or two of them would not be seen at once."""
    if name in ("resume", "return"):
        return 2
    return 50 if action == "HOST" else 20


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, world: FaultWorld
) -> Iterator[dict[tuple[str, str], FaultRun]]:
    """Those of the cases that are asked for, all under way."""
    world.group = GROUP
    world.set_slots(SLOTS)
    yield {case: begin(world, *case) for case in _chosen(request)}
    world.set_slots()


def _chosen(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module:
            yield item.callspec.params["name"], item.callspec.params["action"]


@pytest.mark.parametrize(
    ("name", "action"),
    [pytest.param(*case, marks=[pytest.mark.quick] if case in QUICK else []) for case in CASES],
)
def test_kill_point(
    world: FaultWorld, runs: dict[tuple[str, str], FaultRun], name: str, action: str
) -> None:
    run = runs[name, action]
    made = {task: 1 for task in SUBMISSIONS} if name in POINTS else {"create_cluster": 1}
    # An eviction ends what the task has started, and its next try starts it again.
    exactly = None if action == "TERM" and name in POINTS else made

    world.judge(run, submissions=exactly, timeout=800)
