"""Gives jobs their turn: one thread that places them, starts them and acts on their ends.

Every change of state happens under Batch's service lock; nothing slow does: processes are started
without it, and the thread that waits for a process cleans up after it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from localaws.batch.execution import Execution, Machinery, NotStarted
from localaws.batch.models import ComputeEnvironment, Job, JobQueue, Outcome, now
from localaws.batch.retries import is_retried
from localaws.batch.states import (
    CHILD_FAILED,
    DEPENDENCY_FAILED,
    ENABLED,
    EXCEEDS_MAX_VCPUS,
    FAILED,
    FITS_NOWHERE,
    N_TO_N,
    NOT_STARTED_REASON,
    PENDING,
    RUNNABLE,
    RUNNING,
    SEQUENTIAL,
    STARTING,
    STOP_GRACE,
    SUCCEEDED,
    TIMED_OUT,
)

log = logging.getLogger(__name__)

#: How often (seconds) jobs are looked at again that the fault plan holds back.
HELD_INTERVAL = 0.1


class Scheduler:
    """Drives the jobs of one backend from SUBMITTED to their ends. The lock is the service's."""

    def __init__(
        self, machinery: Machinery, lock: threading.RLock, find: Callable[[str], Job | None]
    ) -> None:
        self.changed = threading.Condition(lock)
        self.executions: dict[str, Execution] = {}
        self._machinery = machinery
        self._find = find
        self._submitted: deque[Job] = deque()
        self._runnable: dict[JobQueue, dict[str, Job]] = {}
        self._waiting: dict[str, list[Job]] = {}
        self._starting: deque[Execution] = deque()
        self._over: deque[tuple[Execution, int | None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._holds_back = False
        self.is_closed = False
        threading.Thread(target=self._run, name="batch-scheduler", daemon=True).start()

    # what the backend asks; the lock is held

    def submit(self, job: Job) -> None:
        """Take a new job."""
        self._submitted.append(job)
        self.changed.notify_all()

    def notify(self) -> None:
        """Say that a queue or an environment was changed."""
        self.changed.notify_all()

    def runnable(self, queue: JobQueue) -> list[Job]:
        """Return the jobs that wait in a queue, the next one first."""
        return list(self._runnable.get(queue, {}).values())

    def cancel(self, job: Job, reason: str) -> None:
        """End a job that has not started; others go on."""
        for one in job.children or [job]:
            if one.state in (RUNNING, STARTING) or one.has_ended:
                continue
            one.is_cancelled = True
            one.tell_to_end(reason)
        if not job.has_ended and job.is_array:
            job.is_cancelled = True
            job.tell_to_end(reason)
        for one in job.children or [job]:
            # one that waits for others is cancelled when they are over:
            # https://docs.aws.amazon.com/batch/latest/APIReference/API_CancelJob.html
            if one.is_cancelled and not one.waits_for:
                self._end_job(one, FAILED, one.end_reason)
        self.changed.notify_all()

    def terminate(self, job: Job, reason: str) -> None:
        """End a job, wherever it is; an array job with its children."""
        for one in (*job.children, job):
            if not one.has_ended:
                one.is_terminated = True
                one.tell_to_end(reason)
        for one in job.children or [job]:
            if not one.has_ended:
                self._terminate(one)
        self.changed.notify_all()

    def _terminate(self, job: Job) -> None:
        execution = self.executions.get(job.id)
        if execution is None:
            self._end_job(job, FAILED, job.end_reason)
        else:
            self._stop(execution, Outcome(job.end_reason or ""))

    def close(self) -> None:
        """Start nothing any more: the server goes down."""
        self.is_closed = True
        self.changed.notify_all()

    # the thread

    def _run(self) -> None:
        while not self.is_closed:
            try:
                self._go_on()
            except Exception:
                log.exception("the scheduler of Batch stumbled")
                time.sleep(1)

    def _go_on(self) -> None:
        with self.changed:
            self._run_timers()
            while self._over:
                execution, exit_code = self._over.popleft()
                self._end_attempt(execution, execution.outcome(exit_code))
            while self._submitted:
                self._resolve(self._submitted.popleft())
            self._place()
            starting = list(self._starting)
            self._starting.clear()
            if not starting:
                self.changed.wait(self._patience())
        for execution in starting:
            if not self.is_closed:
                self._begin(execution)

    def _patience(self) -> float | None:
        held = HELD_INTERVAL if self._holds_back else None
        if not self._timers:
            return held
        due = max(0.0, self._timers[0][0] - time.monotonic())
        return due if held is None else min(due, held)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        due = time.monotonic() + seconds
        heapq.heappush(self._timers, (due, next(self._timer_numbers), action))

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _resolve(self, job: Job) -> None:
        """Find out what a new job waits for."""
        if job.is_array:
            job.enter(PENDING)
        for one in job.children or [job]:
            if one.has_ended:
                continue
            found = [self._find(job_id) for job_id in _dependencies(one)]
            waits_for = [dependency for dependency in found if dependency is not None]
            if any(dependency.state == FAILED for dependency in waits_for):
                self._end_job(one, FAILED, one.end_reason or DEPENDENCY_FAILED)
                continue
            for dependency in waits_for:
                if not dependency.has_ended:
                    one.waits_for.add(dependency.id)
                    self._waiting.setdefault(dependency.id, []).append(one)
            if one.waits_for:
                one.enter(PENDING)
            else:
                self._release(one)

    def _release(self, job: Job) -> None:
        if job.is_cancelled or job.is_terminated:
            self._end_job(job, FAILED, job.end_reason)
            return
        job.enter(RUNNABLE)
        self._runnable.setdefault(job.queue, {})[job.id] = job

    def _place(self) -> None:
        """Start as many jobs as the environments have vCPUs for, first in, first out."""
        full: set[ComputeEnvironment] = set()
        self._holds_back = False
        for queue in sorted(self._runnable, key=lambda queue: -queue.priority):
            jobs = self._runnable[queue]
            placed = []
            for job in jobs.values():
                if self._is_held_back(job):
                    continue
                fitting = self._fitting(job)
                if not fitting:
                    # on AWS it may hold up those behind it
                    continue
                free = [one for one in fitting if one not in full and _has_room(one, job)]
                if not free:
                    # nobody overtakes: neither in this queue nor from one with less priority
                    full.update(fitting)
                    break
                self._start_attempt(job, free[0])
                placed.append(job.id)
            for job_id in placed:
                del jobs[job_id]

    def _is_held_back(self, job: Job) -> bool:
        faults = self._machinery.faults
        fault = faults.striking("stuck", job.id, job=job.name, queue=job.queue.name)
        if fault is None:
            return False
        self._holds_back = True
        job.reason = str(fault.spec["reason"])
        return True

    def _fitting(self, job: Job) -> list[ComputeEnvironment]:
        """Return the environments that could hold the job if nobody else was there."""
        spec = job.spec
        enabled = [one for one in job.queue.environments if one.state == ENABLED]
        held = [one for one in enabled if one.can_hold(spec.vcpus, spec.memory)]
        fitting = [one for one in held if spec.vcpus <= one.max_vcpus]
        if not fitting and enabled:
            job.reason = EXCEEDS_MAX_VCPUS if held else FITS_NOWHERE
        return fitting

    def _start_attempt(self, job: Job, environment: ComputeEnvironment) -> None:
        environment.used_vcpus += job.spec.vcpus
        job.begin_attempt(environment)
        job.reason = None
        job.enter(STARTING)
        execution = Execution(job, self._machinery)
        self.executions[job.id] = execution
        delay = self._machinery.settings.batch_starting
        self._later(delay, lambda: self._starting.append(execution))

    def _begin(self, execution: Execution) -> None:
        """Start the processes of an attempt; the lock is not held."""
        failed: Outcome | None = execution.cause
        if failed is None:
            try:
                execution.start(self._when_over)
            except NotStarted as error:
                failed = error.outcome
            except Exception as error:
                log.exception("job %s cannot be started", execution.job.id)
                failed = Outcome(NOT_STARTED_REASON, reason=f"localaws broke: {error}")
        with self.changed:
            if failed is not None:
                self._end_attempt(execution, failed)
                return
            execution.job.enter(RUNNING)
            execution.attempt.started = now()
            if execution.cause or self.is_closed:
                execution.kill()
            timeout = execution.job.spec.timeout
            if timeout is not None:
                scale = self._machinery.settings.batch_timeout_scale
                self._later(timeout * scale, lambda: self._time_out(execution))
            # whoever watches what runs
            self.changed.notify_all()

    def _time_out(self, execution: Execution) -> None:
        if self._is_under_way(execution) and execution.cause is None:
            self._stop(execution, Outcome(TIMED_OUT))

    def _stop(self, execution: Execution, cause: Outcome) -> None:
        execution.stop(cause)
        grace = STOP_GRACE * self._machinery.settings.batch_timeout_scale
        self._later(grace, lambda: self._kill(execution))

    def _kill(self, execution: Execution) -> None:
        if self._is_under_way(execution):
            execution.kill()

    def _is_under_way(self, execution: Execution) -> bool:
        return self.executions.get(execution.job.id) is execution

    def _when_over(self, execution: Execution, exit_code: int | None) -> None:
        with self.changed:
            self._over.append((execution, exit_code))
            self.changed.notify_all()

    def _end_attempt(self, execution: Execution, outcome: Outcome) -> None:
        job, attempt = execution.job, execution.attempt
        attempt.outcome, attempt.stopped = outcome, now()
        attempt.environment.used_vcpus -= job.spec.vcpus
        del self.executions[job.id]
        if outcome.is_success:
            self._end_job(job, SUCCEEDED, outcome.status_reason)
        elif self._may_be_retried(job, outcome):
            job.enter(RUNNABLE, outcome.status_reason)
            self._runnable.setdefault(job.queue, {})[job.id] = job
        else:
            self._end_job(job, FAILED, job.end_reason or outcome.status_reason)
        if job.stopped:
            job.stopped = attempt.stopped

    def _may_be_retried(self, job: Job, outcome: Outcome) -> bool:
        # https://docs.aws.amazon.com/batch/latest/userguide/job_timeouts.html
        if job.has_ended or job.is_terminated or outcome.status_reason == TIMED_OUT:
            return False
        return is_retried(job.spec.retry, len(job.attempts), outcome)

    def _end_job(self, job: Job, state: str, reason: str | None) -> None:
        """End a job and draw the consequences for its parent and for who waits for it."""
        # not by recursion: a SEQUENTIAL array is 10,000 deep
        ending = deque([(job, state, reason)])
        while ending:
            job, state, reason = ending.popleft()
            if job.has_ended:
                continue
            job.enter(state, reason)
            self._runnable.get(job.queue, {}).pop(job.id, None)
            parent = job.parent
            if parent is not None and parent.all_children_ended:
                if parent.summary[FAILED]:
                    ending.append((parent, FAILED, parent.end_reason or CHILD_FAILED))
                else:
                    ending.append((parent, SUCCEEDED, None))
            for waiting in self._waiting.pop(job.id, []):
                waiting.waits_for.discard(job.id)
                if waiting.is_cancelled and not waiting.waits_for:
                    ending.append((waiting, FAILED, waiting.end_reason))
                elif state == FAILED:
                    ending.append((waiting, FAILED, waiting.end_reason or DEPENDENCY_FAILED))
                elif not waiting.waits_for:
                    self._release(waiting)


def _dependencies(job: Job) -> list[str]:
    """Return the ids of the jobs that a job, or an array child, waits for."""
    ids = []
    for one in job.request.get("dependsOn") or []:
        kind = one.get("type")
        if kind == SEQUENTIAL:
            if job.parent is not None and job.index:
                ids.append(f"{job.parent.id}:{job.index - 1}")
        elif kind == N_TO_N:
            ids.append(f"{one['jobId']}:{job.index}")
        else:
            ids.append(one["jobId"])
    return ids


def _has_room(environment: ComputeEnvironment, job: Job) -> bool:
    return environment.used_vcpus + job.spec.vcpus <= environment.max_vcpus
