"""Clusters, steps and jobs that end otherwise than they should, by EMR's or Batch's own doing."""

from __future__ import annotations

import pytest

from tests.faults.cases import Case, Outcomes, each_of, outcomes_of
from tests.faults.world import FaultWorld

GROUP = "Ways to end"

# the first test waits for all cases of the module
pytestmark = pytest.mark.timeout(2400)

outcomes = outcomes_of(GROUP)

ANOTHER_CLUSTER = {"create_cluster": 2}
ON_SPOT = {"core_market": "SPOT", "core_nodes": 2, "seconds": 6}


def fails(state: str, code: str, seconds: float = 0, **more: str) -> dict[str, object]:
    """Return the fault of one cluster that ends by itself; that of the next try does not."""
    failure = {"kind": "cluster_failure", "state": state, "code": code, "count": 1}
    return {**failure, "seconds": seconds, **more}


CLUSTERS = [
    Case(
        "an instance fails while the cluster starts",
        ["cluster"],
        faults=[fails("STARTING", "INSTANCE_FAILURE", 0.3)],
        submissions=ANOTHER_CLUSTER,
        quick=True,
    ),
    Case(
        "the fleet is not filled in time",
        ["cluster"],
        faults=[fails("STARTING", "INSTANCE_FLEET_TIMEOUT", 0.3)],
        submissions=ANOTHER_CLUSTER,
    ),
    Case(
        "EMR finds the cluster not valid once it starts",
        ["cluster"],
        faults=[fails("STARTING", "VALIDATION_ERROR")],
        submissions=ANOTHER_CLUSTER,
    ),
    Case(
        "a bootstrap action fails",
        ["cluster", "step"],
        faults=[
            fails(
                "BOOTSTRAPPING",
                "BOOTSTRAP_FAILURE",
                reason="On the master instance (i-0123456789abcdef0), bootstrap action 1 returned "
                "a non-zero return code",
            )
        ],
        submissions={**ANOTHER_CLUSTER, "step": 1},
    ),
    Case(
        "EMR fails while the cluster bootstraps",
        ["cluster"],
        faults=[fails("BOOTSTRAPPING", "INTERNAL_ERROR")],
        submissions=ANOTHER_CLUSTER,
    ),
    # who comes first is open: the task that finds it ready, or the end
    Case(
        "the cluster fails once it is ready",
        ["cluster", "step"],
        faults=[fails("WAITING", "INTERNAL_ERROR")],
        states=("success", "failed"),
    ),
    Case(
        "the cluster fails while a step runs",
        ["cluster", "step"],
        faults=[fails("RUNNING", "INSTANCE_FAILURE", 1)],
        conf={"seconds": 6},
        states=("failed",),
        submissions={"create_cluster": 1, "step": 1},
    ),
    Case(
        "all core nodes on spot are reclaimed while a step runs",
        ["cluster", "step"],
        faults=[{"kind": "core_loss", "state": "RUNNING", "seconds": 1, "count": 1}],
        conf=ON_SPOT,
        states=("failed",),
        submissions={"create_cluster": 1, "step": 1},
    ),
    Case(
        "one of two core nodes is reclaimed while a step runs",
        ["cluster", "step"],
        faults=[{"kind": "core_loss", "state": "RUNNING", "seconds": 1, "nodes": 1, "count": 1}],
        conf=ON_SPOT,
        submissions={"create_cluster": 1, "step": 2},
    ),
    Case(
        "three primaries, which EMR protects",
        ["cluster", "step"],
        conf={"primaries": 3},
        submissions={"create_cluster": 1, "step": 1},
        quick=True,
    ),
    Case(
        "three primaries, and the step fails at every try",
        ["cluster", "step"],
        conf={"primaries": 3, "failing_tries": 9},
        states=("failed",),
        submissions={"create_cluster": 1},
    ),
    Case(
        "a protected cluster that fails while it starts",
        ["cluster"],
        faults=[fails("STARTING", "INSTANCE_FAILURE", 0.3)],
        conf={"protected": True},
        submissions=ANOTHER_CLUSTER,
    ),
]

STEPS = [
    Case(
        f"a step is {what} from outside",
        ["cluster", "step"],
        faults=[{"kind": "step_failure", "becomes": state, "seconds": 0.5, "count": 1}],
        conf={"seconds": 4},
        submissions={"create_cluster": 1, "step": 2},
    )
    for what, state in (("failed", "FAILED"), ("cancelled", "CANCELLED"), ("cut", "INTERRUPTED"))
]

JOBS = [
    Case(
        "step and jobs fail at the first try",
        ["cluster", "step", "job", "array"],
        conf={"failing_tries": 1},
        submissions={"create_cluster": 1, "step": 2, "job": 2, "array_job": 2},
    ),
    Case(
        "step and jobs fail at every try",
        ["cluster", "step", "job", "array"],
        conf={"failing_tries": 9},
        states=("failed",),
        submissions={"create_cluster": 1},
    ),
    Case(
        "hosts on spot are reclaimed",
        ["job", "array"],
        faults=[{"kind": "spot_loss", "job": f"{kind}*", "count": 1} for kind in ("job", "array")],
        conf={"seconds": 4},
        submissions={"job": 2, "array_job": 2},
    ),
    Case(
        "a job runs out of memory, and may have no more",
        ["job"],
        faults=[{"kind": "out_of_memory"}],
        conf={"seconds": 4},
        states=("failed",),
        submissions={"job": 1},
    ),
    Case(
        "the image cannot be pulled",
        ["job", "array"],
        faults=[{"kind": "pull_error"}],
        states=("failed",),
        submissions={"job": 1, "array_job": 1},
    ),
]


@each_of([*CLUSTERS, *STEPS, *JOBS])
def test_another_end(case: Case, outcomes: Outcomes) -> None:
    outcomes.check(case)


def test_jobs_are_stuck_for_a_while(world: FaultWorld) -> None:
    reason = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"
    world.set_faults([{"kind": "stuck", "job": "*-stuck-for-a-while--*", "reason": reason}])
    run = world.begin("jobs are stuck for a while", ["job", "array"])

    for task in ("job", "array_job"):
        run.wait_task(task, "deferred")
    run.until(lambda: len(run.external_jobs) == 2)
    world.set_faults([])

    world.judge(run, submissions={"job": 1, "array_job": 1})
