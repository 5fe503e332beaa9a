"""`airflow triggerer` in which two pipes stand for the metadata database.

    python -m benchmarks.triggerer_process FD

Supervisor and runner are Airflow's own, in two processes as always. The triggers are read from
standard input, one a line: ``["class.path", {arguments}]``. Each event is a line that is written to
the file descriptor: ``{"trigger": place, "at": Unix time, "payload": ...}``, or with ``failure``, a
traceback, for a trigger that failed. The first line is ``{"runner": pid}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import Any
from uuid import uuid4

import structlog
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.executors.workloads.trigger import RunTrigger
from airflow.jobs.triggerer_job_runner import TriggerLoggingFactory, TriggerRunnerSupervisor
from airflow.models.trigger import Trigger

# The default of `[triggerer] max_trigger_to_select_per_loop`: a triggerer takes so many a second.
TRIGGERS_A_ROUND = 50


class Supervisor(TriggerRunnerSupervisor):
    """Airflow's supervisor, with what it asks the database answered from a queue."""

    def attach(self, arrivals: deque[str], answers: Any) -> None:
        """Take the triggers from here and write the events there."""
        self._arrivals, self._answers = arrivals, answers
        self._next_id = 1

    def load_triggers(self) -> None:
        """Give the runner what has arrived, as many as a triggerer takes at once."""
        for _ in range(min(TRIGGERS_A_ROUND, len(self._arrivals))):
            classpath, kwargs = json.loads(self._arrivals.popleft())
            self.creating_triggers.append(self._workload(classpath, kwargs))
            self._next_id += 1

    def _workload(self, classpath: str, kwargs: dict[str, Any]) -> RunTrigger:
        ti = TaskInstanceDTO(
            id=uuid4(),
            dag_id="waiting",
            run_id="manual",
            task_id="wait",
            map_index=self._next_id,
            try_number=1,
            dag_version_id=uuid4(),
            pool_slots=1,
            priority_weight=1,
        )
        log_path = f"dag_id=waiting/map_index={self._next_id}/attempt=1.log.trigger"
        self.logger_cache[self._next_id] = TriggerLoggingFactory(
            log_path=log_path,
            ti=ti,  # type: ignore[arg-type] # as Airflow does
        )
        return RunTrigger(
            id=self._next_id,
            classpath=classpath,
            encrypted_kwargs=Trigger.encrypt_kwargs(kwargs),
            ti=ti,
        )

    def on_trigger_event(self, trigger_id: int, event: Any) -> None:
        """Tell of an event, where Airflow would queue the task."""
        self._tell(trigger_id, payload=event.payload)

    def on_trigger_failure(self, trigger_id: int, exc: list[str] | None) -> None:
        """Tell of a failure, where Airflow would fail the task."""
        self._tell(trigger_id, failure="".join(exc or ["it ended without an event"]))

    def _tell(self, trigger_id: int, **what: Any) -> None:
        answer = {"trigger": trigger_id - 1, "at": time.time(), **what}
        print(json.dumps(answer, default=str), file=self._answers, flush=True)

    def clean_unused(self) -> None:
        """Keep nothing: there is no database."""

    def heartbeat(self) -> None:
        """Tell nobody."""

    def metric_tags(self) -> dict[str, str]:
        """Name the host."""
        return {"hostname": "benchmark"}


def _listen(arrivals: deque[str]) -> None:
    for line in sys.stdin:
        arrivals.append(line)
    # Whoever started this is gone.
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run what comes in until it ends."""
    answers = os.fdopen(int(sys.argv[1]), "w")
    arrivals: deque[str] = deque()
    supervisor = Supervisor.start(capacity=sys.maxsize, logger=structlog.get_logger())
    supervisor.attach(arrivals, answers)
    supervisor.run_once()
    print(json.dumps({"runner": supervisor.pid}), file=answers, flush=True)
    threading.Thread(target=_listen, args=(arrivals,), daemon=True).start()
    supervisor.run()


if __name__ == "__main__":
    main()
