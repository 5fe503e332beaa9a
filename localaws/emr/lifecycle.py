"""A cluster's life: a thread that starts it, gives its steps their turn, and ends it.

Every change of state happens under EMR's service lock; nothing slow does: scripts are fetched,
processes awaited and logs stored without it.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from localaws.emr.failures import failure_details
from localaws.emr.models import Cluster, Step, cancels_others
from localaws.emr.states import (
    BOOTSTRAP,
    BOOTSTRAPPING,
    CANCEL_PENDING,
    CANCELLED,
    COMPLETED,
    FAILED,
    INTERRUPTED,
    PENDING,
    READY,
    RUNNING,
    STEP_CANCELLED,
    STEP_FAILED,
    STEP_RUNS,
    STEPS_COMPLETED,
    TERMINATE_CLUSTER,
    TERMINATED,
    TERMINATED_WITH_ERRORS,
    TERMINATING,
    WAITING,
    Ending,
    Reason,
    bootstrap_reason,
    download_reason,
    idle_reason,
)
from localaws.emr.steps import Logs, StepNotPossible, fetch_script, step_command
from localaws.emr.strikes import strike
from localaws.faults import FaultPlan
from localaws.own_s3 import OwnS3
from localaws.runner import Command, Runner, RunningCommand
from localaws.settings import Settings
from localaws.workspace import Workspace

log = logging.getLogger(__name__)

#: Seconds in which the processes of a cluster that ends must be gone.
KILL_TIMEOUT = 5.0


@dataclass(frozen=True)
class Machinery:
    """What clusters run on."""

    settings: Settings
    runner: Runner
    workspace: Workspace
    s3: OwnS3
    faults: FaultPlan


class ClusterLife:
    """Drives one cluster from STARTING to its end."""

    def __init__(self, cluster: Cluster, machinery: Machinery, lock: threading.RLock) -> None:
        self.cluster = cluster
        self._machinery = machinery
        self._changed = threading.Condition(lock)
        self._ending: Ending | None = None
        self._processes: dict[str, RunningCommand] = {}
        self._daemons: list[RunningCommand] = []
        self._step_threads: list[threading.Thread] = []
        self._cancelled: dict[str, int] = {}
        self._struck: dict[str, tuple[str, str]] = {}
        self._entered = time.monotonic()
        self._idle_since: float | None = None
        self._logs_now = threading.Event()
        self._thread = threading.Thread(target=self._live, name=cluster.id, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_ending(self) -> bool:
        """Say whether the end was decided."""
        return self._ending is not None

    @property
    def age(self) -> float:
        """Seconds since the cluster entered its state."""
        return time.monotonic() - self._entered

    def notify(self) -> None:
        """Say that the cluster was changed from outside; the lock is held."""
        self._changed.notify_all()

    def end(self, ending: Ending) -> None:
        """Ask for the end; the first reason counts. The lock is held."""
        if self._ending is None:
            self._ending = ending
            self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait until it is over."""
        self._thread.join(timeout)

    def cancel(self, step: Step, option: str) -> None:
        """Cancel one active step; the lock is held."""
        if step.state == PENDING:
            step.end(CANCELLED, STEP_CANCELLED)
        else:
            # https://docs.aws.amazon.com/emr/latest/APIReference/API_CancelSteps.html
            number = signal.SIGKILL if option == "TERMINATE_PROCESS" else signal.SIGINT
            step.state = CANCEL_PENDING
            self._cancelled[step.id] = number
            process = self._processes.get(step.id)
            if process is not None:
                _signal(process, number)
        self._changed.notify_all()

    def strike(self, step: Step, state: str, words: str) -> None:
        """Kill a running step, which ends so and with these words in its log; the lock is held."""
        self._struck.setdefault(step.id, (state, words))
        process = self._processes.get(step.id)
        if process is not None:
            process.end()

    def _live(self) -> None:
        try:
            with self._changed:
                strike(self, self._machinery.faults)
            self._start_up()
            self._work()
        except Exception as error:
            log.exception("cluster %s broke", self.cluster.id)
            with self._changed:
                self.end(Ending(Reason(f"localaws broke: {error}", "INTERNAL_ERROR"), True))
        self._wind_down()

    def _start_up(self) -> None:
        settings = self._machinery.settings
        self._sleep(settings.emr_starting + self._slowness())
        with self._changed:
            if self._ending:
                return
            self._enter(BOOTSTRAPPING, BOOTSTRAP)
        began = time.monotonic()
        for number, action in enumerate(self.cluster.request.get("BootstrapActions") or [], 1):
            if self._ending is None:
                self._bootstrap(number, action["ScriptBootstrapAction"])
        self._sleep(settings.emr_bootstrapping - (time.monotonic() - began))

    def _slowness(self) -> float:
        fault = self._machinery.faults.striking(
            "slow_start", self.cluster.id, math.inf, cluster=self.cluster.name
        )
        return fault.seconds if fault else 0.0

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ending is not None, max(0.0, seconds))

    def _bootstrap(self, number: int, action: dict[str, object]) -> None:
        machinery, node = self._machinery, self.cluster.primary["Ec2InstanceId"]
        place = self.cluster.id, f"bootstrap-{number}"
        home = machinery.workspace.folder(*place, "work")
        scratch = machinery.workspace.folder(*place, "scratch")
        logs = Logs(machinery.workspace.folder(*place, "logs"))
        path, args = str(action["Path"]), action.get("Args") or []
        failed: Reason | None = None
        try:
            script = fetch_script(path, scratch, machinery.s3)
        except StepNotPossible as error:
            _note(logs.controller, str(error))
            failed = download_reason(node, number)
        else:
            _note(logs.controller, f"INFO startExec '{path}'")
            env = machinery.workspace.environment(home, scratch)
            env["EMR_CLUSTER_ID"] = self.cluster.id
            argv = [str(script), *map(str, args)]  # type: ignore[call-overload]
            command = Command(argv, home, logs.stdout, logs.stderr, env)
            code = self._run_bootstrap(command)
            _note(logs.controller, f"INFO Execution ended with exit code {code}")
            if code != 0 and self._ending is None:
                failed = bootstrap_reason(node, number)
        prefix = self.cluster.log_prefix("node", node, "bootstrap-actions", str(number))
        self._store(logs, prefix)
        if failed:
            with self._changed:
                self.end(Ending(failed, with_errors=True))

    def _run_bootstrap(self, command: Command) -> int | None:
        process = self._machinery.runner.start(command)
        # what the script leaves running lives as long as the cluster
        self._daemons.append(process)
        while process.wait(0.1) is None:
            if self._ending is not None:
                process.end()
        return process.exit_code

    def _work(self) -> None:
        with self._changed:
            if self._ending is None:
                self._enter(RUNNING, STEP_RUNS)
            while self._ending is None:
                self._start_steps()
                if any(step.is_active for step in self.cluster.steps):
                    self._idle_since = None
                    self._enter(RUNNING, STEP_RUNS)
                    self._wait()
                elif not self.cluster.keep_alive:
                    self.end(Ending(STEPS_COMPLETED))
                else:
                    self._idle()

    def _idle(self) -> None:
        self._enter(WAITING, READY)
        if self._idle_since is None:
            self._idle_since = time.monotonic()
        limit = None if self.cluster.is_ha else self.cluster.idle_timeout
        if limit is None:
            self._wait()
            return
        patience = limit * self._machinery.settings.emr_idle_scale
        left = self._idle_since + patience - time.monotonic()
        if left <= 0:
            self.end(Ending(idle_reason(limit)))
        else:
            self._wait(left)

    def _wait(self, seconds: float | None = None) -> None:
        # the end may have been decided on entering the state
        if self._ending is None:
            self._changed.wait(seconds)

    def _enter(self, state: str, reason: Reason) -> None:
        if self.cluster.state != state:
            self.cluster.enter(state, reason)
            self._entered = time.monotonic()
            strike(self, self._machinery.faults)

    def _start_steps(self) -> None:
        steps = self.cluster.steps
        free = self.cluster.concurrency - sum(
            step.state in (RUNNING, CANCEL_PENDING) for step in steps
        )
        for step in [step for step in steps if step.state == PENDING][: max(0, free)]:
            step.start()
            thread = threading.Thread(target=self._run_step, args=(step,), daemon=True)
            self._step_threads.append(thread)
            thread.start()

    def _run_step(self, step: Step) -> None:
        machinery = self._machinery
        logs = Logs(machinery.workspace.folder(self.cluster.id, step.id, "logs"))
        prefix = self.cluster.log_prefix("steps", step.id)
        code: int | None = None
        try:
            command = step_command(step, self.cluster, machinery.workspace, machinery.s3, logs)
            _note(logs.controller, f"INFO startExec {step.jar} {' '.join(step.args)}")
            code = self._run_process(step, command)
            _note(logs.controller, f"INFO Step {step.id} ended with exit code {code}")
        except StepNotPossible as error:
            _write(logs.stderr, f"{error}\n")
            _note(logs.controller, f"ERROR {error}")
        except Exception as error:
            log.exception("step %s of %s broke", step.id, self.cluster.id)
            _write(logs.stderr, f"localaws broke: {type(error).__name__}: {error}\n")
        if step.id in self._struck:
            _write(logs.stderr, f"{self._struck[step.id][1]}\n")
        delay = machinery.settings.emr_log_delay
        if delay == 0:
            self._store(logs, prefix)
        with self._changed:
            self._end_step(step, code, lambda: failure_details(logs.stdout, logs.stderr, prefix))
            self._changed.notify_all()
        if delay > 0:
            # a cluster that ends stores its logs at once
            self._logs_now.wait(delay)
            self._store(logs, prefix)

    def _run_process(self, step: Step, command: Command) -> int | None:
        with self._changed:
            if self._ending is not None or step.id in self._struck:
                return None
            process = self._machinery.runner.start(command)
            self._processes[step.id] = process
            if step.id in self._cancelled:
                _signal(process, self._cancelled[step.id])
        code = process.wait()
        # what a step leaves behind is not the next one's business
        process.end()
        process.wait_until_gone(KILL_TIMEOUT)
        return code

    def _end_step(
        self, step: Step, code: int | None, details: Callable[[], dict[str, str]]
    ) -> None:
        self._processes.pop(step.id, None)
        state, words = self._struck.get(step.id, ("", ""))
        if step.id in self._cancelled:
            step.end(CANCELLED, STEP_CANCELLED)
        elif state in (CANCELLED, INTERRUPTED):
            step.end(state, Reason(words))
        elif code == 0 and not state:
            step.end(COMPLETED)
        elif self._ending is not None:
            step.end(INTERRUPTED, STEP_CANCELLED)
        else:
            step.end(FAILED, failure=details())
            self._act_on_failure(step)

    def _act_on_failure(self, step: Step) -> None:
        if not cancels_others(step, self.cluster.concurrency):
            return
        for other in self.cluster.steps:
            if other.state == PENDING:
                other.end(CANCELLED, STEP_CANCELLED)
        # a protected cluster that is kept alive survives its step's failure:
        # https://docs.aws.amazon.com/emr/latest/ManagementGuide/UsingEMR_TerminationProtection.html
        survives = self.cluster.protected and self.cluster.keep_alive
        if step.action_on_failure == TERMINATE_CLUSTER and not survives:
            self.end(Ending(STEP_FAILED, with_errors=True))

    def _wind_down(self) -> None:
        with self._changed:
            ending = self._ending or Ending(STEPS_COMPLETED)
            self.cluster.enter(TERMINATING, ending.reason)
            for step in self.cluster.steps:
                if step.state == PENDING:
                    step.end(CANCELLED, STEP_CANCELLED)
            for process in [*self._processes.values(), *self._daemons]:
                process.end()
            threads = list(self._step_threads)
        self._logs_now.set()
        began = time.monotonic()
        for process in self._daemons:
            process.wait_until_gone(KILL_TIMEOUT)
        for thread in threads:
            thread.join(KILL_TIMEOUT)
        time.sleep(max(0.0, self._machinery.settings.emr_terminating - (time.monotonic() - began)))
        with self._changed:
            for step in self.cluster.steps:
                step.end(INTERRUPTED, STEP_CANCELLED)
            final = TERMINATED_WITH_ERRORS if ending.with_errors else TERMINATED
            self.cluster.enter(final, ending.reason)

    def _store(self, logs: Logs, prefix: str | None) -> None:
        try:
            logs.upload(self._machinery.s3, prefix)
        except Exception as error:
            log.warning("cannot store logs at %s: %s", prefix, error)


def _signal(process: RunningCommand, number: int) -> None:
    if number == signal.SIGKILL:
        process.end()
    else:
        process.send_signal(number)


def _note(path: Path, line: str) -> None:
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    _write(path, f"{stamp}Z {line}\n")


def _write(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
