"""What people do to runs: mark, clear, pause, delete, stop a backfill, deploy; and do nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy

from scripts.airflow_rest import AirflowRestError
from tests.faults.cases import Case, Outcomes, as_far_as_it_goes, each_of, outcomes_of
from tests.faults.dags.fault_requests import RETRIES
from tests.faults.strikes import Plan, Strike
from tests.faults.world import FaultRun, FaultWorld

GROUP = "People"

# the first test waits for all cases of the module
pytestmark = pytest.mark.timeout(2400)

outcomes = outcomes_of(GROUP)

Happens = Callable[[FaultRun], None]

ALL = ("cluster", "step", "job", "array")
TASKS = ("step", "job", "array_job")
WAITS = {"waits": True}
#: Keeps the task that starts the cluster waiting.
STARTS_SLOWLY = [{"kind": "slow_start", "seconds": 25, "count": 1}]

ONCE = {"create_cluster": 1, "step": 1, "job": 1, "array_job": 1}
TWICE = dict.fromkeys(ONCE, 2)
#: A new triggerer may forget the triggers of tasks that wait no more before it starts them.
HOUSEKEEPING = ", then housekeeping runs"
ONE_CLUSTER, TWO_CLUSTERS = {"create_cluster": 1}, {"create_cluster": 2}


def held(*tasks: str, at: str) -> list[Strike]:
    """Return strikes that keep the processes of these tasks where they are."""
    return [Strike(at, "HOLD", task) for task in tasks]


def once_deferred(tasks: Sequence[str], act: Happens) -> Happens:
    """Act once all these tasks wait in the triggerer."""

    def happens(run: FaultRun) -> None:
        run.wait_until_deferred(*tasks)
        act(run)

    return happens


def once_held(act: Happens) -> Happens:
    """Act once the processes stand still that are to."""

    def happens(run: FaultRun) -> None:
        run.wait_until_held(240)
        act(run)

    return happens


def once_ended(act: Happens) -> Happens:
    """Act once the run has ended."""

    def happens(run: FaultRun) -> None:
        run.until(lambda: run.state in ("success", "failed"), 240)
        act(run)

    return happens


def mark(state: str, *tasks: str) -> Happens:
    """Mark tasks, as a person does in the UI."""

    def act(run: FaultRun) -> None:
        for task in tasks:
            run.world.rest.mark_task(run.dag_id, run.run_id, task, state)

    return act


def clear(*tasks: str, downstream: bool = False) -> Happens:
    """Clear tasks, as a person does in the UI."""
    return lambda run: void(
        run.world.rest.clear(run.dag_id, run.run_id, tasks, downstream=downstream)
    )


def clear_run(run: FaultRun) -> None:
    """Clear all tasks of a run."""
    path = f"/dags/{run.dag_id}/dagRuns/{quote(run.run_id, safe='')}/clear"
    run.world.rest.call("POST", path, {"dry_run": False})


def mark_run(state: str) -> Happens:
    """Mark a run."""
    return lambda run: run.world.rest.mark_run(run.dag_id, run.run_id, state)


def void(_: object) -> None:
    """Forget an answer."""


def clear_three_times(run: FaultRun) -> None:
    """Clear tasks, and clear them again in whatever state the new try is."""
    for _ in range(3):
        clear(*TASKS)(run)
    run.wait_until_deferred(*TASKS)


DEFERRED = [
    Case(
        "deferred tasks are marked failed",
        ALL,
        happens=once_deferred(TASKS, mark("failed", *TASKS)),
        states=("failed",),
        submissions=ONCE,
        conf=WAITS,
        quick=True,
    ),
    Case(
        "deferred tasks are marked success",
        ALL,
        happens=once_deferred(TASKS, mark("success", *TASKS)),
        submissions=ONCE,
        conf=WAITS,
        undone=("step", "job", "array"),
    ),
    Case(
        "deferred tasks are cleared",
        ALL,
        happens=once_deferred(TASKS, clear(*TASKS)),
        submissions=TWICE,
        conf=WAITS,
        quick=True,
    ),
    Case(
        "deferred tasks are cleared three times in a row",
        ALL,
        happens=once_deferred(TASKS, clear_three_times),
        conf=WAITS,
    ),
    Case(
        "the starting cluster is marked failed",
        ["cluster"],
        STARTS_SLOWLY,
        happens=once_deferred(["create_cluster"], mark("failed", "create_cluster")),
        states=("failed",),
        submissions=ONE_CLUSTER,
    ),
    # nobody hands over its id: the teardown says so
    Case(
        "the starting cluster is marked success",
        ["cluster"],
        STARTS_SLOWLY,
        happens=once_deferred(["create_cluster"], mark("success", "create_cluster")),
        states=("failed",),
        submissions=ONE_CLUSTER,
    ),
    Case(
        "the starting cluster is cleared",
        ["cluster"],
        STARTS_SLOWLY,
        happens=once_deferred(["create_cluster"], clear("create_cluster")),
        submissions=TWO_CLUSTERS,
        quick=True,
    ),
    Case(
        "another task of the run is cleared",
        ALL,
        happens=once_deferred(TASKS, clear("job")),
        submissions={**ONCE, "job": 2},
        conf=WAITS,
    ),
    # its cluster goes with it: the step says so, or is sent to the new one
    Case(
        "the setup is cleared while its step waits",
        ["cluster", "step"],
        happens=once_deferred(["step"], clear("create_cluster")),
        states=("success", "failed"),
        submissions=TWO_CLUSTERS,
        conf=WAITS,
    ),
]

RUNS = [
    Case(
        "the run is marked failed while its tasks wait",
        ALL,
        happens=once_deferred(TASKS, mark_run("failed")),
        states=("failed", "success"),
        submissions=ONCE,
        conf=WAITS,
        undone=("step", "job", "array"),
    ),
    Case(
        "the run is marked success while its tasks wait",
        ALL,
        happens=once_deferred(TASKS, mark_run("success")),
        states=("failed", "success"),
        submissions=ONCE,
        conf=WAITS,
        undone=("step", "job", "array"),
    ),
    Case(
        "the run is cleared while its tasks wait",
        ALL,
        happens=once_deferred(TASKS, clear_run),
        submissions=TWICE,
        conf=WAITS,
    ),
    Case(
        "the run is marked failed while its cluster starts",
        ["cluster"],
        STARTS_SLOWLY,
        happens=once_deferred(["create_cluster"], mark_run("failed")),
        states=("failed",),
        submissions=ONE_CLUSTER,
    ),
]

RUNNING = [
    Case(
        "running tasks are marked failed",
        ALL,
        strikes=held(*TASKS, at="defer"),
        happens=once_held(mark("failed", *TASKS)),
        states=("failed",),
        submissions=ONCE,
        conf=WAITS,
    ),
    Case(
        "running tasks are marked success",
        ALL,
        strikes=held(*TASKS, at="defer"),
        happens=once_held(mark("success", *TASKS)),
        submissions=ONCE,
        conf=WAITS,
        undone=("step", "job", "array"),
    ),
    Case(
        "running tasks are cleared",
        ALL,
        strikes=held(*TASKS, at="defer"),
        happens=once_held(clear(*TASKS)),
        submissions=TWICE,
        conf=WAITS,
    ),
    Case(
        "tasks that have submitted nothing yet are cleared",
        ALL,
        strikes=held(*TASKS, at="start"),
        happens=once_held(clear(*TASKS)),
        submissions={"create_cluster": 2, "step": 1, "job": 1, "array_job": 1},
        conf=WAITS,
    ),
    Case(
        "the run is marked failed while its tasks run",
        ALL,
        strikes=held(*TASKS, at="defer"),
        happens=once_held(mark_run("failed")),
        states=("failed", "success"),
        submissions=ONCE,
        conf=WAITS,
        undone=("step", "job", "array"),
    ),
    Case(
        "the task that starts the cluster is marked failed",
        ["cluster"],
        STARTS_SLOWLY,
        strikes=held("create_cluster", at="defer"),
        happens=once_held(mark("failed", "create_cluster")),
        states=("failed",),
        submissions=ONE_CLUSTER,
    ),
    Case(
        "the task that starts the cluster is cleared",
        ["cluster"],
        STARTS_SLOWLY,
        strikes=held("create_cluster", at="defer"),
        happens=once_held(clear("create_cluster")),
        submissions=TWO_CLUSTERS,
    ),
]

ENDED = [
    Case(
        "tasks that have succeeded are cleared",
        ALL,
        happens=once_ended(clear(*TASKS)),
        submissions=TWICE,
    ),
    Case(
        "tasks that have succeeded are marked failed",
        ALL,
        happens=once_ended(mark("failed", *TASKS)),
        states=("success", "failed"),
        submissions=ONCE,
    ),
    Case(
        "a run that has succeeded is cleared",
        ALL,
        happens=once_ended(clear_run),
        submissions=TWICE,
    ),
    Case(
        "tasks that have failed are cleared",
        ALL,
        happens=once_ended(clear(*TASKS, downstream=True)),
        submissions=TWO_CLUSTERS,
        conf={"failing_tries": RETRIES + 1},
    ),
    Case(
        "tasks that have failed are marked success",
        ALL,
        happens=once_ended(mark("success", *TASKS)),
        states=("success", "failed"),
        submissions=ONE_CLUSTER,
        conf={"failing_tries": 9},
        undone=("step", "job", "array"),
    ),
]


@each_of([*DEFERRED, *RUNS, *RUNNING, *ENDED])
def test_people(case: Case, outcomes: Outcomes) -> None:
    outcomes.check(case)


def test_people_act_while_no_triggerer_lives(world: FaultWorld) -> None:
    acts: dict[str, Happens] = {
        "tasks are cleared": clear(*TASKS),
        "the run is cleared": clear_run,
        f"tasks are marked failed{HOUSEKEEPING}": mark("failed", *TASKS),
    }
    *cleared, marked = (
        world.begin(f"no triggerer lives, and {words}", ALL, waits=True) for words in acts
    )
    with as_far_as_it_goes(world):
        for run in (*cleared, marked):
            run.wait_until_deferred(*TASKS)

    world.kill("triggerer", signal.SIGKILL)
    with as_far_as_it_goes(world):
        for run, act in zip((*cleared, marked), acts.values(), strict=True):
            act(run)
    world.restart("triggerer")
    with as_far_as_it_goes(world):
        marked.until(lambda: marked.state == "failed", 240)
    world.keep_house()

    for run in cleared:
        world.judge(run, submissions=TWICE)
    world.judge(marked, states=("failed",), submissions=ONCE)


def test_a_task_is_marked_failed_before_its_trigger_starts(world: FaultWorld) -> None:
    """Between its rounds of a second a triggerer knows neither the trigger nor its end."""
    tasks = ("create_cluster", "job", "array_job")
    world.kill("triggerer", signal.SIGKILL)
    run = world.begin(
        f"tasks are marked failed before their triggers start{HOUSEKEEPING}",
        ["cluster", "job", "array"],
        waits=True,
    )
    with as_far_as_it_goes(world):
        for task in tasks:
            run.wait_task(task, "deferred")
        mark("failed", *tasks)(run)

    _end_a_round_of_the_triggerer(world)
    world.restart("triggerer")
    with as_far_as_it_goes(world):
        run.until(lambda: run.state == "failed", 240)
    world.keep_house()

    world.judge(run, states=("failed",), submissions=dict.fromkeys(tasks, 1))


def test_the_dag_is_paused_while_its_tasks_wait(world: FaultWorld) -> None:
    run = world.begin("the DAG is paused while its jobs end", ALL, waits=True)
    with as_far_as_it_goes(world):
        run.wait_until_deferred(*TASKS)

        world.rest.set_paused(run.dag_id, True)
        try:
            run.let_work_end()
            run.until(lambda: all(job.ended for job in run.external_jobs if job.kind != "cluster"))
        finally:
            world.rest.set_paused(run.dag_id, False)

    world.judge(run, submissions=ONCE)


def test_a_run_is_deleted(world: FaultWorld) -> None:
    run = world.begin("a run is deleted, and made again", ALL, waits=True)
    with as_far_as_it_goes(world):
        run.wait_until_deferred(*TASKS)

        with pytest.raises(AirflowRestError, match="409"):
            world.rest.delete_run(run.dag_id, run.run_id)
        run.let_work_end()
        run.until(lambda: run.state == "success", 240)
        world.rest.delete_run(run.dag_id, run.run_id)
        world.rest.trigger(run.dag_id, conf={"work": str(run.work)}, run_id=run.run_id)

    world.judge(run, submissions=TWICE)


def test_a_backfill_is_stopped(world: FaultWorld) -> None:
    dag_id = f"faults_{world.operators}_daily"
    world.rest.wait_for_dags([dag_id])
    world.rest.set_paused(dag_id, False)
    backfill = world.rest.backfill(
        dag_id, "2013-01-01", "2013-01-02", max_active_runs=1, conf={"work": str(world.work)}
    )
    under_way, queued = (
        FaultRun(
            world,
            f"a backfill is stopped: {what}",
            dag_id,
            run["dag_run_id"],
            ["cluster", "step"],
            Plan(world.plans / f"backfill-{number}", ()),
        )
        for number, (what, run) in enumerate(
            zip(
                ("the run under way", "the queued run"),
                [run for run in world.rest.runs(dag_id) if run["run_type"] == "backfill"],
                strict=True,
            )
        )
    )
    for run in (under_way, queued):
        run.work.mkdir()
    with as_far_as_it_goes(world):
        under_way.wait_until_deferred("step")

        world.rest.call("PUT", f"/backfills/{backfill}/cancel")

    world.judge(under_way, submissions={"create_cluster": 1, "step": 1})
    world.judge(queued, states=("failed",), submissions={"create_cluster": 0, "step": 0})


def test_a_deferral_times_out(world: FaultWorld) -> None:
    """Airflow then fails the task without asking its trigger, whose own budgets are shorter."""
    run = world.begin("a deferral times out", ALL, waits=True)
    with as_far_as_it_goes(world):
        run.wait_until_deferred(*TASKS)

        _time_out(run)
        for task in TASKS:
            run.until(lambda task=task: _try_number(run, task) == 2, 240)

    world.judge(run, submissions={"create_cluster": 1, "step": 2, "job": 2, "array_job": 2})


def test_a_changed_dag_is_deployed_while_tasks_wait(world: FaultWorld) -> None:
    dag_id = f"faults_{world.operators}_deployed"
    world.rest.wait_for_dags([dag_id])
    world.rest.set_paused(dag_id, False)
    run = world.begin_dag(
        "a changed DAG is deployed", dag_id, ["cluster", "step", "job"], waits=True
    )
    with as_far_as_it_goes(world):
        run.wait_until_deferred("step", "job")

        (world.plans / "deployed").write_text("2")
        os.utime(Path(__file__).parent / "dags" / "faults_people.py")
        run.until(lambda: "notify" in _task_ids(world, dag_id), 240)

    world.judge(run, submissions={"create_cluster": 1, "step": 1, "job": 1})


def _end_a_round_of_the_triggerer(world: FaultWorld) -> None:
    """Forget the triggers that no task waits for, as each triggerer does at the end of a round."""
    code = "from airflow.models.trigger import Trigger; Trigger.clean_unused()"
    subprocess.run([sys.executable, "-c", code], env=world.stack.environ, check=True)


def _time_out(run: FaultRun) -> None:
    """Let the deferrals of a run be over: what Airflow's clock does after hours."""
    engine = sqlalchemy.create_engine(
        run.world.stack.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"],
        poolclass=sqlalchemy.NullPool,
    )
    update = "UPDATE task_instance SET trigger_timeout = now() WHERE run_id = :run AND state = :now"
    with engine.begin() as database:
        done = database.execute(sqlalchemy.text(update), {"run": run.run_id, "now": "deferred"})
    assert done.rowcount == len(TASKS)


def _try_number(run: FaultRun, task: str) -> int:
    return int(run.world.rest.task(run.dag_id, run.run_id, task)["try_number"])


def _task_ids(world: FaultWorld, dag_id: str) -> set[str]:
    tasks = world.rest.call("GET", f"/dags/{dag_id}/tasks")["tasks"]
    return {task["task_id"] for task in tasks}
