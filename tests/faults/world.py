"""A whole Airflow that is struck from outside, and the audit of what each strike left.

    run = world.begin("killed after the call", ["job"], strikes=[Strike(...)])
    world.judge(run, submissions={"job": 1})

Most cases begin many runs, which Airflow's parallelism queues, and then judge them one by one.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from scripts.airflow_rest import ENDED, AirflowRest, AirflowRestError
from scripts.component import Component, Identity, end_all
from scripts.stack import Stack
from tests.faults.dags.fault_requests import ARRAY_SIZE
from tests.faults.external_jobs import ExternalJob, external_jobs
from tests.faults.strikes import Plan, Strike
from tests.faults.table import Row, Rows, write_rows
from tests.housekeeping import HOUSEKEEPING, keep_house

#: In the order in which their chains are wired; a step has its cluster with it.
KINDS = ("cluster", "step", "job", "array")
#: The project's own DAG, ours only.
MAPPING = "mapping"
#: The state of a run that has not ended in time.
STUCK = "stuck"

#: A task in another state than these goes on, or waits for something, or has lost its way.
_TASK_ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
#: What a run may leave for so long: EMR and Batch end nothing at once.
_SETTLING_SECONDS = 15.0
#: For which a run is waited for at the least.
_LEAST_SECONDS = 60.0
#: Many wait at once, and each look costs what the tasks need themselves.
_PAUSE_SECONDS = 1.0
#: How long a run's work goes on for the sake of what the run is still to do.
_PATIENCE_SECONDS = 120.0
#: Tasks that run at once, on two cores, unless many are to be held.
_SLOTS = 5
#: How long a component that was asked to end may take.
_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Audit:
    """What a run has left, by localaws' own account."""

    state: str
    """Of the run: ``success``, ``failed``, or :data:`STUCK`."""
    jobs: list[ExternalJob]
    missed: list[Strike]
    """Strikes whose point no process came to."""
    stuck: dict[str, str | None]
    """Tasks that have not ended, with their states."""
    lost: dict[str, list[str]] = field(default_factory=dict)
    """By kind, what no job has worked on to its end, though the run has succeeded."""

    @property
    def left(self) -> list[ExternalJob]:
        """What goes on and has not been told to end."""
        return [job for job in self.jobs if job.is_left]

    @property
    def leaked(self) -> list[ExternalJob]:
        """What is left though its run has ended: nobody will end it."""
        return [] if self.state == STUCK else self.left

    @property
    def duplicates(self) -> list[ExternalJob]:
        """What was made while an earlier job of its task had neither ended nor been told to."""
        return [
            later
            for number, later in enumerate(self.jobs)
            if any(later.doubles(earlier) for earlier in self.jobs[:number])
        ]

    @property
    def submissions(self) -> dict[str, int]:
        """How many external jobs each task has made."""
        return dict(Counter(job.task for job in self.jobs))


class FaultRun:
    """One run, under its case's name.

    :param kinds: those that it is judged by: a row of the table each.
    """

    def __init__(
        self,
        world: FaultWorld,
        case: str,
        dag_id: str,
        run_id: str,
        kinds: Sequence[str],
        plan: Plan,
    ) -> None:
        self.world = world
        self.group = world.group
        self.case = case
        self.dag_id = dag_id
        self.run_id = run_id
        self.kinds = tuple(kinds)
        self.plan = plan
        self.began = time.monotonic()

    @property
    def state(self) -> str:
        """Airflow's state of the run."""
        return str(self.world.rest.run(self.dag_id, self.run_id)["state"])

    @property
    def task_states(self) -> dict[str, str | None]:
        """Airflow's state of each task; a mapped one is named ``task[0]``."""
        return self.world.rest.task_states(self.dag_id, self.run_id)

    @property
    def external_jobs(self) -> list[ExternalJob]:
        """What it has made at AWS so far, the oldest first."""
        return external_jobs(
            self.world.all_clusters(), self.world.all_jobs(), self.dag_id, self.run_id
        )

    def external_job(self, kind: str) -> ExternalJob:
        """Return the newest of a kind."""
        return [job for job in self.external_jobs if job.kind == kind][-1]

    def wait_task(self, task_id: str, *states: str, timeout: float = 120) -> dict[str, Any]:
        """Wait until a task is in one of these states (default: it has ended) and give it."""
        self.until(lambda: self._task(task_id)["state"] in (states or _TASK_ENDED), timeout)
        return self._task(task_id)

    def wait_until_deferred(self, *task_ids: str, timeout: float = 240) -> None:
        """Wait until the triggerer has taken over these tasks.

        It never hears of a task that a person marks or clears before that.
        """
        for task_id in task_ids:
            self.wait_task(task_id, "deferred", timeout=timeout)
            self.until(lambda task_id=task_id: self._has_triggerer(task_id), timeout)

    def _has_triggerer(self, task_id: str) -> bool:
        return bool((self._task(task_id)["trigger"] or {}).get("triggerer_id"))

    def _task(self, task_id: str) -> dict[str, Any]:
        return self.world.rest.task(self.dag_id, self.run_id, task_id)

    def until(
        self, condition: Callable[[], bool], timeout: float = 120, every: float = _PAUSE_SECONDS
    ) -> None:
        """Wait until something is so."""
        give_up = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < give_up, (
                f"{self.run_id}: not so in {timeout} s; tasks {self.task_states}, "
                f"external jobs {self.external_jobs}"
            )
            time.sleep(every)

    def wait_until_held(self, timeout: float = 120) -> None:
        """Wait until all its HOLD strikes have struck; a run that ends before that will not."""
        give_up = time.monotonic() + timeout
        while missing := self.plan.not_held():
            waited = "it has ended" if self._ended() else ""
            waited = waited or (f"not in {timeout:.0f} s" if time.monotonic() > give_up else "")
            assert not waited, f"{self.run_id}: nothing stood still at {missing}: {waited}"
            time.sleep(_PAUSE_SECONDS)

    def let_go(self) -> None:
        """Let the processes that stand still go on."""
        self.plan.let_go()

    def let_work_end(self) -> None:
        """Let the external jobs end that were begun with ``waits=True``."""
        (self.work / "go").touch()

    @property
    def work(self) -> Path:
        """Folder where its jobs wait for leave to go on and note what they have done."""
        return self.world.work / self.run_id

    def end(
        self,
        submissions: Mapping[str, int] | None = None,
        *,
        needs_work: bool = True,
        timeout: float = 300,
    ) -> Audit:
        """Wait for the run's end and for what it left to settle, and audit it.

        A run that does not end in time is marked failed, so that it does not disturb the others.

        :param submissions: the work goes on until each of these tasks has made so many jobs: an
            earlier one that nobody ends would else be over before it is seen beside the later.
        :param needs_work: whether the run ends when its work has; else the work goes on until the
            audit, so that it shows whether somebody has ended it.
        """
        give_up = time.monotonic() + timeout
        patience = min(give_up, time.monotonic() + _PATIENCE_SECONDS)
        while (ended := self._ended()) is None and time.monotonic() < patience:
            if needs_work and self._has_made(submissions or {}):
                break
            time.sleep(_PAUSE_SECONDS)
        if ended is None:
            self.let_work_end()
        while ended is None and time.monotonic() < give_up:
            time.sleep(_PAUSE_SECONDS)
            ended = self._ended()
        state, since = ended or (STUCK, time.time())
        tasks = self.task_states
        stuck = {task: now for task, now in tasks.items() if _is_stuck(now, state)}
        while any(job.is_left for job in self.external_jobs):
            if time.time() > since + _SETTLING_SECONDS:
                break
            time.sleep(_PAUSE_SECONDS)
        lost = self._lost() if state == "success" else {}
        audit = Audit(state, self.external_jobs, self.plan.missed(), stuck, lost)
        self.let_work_end()
        if state == STUCK:
            self.world.rest.mark_run(self.dag_id, self.run_id, "failed")
        return audit

    def _has_made(self, submissions: Mapping[str, int]) -> bool:
        made = Counter(job.task for job in self.external_jobs)
        return all(made[task] >= number for task, number in submissions.items())

    def _ended(self) -> tuple[str, float] | None:
        """Return the run's state and since when it has it; None before that, or without answer."""
        try:
            run = self.world.rest.run(self.dag_id, self.run_id)
        except (AirflowRestError, httpx.HTTPError) as error:
            if isinstance(error, AirflowRestError) and error.status < 500:
                raise
            return None
        if run["state"] not in ENDED:
            return None
        # A queued run of a backfill that was cancelled has no end.
        ended = run["end_date"] or datetime.now(UTC).isoformat()
        return run["state"], datetime.fromisoformat(ended).timestamp()

    def why_failed(self) -> str:
        """Return the end of the log of each task that failed."""
        rest = self.world.rest
        failed = [
            each for each in rest.tasks(self.dag_id, self.run_id) if each["state"] == "failed"
        ]
        logs = {
            each["task_id"]: rest.log(
                self.dag_id, self.run_id, each["task_id"], map_index=each["map_index"]
            )
            for each in failed
        }
        return "\n".join(f"{task}: {log[-1500:]}" for task, log in logs.items())

    def _lost(self) -> dict[str, list[str]]:
        """Name, by kind, the items that no job has worked on to its end."""
        children = [f"array.{index}" for index in range(ARRAY_SIZE)]
        items = {"step": ["step"], "job": ["job"], "array": children}
        undone = {
            kind: [
                item for item in items.get(kind, []) if not (self.work / f"{item}.done").exists()
            ]
            for kind in self.kinds
        }
        return {kind: missing for kind, missing in undone.items() if missing}


def _is_stuck(task_state: str | None, run_state: str) -> bool:
    if run_state == STUCK:
        return task_state not in _TASK_ENDED
    # Of a run that was marked, tasks that never began have no state.
    return task_state is not None and task_state not in _TASK_ENDED


class FaultWorld:
    """The stack, with AWS behind it, and what can be done to both.

    :param stack: a started one, whose task processes have ``inject`` on their path.
    :param operators: ``ours`` or ``stock``: whose run, and whether the audit is asserted.
    :param plans: folder of the plans, known to the task processes.
    :param work: folder that the external jobs know.
    :param rows: takes a row of the table for each judged kind of each case.
    """

    def __init__(self, stack: Stack, operators: str, plans: Path, work: Path, rows: Rows) -> None:
        self.stack = stack
        self.operators = operators
        self.plans = plans
        self.work = work
        self.rows = rows
        self.group = ""
        self.under_way: list[FaultRun] = []
        self._numbers = itertools.count(1)
        self._orphans: list[Identity] = []

    @property
    def rest(self) -> AirflowRest:
        """Airflow's REST API."""
        return self.stack.rest

    @property
    def is_ours(self) -> bool:
        """Whether our operators run, which are held to what they promise."""
        return self.operators == "ours"

    @cached_property
    def _http(self) -> httpx.Client:
        # verify: to load certificates for plain http costs more CPU than the whole call.
        return httpx.Client(timeout=30, trust_env=False, verify=False)

    @cached_property
    def emr(self) -> Any:
        """boto3's EMR."""
        return self.stack.client("emr")

    @cached_property
    def batch(self) -> Any:
        """boto3's Batch."""
        return self.stack.client("batch")

    # Runs

    def begin(
        self, case: str, kinds: Sequence[str], *, strikes: Sequence[Strike] = (), **conf: Any
    ) -> FaultRun:
        """Start a run with these kinds of external jobs; nothing is waited for.

        :param case: says in words what happens: a row of the table, with each kind.
        :param kinds: of :data:`KINDS`, or ``["mapping"]`` alone.
        :param strikes: what is done to its task processes.
        :param conf: the DAG's parameters (``tests/faults/dags``): ``seconds`` that each job runs,
            ``waits`` (jobs run on until :meth:`FaultRun.let_work_end`), ``failing_tries``,
            ``protected`` (the cluster). Of ``mapping`` the DAG's own.
        """
        dag_id = self.dag_id(kinds)
        return self.begin_dag(case, dag_id, kinds, strikes=strikes, **conf)

    def begin_dag(
        self,
        case: str,
        dag_id: str,
        kinds: Sequence[str],
        *,
        strikes: Sequence[Strike] = (),
        **conf: Any,
    ) -> FaultRun:
        """Start a run of another DAG than the suite's, of which only some cases need one."""
        run_id = f"f{next(self._numbers):03}-{slug(case)}"
        plan = Plan(self.plans / run_id, strikes)
        run = FaultRun(self, case, dag_id, run_id, kinds, plan)
        run.work.mkdir(parents=True)
        if not conf.pop("waits", False):
            run.let_work_end()
        own = {} if list(kinds) == [MAPPING] else {"work": str(run.work)}
        self.rest.trigger(dag_id, conf=own | conf, run_id=run_id)
        self.under_way.append(run)
        return run

    def dag_id(self, kinds: Sequence[str]) -> str:
        """Return the DAG that has just these kinds; a step brings its cluster."""
        if list(kinds) == [MAPPING]:
            return "genomics_mapping"
        unknown = set(kinds) - set(KINDS)
        assert not unknown, f"{unknown} are not of {KINDS}"
        wanted = {*kinds, *(["cluster"] if "step" in kinds else [])}
        return "-".join([f"faults_{self.operators}", *(kind for kind in KINDS if kind in wanted)])

    def judge(
        self,
        run: FaultRun,
        *,
        states: Collection[str] = ("success",),
        submissions: Mapping[str, int] | None = None,
        undone: Collection[str] = (),
        timeout: float = 300,
    ) -> Audit:
        """Wait for a run's end, note its rows, and hold our operators to their promises.

        :param states: in which the run may end.
        :param submissions: how many external jobs each of these tasks has made, exactly.
        :param undone: kinds whose work need not be done, because a person has called it done.
        """
        needs_work = "success" in states and not undone
        if not self.is_ours:
            # Those that are stuck, of many that were begun together, are not waited for in turn.
            timeout = max(_LEAST_SECONDS, 2 * timeout - (time.monotonic() - run.began))
        audit = run.end(submissions, needs_work=needs_work, timeout=timeout)
        self.under_way = [each for each in self.under_way if each is not run]
        for kind in run.kinds:
            row = Row.of(run.group, run.case, kind, audit, states=states, undone=undone)
            self.rows[row.key] = self.rows[row.key] + row if row.key in self.rows else row
        write_rows(self.operators, self.rows)
        self._end(audit.left)
        if self.is_ours:
            _hold_to_promises(run, audit, states, submissions or {}, undone)
        return audit

    def _end(self, jobs: list[ExternalJob]) -> None:
        """End what a run has leaked, which would take the others' room."""
        for job in jobs:
            if job.kind == "cluster":
                self.emr.set_termination_protection(JobFlowIds=[job.id], TerminationProtected=False)
                self.emr.terminate_job_flows(JobFlowIds=[job.id])
            elif job.kind != "step":
                self.batch.terminate_job(jobId=job.id, reason="it was leaked")

    def unpause(self, dag_ids: Collection[str]) -> None:
        """Wait for DAGs and let their runs begin."""
        self.rest.wait_for_dags(dag_ids)
        for dag_id in dag_ids:
            self.rest.set_paused(dag_id, False)

    def set_slots(self, slots: int = _SLOTS) -> None:
        """Let so many tasks run at once."""
        pool = {"slots": slots, "description": "of the fault suite", "include_deferred": False}
        self.rest.set_pools({"default_pool": pool})

    # AWS

    def set_faults(self, faults: list[dict[str, Any]]) -> None:
        """Put a fault plan in force (``localaws.faults``); an empty one ends the faults."""
        self._localaws("PUT", "faults", faults)

    def all_clusters(self) -> list[dict[str, Any]]:
        """Return every cluster that there ever was."""
        return list(self._localaws("GET", "emr/clusters"))

    def all_jobs(self) -> list[dict[str, Any]]:
        """Return every Batch job that there ever was, and each child of an array."""
        return list(self._localaws("GET", "batch/jobs"))

    def _localaws(self, method: str, path: str, body: Any = None) -> Any:
        url = f"{self.stack.localaws_url}/localaws/{path}"
        return self._http.request(method, url, json=body).raise_for_status().json()

    # Airflow's components

    def kill(
        self, component: str, number: signal.Signals = signal.SIGKILL, *, alone: bool = False
    ) -> None:
        """Send a component a signal; one that it cannot heed has ended it when this returns.

        :param component: ``scheduler``, ``triggerer``, ``dag-processor`` or ``api-server``.
        :param alone: to its first process only, as ``docker stop`` and the system's OOM killer do;
            else to all that it has started too, as systemd and a lost host do. The processes of
            tasks are the scheduler's children.
        """
        process = self.stack.processes[component]
        self._orphans.append(process.identity)
        if alone:
            os.kill(process.pid, number)
        else:
            process.signal(number)
        if number == signal.SIGKILL:
            self._wait_for_end(process)

    def restart(self, component: str, *, wait: bool = True) -> None:
        """Start a component that was killed; what it has left goes on beside it.

        :param wait: until it is healthy.
        """
        process = self.stack.processes[component]
        self._wait_for_end(process)
        process.start()
        if wait:
            self.stack.wait_healthy()

    @staticmethod
    def _wait_for_end(process: Component) -> None:
        give_up = time.monotonic() + _STOP_SECONDS
        while process.is_alive():
            if time.monotonic() > give_up:
                os.kill(process.pid, signal.SIGKILL)  # as whoever has stopped it would
            time.sleep(0.05)

    def keep_house(self) -> None:
        """Let housekeeping end what nobody needs any more."""
        self.unpause([HOUSEKEEPING])
        keep_house(self.rest, f"housekeeping-{next(self._numbers)}")
        self.rest.set_paused(HOUSEKEEPING, True)

    def end_orphans(self) -> None:
        """End what killed components have left behind."""
        end_all(self._orphans, patience=0)
        self._orphans.clear()


def _hold_to_promises(
    run: FaultRun,
    audit: Audit,
    states: Collection[str],
    submissions: Mapping[str, int],
    undone: Collection[str],
) -> None:
    lost = {kind: items for kind, items in audit.lost.items() if kind not in undone}
    broken = {
        "leaked": audit.leaked,
        "made twice": audit.duplicates,
        "lost": lost,
        "stuck": audit.stuck,
        "never struck": audit.missed,
        "state": audit.state if audit.state not in states else "",
        "submissions": {
            task: audit.submissions.get(task, 0)
            for task, number in submissions.items()
            if audit.submissions.get(task, 0) != number
        },
    }
    found = {promise: what for promise, what in broken.items() if what}
    assert not found, (
        f"{run.run_id}: {found}; tasks {run.task_states}; jobs {audit.jobs}; {run.why_failed()}"
    )


def slug(case: str) -> str:
    """Make a run id of a sentence: it goes into the names of jobs."""
    return re.sub(r"[^a-z0-9]+", "-", case.lower()).strip("-")[:50].strip("-")
