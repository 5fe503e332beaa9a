"""AWS at its worst: throttled, failing, slow, silent, forgetful; it strikes all runs at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from localaws.quotas import BATCH_QUOTAS, EMR_QUOTAS
from tests.faults.strikes import Strike
from tests.faults.world import FaultRun, FaultWorld

GROUP = "Service faults"

ALL = ("cluster", "step", "job", "array")
TASKS = ("step", "job", "array_job")
ONCE = {"create_cluster": 1, "step": 1, "job": 1, "array_job": 1}
TWICE = dict.fromkeys(ONCE, 2)

#: Draws of shares are repeatable: a failure is found again with the same seed.
SEED = 7


def at_emr_and_batch(kind: str, **fault: Any) -> list[dict[str, Any]]:
    """Return a fault of every call of the two services."""
    return [{"service": service, "kind": kind, **fault} for service in ("emr", "batch")]


def of_calls(kind: str, *operations: str, **fault: Any) -> list[dict[str, Any]]:
    """Return a fault of each of these operations."""
    return [{"operation": operation, "kind": kind, **fault} for operation in operations]


SUBMISSIONS = ("RunJobFlow", "AddJobFlowSteps", "SubmitJob")
EVERY_MUTATION = (*SUBMISSIONS, "TerminateJobFlows", "SetTerminationProtection")
LISTINGS = ("ListClusters", "ListSteps", "ListJobs", "DescribeCluster", "DescribeJobs")


@contextmanager
def faults(world: FaultWorld, plan: list[dict[str, Any]]) -> Iterator[None]:
    """Have a plan in force."""
    world.set_faults(plan)
    print(f"seed {SEED}: {plan}")
    yield
    world.set_faults([])


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        ("30 % of all calls are throttled", at_emr_and_batch("throttle", share=0.3, seed=SEED)),
        (
            "every other call is answered with 503",
            at_emr_and_batch("error", share=0.5, status=503, seed=SEED),
        ),
        (
            "30 % of all connections are reset",
            at_emr_and_batch("reset", share=0.3, seed=SEED),
        ),
        (
            "the answers to what takes effect are lost",
            of_calls("lost_answer", *EVERY_MUTATION, count=2),
        ),
        (
            "what takes effect is answered with 500",
            of_calls("lost_answer", *EVERY_MUTATION, count=2, status=500),
        ),
        (
            "submissions take effect 10 s late",
            of_calls("delay", *SUBMISSIONS, seconds=10),
        ),
        (
            "submissions are answered 10 s late",
            of_calls("late_answer", *SUBMISSIONS, seconds=10),
        ),
        (
            "whatever is asked is answered 10 s late",
            of_calls("delay", *LISTINGS, seconds=10, count=6),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calls_go_wrong(world: FaultWorld, words: str, plan: list[dict[str, Any]]) -> None:
    with faults(world, plan):
        runs = [
            world.begin(words, ALL),
            world.begin(f"{words}: protected", ["cluster", "step"], protected=True),
        ]
        for run in runs:
            world.judge(run, submissions={task: 1 for task in ONCE if task in run.task_states})


def test_quotas_are_as_aws_documents_them(world: FaultWorld) -> None:
    """Twelve runs at once want more than a burst of each call."""
    with faults(world, [*EMR_QUOTAS, *BATCH_QUOTAS]):
        runs = [world.begin("AWS's documented quotas, 12 runs at once", ALL) for _ in range(12)]
        for run in runs:
            world.judge(run, submissions=ONCE)


def test_what_was_submitted_does_not_show_for_5_s_and_its_task_is_killed(world: FaultWorld) -> None:
    strikes = [
        Strike("after call:RunJobFlow", "KILL", "create_cluster"),
        Strike("after call:AddJobFlowSteps", "KILL", "step"),
        Strike("after call:SubmitJob", "KILL", "job"),
        Strike("after call:SubmitJob", "KILL", "array_job"),
    ]
    with faults(world, at_emr_and_batch("listing_lag", seconds=5)):
        run = world.begin(
            "listings lag 5 s, and tasks are killed after the call",
            ALL,
            strikes=strikes,
            waits=True,
        )
        for task in TASKS:
            run.until(lambda task=task: _tries(run, task) == 2)
            run.wait_task(task, "deferred", "success")
        world.judge(run, submissions=ONCE)


def test_the_answers_to_what_ends_jobs_are_lost(world: FaultWorld) -> None:
    """Cleared while they wait: what ends them is called by the trigger, and by the new try."""
    plan = of_calls("lost_answer", "CancelSteps", "TerminateJob", "TerminateJobFlows", count=3)
    with faults(world, plan):
        run = world.begin("cleared, and the answers to what ends jobs are lost", ALL, waits=True)
        for task in TASKS:
            run.wait_task(task, "deferred")
        world.rest.clear(run.dag_id, run.run_id, TASKS)
        world.judge(run, submissions=TWICE)


def test_people_mark_tasks_failed_while_what_ends_jobs_is_throttled(world: FaultWorld) -> None:
    plan = of_calls("throttle", "CancelSteps", "TerminateJob", "TerminateJobFlows", count=2)
    with faults(world, plan):
        run = world.begin("marked failed, and what ends jobs is throttled", ALL, waits=True)
        for task in TASKS:
            run.wait_task(task, "deferred")
        for task in TASKS:
            world.rest.mark_task(run.dag_id, run.run_id, task, "failed")
        world.judge(run, states=("failed",), submissions=ONCE)


def test_batch_forgets_jobs(world: FaultWorld) -> None:
    """They go on, unseen: each is given up after two minutes, told to end, and made again."""
    words = "Batch forgets jobs that go on"
    plan = [
        {
            "kind": "vanish",
            "job": f"*-batch-forgets-jobs-that-go-on--{kind}",
            "seconds": 3,
            "count": 1,
        }
        for kind in ("job*", "array*")
    ]
    with faults(world, plan):
        run = world.begin(words, ["job", "array"], waits=True)
        for task in ("job", "array_job"):
            run.until(lambda task=task: _made(run, task) == 2, timeout=300)
        world.judge(run, submissions={"job": 2, "array_job": 2})


def _tries(run: FaultRun, task: str) -> int:
    return int(run.world.rest.task(run.dag_id, run.run_id, task)["try_number"])


def _made(run: FaultRun, task: str) -> int:
    return sum(job.task == task for job in run.external_jobs)
