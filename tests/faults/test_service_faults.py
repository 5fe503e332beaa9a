"""AWS at its worst: throttled, failing, slow, silent, forgetful; it strikes all runs at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from localaws.quotas import BATCH_QUOTAS, EMR_QUOTAS
from tests.faults.cases import Case, Outcomes
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
ENDS = ("CancelSteps", "TerminateJob", "TerminateJobFlows")
LISTINGS = ("ListClusters", "ListSteps", "ListJobs", "DescribeCluster", "DescribeJobs")


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
    print(f"seed {SEED}")
    cases = [
        Case(words, ALL, submissions=ONCE),
        Case(
            f"{words}: protected",
            ["cluster", "step"],
            conf={"protected": True},
            submissions={"create_cluster": 1, "step": 1},
        ),
    ]
    Outcomes(world).judge(*cases, plan=plan).check(*cases)


def test_quotas_are_as_aws_documents_them(world: FaultWorld) -> None:
    """Twelve runs at once want more than a burst of each call."""
    words = "AWS's documented quotas, 12 runs at once"
    cases = [Case(words, ALL, submissions=ONCE) for _ in range(12)]
    Outcomes(world).judge(*cases, plan=[*EMR_QUOTAS, *BATCH_QUOTAS]).check(*cases)


def test_what_was_submitted_does_not_show_for_5_s_and_its_task_is_killed(world: FaultWorld) -> None:
    case = Case(
        "listings lag 5 s, tasks are killed after the call",
        ALL,
        strikes=[
            Strike("after call:RunJobFlow", "KILL", "create_cluster"),
            Strike("after call:AddJobFlowSteps", "KILL", "step"),
            Strike("after call:SubmitJob", "KILL", "job"),
            Strike("after call:SubmitJob", "KILL", "array_job"),
        ],
        happens=once_made_again,
        submissions=ONCE,
        conf={"waits": True},
    )
    Outcomes(world).judge(case, plan=at_emr_and_batch("listing_lag", seconds=5)).check(case)


def test_the_answers_to_what_ends_jobs_are_lost(world: FaultWorld) -> None:
    """Both the trigger and the new try end what was left."""
    case = Case(
        "cleared, and the answers to what ends jobs are lost",
        ALL,
        happens=once_deferred(lambda run: run.world.rest.clear(run.dag_id, run.run_id, TASKS)),
        submissions=TWICE,
        conf={"waits": True},
    )
    Outcomes(world).judge(case, plan=of_calls("lost_answer", *ENDS, count=3)).check(case)


def test_tasks_are_marked_failed_while_what_ends_jobs_is_throttled(world: FaultWorld) -> None:
    def mark(run: FaultRun) -> None:
        for task in TASKS:
            run.world.rest.mark_task(run.dag_id, run.run_id, task, "failed")

    case = Case(
        "marked failed, and what ends jobs is throttled",
        ALL,
        happens=once_deferred(mark),
        states=("failed",),
        submissions=ONCE,
        conf={"waits": True},
    )
    Outcomes(world).judge(case, plan=of_calls("throttle", *ENDS, count=2)).check(case)


def test_batch_forgets_jobs(world: FaultWorld) -> None:
    """They go on, unseen: each is given up after two minutes, told to end, and made again."""
    case = Case(
        "Batch forgets jobs that go on",
        ["job", "array"],
        [
            {"kind": "vanish", "job": f"{kind}*", "seconds": 3, "count": 1}
            for kind in ("job", "array")
        ],
        happens=once_made_twice,
        submissions={"job": 2, "array_job": 2},
        conf={"waits": True},
    )
    Outcomes(world).judge(case).check(case)


def once_deferred(act: Callable[[FaultRun], object]) -> Callable[[FaultRun], None]:
    """Act once all tasks wait."""

    def happens(run: FaultRun) -> None:
        run.wait_until_deferred(*TASKS)
        act(run)

    return happens


def once_made_again(run: FaultRun) -> None:
    """Let the work end once the tasks that were killed wait for it again."""
    for task in TASKS:
        run.until(lambda task=task: _tries(run, task) == 2, 300)
        run.wait_task(task, "deferred")


def once_made_twice(run: FaultRun) -> None:
    """Let the work end once each job has been made again."""
    for task in ("job", "array_job"):
        run.until(lambda task=task: _made(run, task) == 2, 300)


def _made(run: FaultRun, task: str) -> int:
    return sum(job.task == task for job in run.external_jobs)


def _tries(run: FaultRun, task: str) -> int:
    return int(run.world.rest.task(run.dag_id, run.run_id, task)["try_number"])
