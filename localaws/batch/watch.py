"""Watches what runs: its memory, its output, and the fault plan's losses."""

from __future__ import annotations

import logging
import threading
import time

from localaws.batch.execution import Execution
from localaws.batch.memory import ProcessTable
from localaws.batch.models import Outcome, now
from localaws.batch.scheduler import Scheduler
from localaws.batch.states import EXITED, OUT_OF_MEMORY, host_lost
from localaws.faults import Fault, FaultPlan

log = logging.getLogger(__name__)

#: How often (seconds) running jobs are looked at.
INTERVAL = 0.1
#: At most this share of the time goes into looking, however many processes there are.
SHARE = 0.2
MIB = 2**20


class Watch:
    """One thread for all running jobs of one backend; it sleeps while none runs."""

    def __init__(self, scheduler: Scheduler, faults: FaultPlan) -> None:
        self._scheduler = scheduler
        self._faults = faults
        threading.Thread(target=self._run, name="batch-watch", daemon=True).start()

    def _run(self) -> None:
        while True:
            running = self._wait_for_running()
            if self._scheduler.is_closed:
                return
            began = time.monotonic()
            try:
                self._look(running)
            except Exception:
                log.exception("jobs cannot be watched")
            spent = time.monotonic() - began
            time.sleep(max(INTERVAL, spent * (1 / SHARE - 1)))

    def _wait_for_running(self) -> list[Execution]:
        changed = self._scheduler.changed
        with changed:
            while True:
                executions = self._scheduler.executions.values()
                running = [one for one in executions if one.attempt.started is not None]
                if running or self._scheduler.is_closed:
                    return running
                changed.wait()

    def _look(self, running: list[Execution]) -> None:
        processes = ProcessTable.read()
        for execution in running:
            self._check_memory(execution, processes)
            self._check_host(execution)
            execution.store_log()

    def _check_memory(self, execution: Execution, processes: ProcessTable) -> None:
        pid = execution.pid
        if pid is None:
            return
        used = processes.used_below(pid)
        attempt = execution.attempt
        attempt.peak_memory = max(attempt.peak_memory, used)
        limit = self._limit(execution)
        if used > limit and processes.exactly_below(pid) > limit:
            self._kill(execution, Outcome(EXITED, reason=OUT_OF_MEMORY))

    def _limit(self, execution: Execution) -> float:
        own = execution.job.spec.memory * MIB
        fault = self._fault("out_of_memory", execution)
        # a process that has just begun has some pages: 0 kills it as soon as it is seen
        return own if fault is None else min(own, (fault.spec.get("mebibytes") or 0) * MIB)

    def _check_host(self, execution: Execution) -> None:
        if self._fault("spot_loss", execution):
            reason = host_lost(execution.attempt.instance_id)
            self._kill(execution, Outcome(reason, has_lost_host=True))

    def _fault(self, kind: str, execution: Execution) -> Fault | None:
        job, attempt = execution.job, execution.attempt
        age = (now() - (attempt.started or now())) / 1000
        return self._faults.striking(kind, attempt.task_id, age, job=job.name, queue=job.queue.name)

    def _kill(self, execution: Execution, cause: Outcome) -> None:
        with self._scheduler.changed:
            execution.kill(cause)
