"""Runs that share clusters, struck: nobody takes a cluster from another, and none is left."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.strikes import Strike
from tests.faults.world import FaultRun, FaultWorld, slug

GROUP = "Shared clusters"
DAG_ID, BRIEFLY = "faults_reuse", "faults_reuse_briefly"
TABLE = "local-cluster-leases"
KINDS = ["cluster", "step"]
ENDED = ("success", "failed")
# Some tasks stand still while the others go on.
SLOTS = 10
SECONDS = 600
# Each look is several calls, and all cases look at once.
PAUSE = 1.0

_pools = itertools.count(1)
# Threads that still wait would keep pytest from ending when somebody interrupts it.
_over = threading.Event()


@dataclass
class Sharing:
    """The runs of one case, which name one pool.

    :param case: in words: the row of the table.
    :param users: how many may share a cluster.
    :param runs: those begun so far, and how each is to be judged.
    """

    world: FaultWorld
    case: str
    users: int
    pool: str = field(default_factory=lambda: f"pool-{next(_pools)}")
    runs: list[tuple[FaultRun, dict[str, Any]]] = field(default_factory=list)

    def begin(
        self,
        *strikes: Strike,
        dag_id: str = DAG_ID,
        states: Sequence[str] = ENDED[:1],
        steps: int = 1,
        undone: Sequence[str] = (),
    ) -> FaultRun:
        """Begin a run whose step waits until it is let go.

        :param steps: how many its task submits.
        :param undone: as :meth:`FaultWorld.judge` takes it.
        """
        conf: dict[str, Any] = {"pool": self.pool, "users": self.users, "waits": True}
        run = self.world.begin_dag(self.case, dag_id, KINDS, strikes=strikes, **conf)
        expected = {"states": states, "submissions": {"step": steps}, "undone": undone}
        self.runs.append((run, expected))
        return run

    def end(self) -> None:
        """Let all runs end: what one has founded another uses to its end."""
        for run, _ in self.runs:
            run.let_work_end()
        for run, _ in self.runs:
            until_ended(run)


@dataclass(frozen=True, eq=False)
class Case:
    """What happens to runs that share clusters.

    :param clusters: how many all of them start.
    """

    words: str
    happens: Callable[[Sharing], None]
    clusters: int = 1
    users: int = 3


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so, with many others who wait."""
    give_up = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up, f"not so in {SECONDS} s: {what}"
        assert not _over.wait(PAUSE), "pytest has ended"


def until_at_work(*runs: FaultRun) -> None:
    """Wait until the step of each run is there."""
    for run in runs:
        until(lambda run=run: steps_of(run) > 0, f"{run.run_id} has a step")


def until_ended(run: FaultRun) -> None:
    until(lambda: run.state in ENDED, f"{run.run_id} has ended")


def steps_of(run: FaultRun) -> int:
    """Return how many steps a run has submitted."""
    return sum(job.kind == "step" for job in run.external_jobs)


def a_joiner_is(action: str, at: str) -> Callable[[Sharing], None]:
    """Kill the task that joins, at that side of the write by which it does."""

    def happens(shared: Sharing) -> None:
        until_at_work(shared.begin())
        until_at_work(shared.begin(Strike(f"{at} call:UpdateItem", action, "create_cluster")))

    return happens


def the_founder_is_killed(at: str) -> Callable[[Sharing], None]:
    """Kill the task that founds, then begin another run, which waits for it."""

    def happens(shared: Sharing) -> None:
        founder = shared.begin(Strike(at, "KILL", "create_cluster"))
        until(lambda: not founder.plan.missed(), f"{founder.run_id} was struck")
        until_at_work(founder, shared.begin())

    return happens


def the_founder_s_run_is_marked_failed(shared: Sharing) -> None:
    # its teardown's success is the last that Airflow sees of it
    founder = shared.begin(states=ENDED, undone=["step"])
    until_at_work(founder)
    joiner = shared.begin()
    until_at_work(joiner)
    founder.world.rest.mark_run(founder.dag_id, founder.run_id, "failed")
    founder.wait_task("terminate_cluster", "success", timeout=SECONDS)
    assert joiner.external_job("step").is_left
    assert founder.external_job("cluster").is_left


def two_join_at_once(shared: Sharing) -> None:
    until_at_work(shared.begin())
    held = Strike("before call:UpdateItem", "HOLD", "create_cluster")
    joiners = [shared.begin(held) for _ in range(2)]
    for joiner in joiners:
        joiner.wait_until_held(SECONDS)
    for joiner in joiners:
        joiner.let_go()
    until_at_work(*joiners)


def a_lease_expires(shared: Sharing) -> None:
    """The cluster goes with its last living user; the run that comes back fails, and says why."""
    from aws_jobs.cluster_lease import LeaseTable

    held = Strike("before call:AddJobFlowSteps", "HOLD", "step")
    still = shared.begin(held, dag_id=BRIEFLY, states=["failed"], steps=0)
    still.wait_until_held(SECONDS)
    leases = LeaseTable(shared.world.stack.client("dynamodb"), TABLE)
    cluster = still.external_job("cluster")
    other = shared.begin(dag_id=BRIEFLY)
    until_at_work(other)
    until(lambda: living_users(leases, cluster.id) == 1, f"a lease on {cluster.id} has expired")
    other.let_work_end()
    until_ended(other)
    assert not still.external_job("cluster").is_left
    still.let_go()


def a_run_is_cleared(shared: Sharing) -> None:
    founder = shared.begin(steps=2)
    until_at_work(founder)
    joiner = shared.begin()
    until_at_work(joiner)
    founder.wait_task("step", "deferred", timeout=SECONDS)
    founder.world.rest.clear(founder.dag_id, founder.run_id, ["step"])
    until(lambda: steps_of(founder) == 2, f"{founder.run_id} has submitted its step again")
    assert joiner.external_job("step").is_left


def living_users(leases: Any, cluster_id: str) -> int:
    """Return how many leases on a cluster have not expired."""
    shared = leases.cluster(cluster_id)
    return len(shared.live_users()) if shared else 0


CASES = [
    *(
        Case(f"a joiner is killed {at} its join ({action})", a_joiner_is(action, at))
        for at in ("before", "after")
        for action in ("KILL", "TERM")
    ),
    *(
        Case(
            f"the founder is killed {at.replace('call:', '')} and another waits for it",
            the_founder_is_killed(at),
        )
        for at in (
            "before call:RunJobFlow",
            "after call:RunJobFlow",
            "before call:TransactWriteItems",
            "after call:TransactWriteItems",
        )
    ),
    Case(
        "the founder's run is marked failed while another uses its cluster",
        the_founder_s_run_is_marked_failed,
    ),
    Case("two join at once for one place", two_join_at_once, clusters=2, users=2),
    Case("a lease expires while its run stands still", a_lease_expires),
    Case("a run is cleared while another uses its cluster", a_run_is_cleared),
]


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, world: FaultWorld) -> Iterator[dict[Case, Any]]:
    """Begin all cases that pytest was asked for, each in a thread: most of it is waiting."""
    if not world.is_ours:
        pytest.skip("the stock operators share no clusters")
    world.group = GROUP
    world.set_slots(SLOTS)
    world.unpause([DAG_ID, BRIEFLY])
    asked = [
        item.callspec.params["case"]
        for item in request.session.items
        if item.module is request.module
    ]
    with ThreadPoolExecutor(len(asked)) as threads:
        yield {case: threads.submit(_run, world, case) for case in asked}
        _over.set()
    world.set_slots()


def _run(world: FaultWorld, case: Case) -> Sharing:
    sharing = Sharing(world, case.words, case.users)
    try:
        case.happens(sharing)
    finally:
        sharing.end()
    return sharing


@pytest.mark.parametrize("case", CASES, ids=[slug(case.words) for case in CASES])
def test_runs_that_share_clusters(
    world: FaultWorld, shared: dict[Case, Future[Sharing]], case: Case
) -> None:
    runs = shared[case].result().runs
    founded = sum(job.kind == "cluster" for run, _ in runs for job in run.external_jobs)

    for run, expected in runs:
        world.judge(run, **expected)

    assert founded == case.clusters
