"""Airflow's triggerer without a database: what waiting costs the process that waits.

    with Triggerer(aws.environment()) as triggerer:
        waited = triggerer.wait(triggers, timeout=300)

What is measured is the runner, in which all triggers run (:mod:`benchmarks.triggerer_process`).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.stock_environment import stock_environment
from scripts.component import tail
from scripts.local_env import own_environment, read_env_file
from scripts.stack import ROOT

_START_SECONDS = 60.0
# How often the runner's memory is looked at.
_SAMPLE_SECONDS = 0.5


class TriggererError(RuntimeError):
    """The triggerer did not start, or ended; with the end of its log."""


@dataclass(frozen=True)
class Trigger:
    """What a deferred task leaves to a triggerer."""

    classpath: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Waited:
    """What a wait took.

    :ivar fired: Unix time of each trigger's event, by the trigger's place; of those that fired.
    :ivar payloads: what the events brought.
    :ivar failed: the traceback of each trigger that failed.
    :ivar seconds: from the first trigger's arrival to the last event, or to giving up.
    :ivar cpu: CPU seconds of the runner, user and system.
    :ivar supervisor_cpu: CPU seconds of the supervisor, which writes the tasks' logs.
    :ivar rss_growth: MB by which the runner's resident memory grew at the most.
    """

    fired: Mapping[int, float]
    payloads: Mapping[int, Any]
    failed: Mapping[int, str]
    seconds: float
    cpu: float
    supervisor_cpu: float
    rss_growth: float


class Triggerer:
    """A triggerer in processes of its own, which end with the block.

    :param environ: what makes boto3 talk to a localaws.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._said: queue.Queue[Any] = queue.Queue()
        # How many triggers it has had.
        self._before = 0

    def __enter__(self) -> Triggerer:
        """Start it and wait until its loop runs.

        :raises TriggererError: when it does not.
        """
        self._home = tempfile.TemporaryDirectory(prefix="airflow-bench-")
        self._log = Path(self._home.name) / "triggerer.log"
        hear, tell = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.triggerer_process", str(tell)],
                cwd=ROOT,
                env={**_airflow_environment(Path(self._home.name)), **self._environ},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                pass_fds=(tell,),
                start_new_session=True,
            )
        os.close(tell)
        threading.Thread(target=self._listen, args=(hear,), daemon=True).start()
        self._supervisor = psutil.Process(self._process.pid)
        self._runner = psutil.Process(self._hear(_START_SECONDS)["runner"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._home.cleanup()

    def wait(self, triggers: Sequence[Trigger], timeout: float) -> Waited:
        """Let all triggers wait, and return when each has fired or failed.

        :param timeout: seconds after which those that have not fired are given up.
        :raises TriggererError: when the triggerer ends.
        """
        cpu, supervisor_cpu = _cpu(self._runner), _cpu(self._supervisor)
        rss = most = self._runner.memory_info().rss
        began = time.monotonic()
        self._hand_over(triggers)
        fired: dict[int, float] = {}
        payloads: dict[int, Any] = {}
        failed: dict[int, str] = {}
        over = began + timeout
        while len(fired) + len(failed) < len(triggers) and time.monotonic() < over:
            with suppress(queue.Empty):
                said = self._hear(_SAMPLE_SECONDS)
                place = said["trigger"] - self._before
                if "failure" in said:
                    failed[place] = said["failure"]
                else:
                    fired[place], payloads[place] = said["at"], said["payload"]
            most = max(most, self._runner.memory_info().rss)
        self._before += len(triggers)
        return Waited(
            fired=fired,
            payloads=payloads,
            failed=failed,
            seconds=time.monotonic() - began,
            cpu=_cpu(self._runner) - cpu,
            supervisor_cpu=_cpu(self._supervisor) - supervisor_cpu,
            rss_growth=(most - rss) / 1e6,
        )

    def _hand_over(self, triggers: Iterable[Trigger]) -> None:
        assert self._process.stdin is not None
        for trigger in triggers:
            self._process.stdin.write(f"{json.dumps([trigger.classpath, trigger.kwargs])}\n")
        self._process.stdin.flush()

    def _listen(self, hear: int) -> None:
        with os.fdopen(hear) as lines:
            for line in lines:
                self._said.put(json.loads(line))
        self._said.put(None)

    def _hear(self, timeout: float) -> Any:
        said = self._said.get(timeout=timeout)
        if said is None:
            raise TriggererError(f"the triggerer ended:\n{tail(self._log, 30)}")
        return said


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _airflow_environment(home: Path) -> dict[str, str]:
    return {
        **own_environment(os.environ),
        **read_env_file(ROOT / "airflow.env"),
        **stock_environment(),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    }
