"""Run a step's or a job's command as a process of this machine, and never leave one behind.

Each command runs below a supervisor of its own (:mod:`localaws.supervise`), in a session of its
own, with files and not pipes for its output: a daemon that holds the output open keeps nobody
waiting, and nothing outlives the server, not even when the server dies by SIGKILL.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

SUPERVISOR = Path(__file__).with_name("supervise.py")
#: Exit code of a command that could not be started, as a shell gives it.
NOT_FOUND = 127
KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True)
class Command:
    """What to run, where, with which environment, and where its output goes."""

    argv: Sequence[str]
    cwd: Path
    stdout: Path
    stderr: Path
    env: Mapping[str, str] = field(default_factory=dict)


class RunningCommand:
    """A command that was started. All methods may be called from any thread."""

    def __init__(
        self,
        runner: Runner,
        command: Command,
        when_exited: Callable[[RunningCommand], None] | None = None,
    ) -> None:
        self._runner = runner
        self._when_exited = when_exited
        self._exited = threading.Event()
        self._lock = threading.Lock()
        self.pid: int | None = None
        self.exit_code: int | None = None
        control_read, self._control = os.pipe2(os.O_CLOEXEC)
        status_read, status_write = os.pipe2(os.O_CLOEXEC)
        try:
            with command.stdout.open("ab") as stdout, command.stderr.open("ab") as stderr:
                self._supervisor = subprocess.Popen(
                    _argv(control_read, status_write, command.argv),
                    cwd=command.cwd,
                    env=dict(command.env),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=(control_read, status_write),
                    start_new_session=True,
                )
        finally:
            os.close(control_read)
            os.close(status_write)
        self._stderr = command.stderr
        threading.Thread(target=self._listen, args=(status_read,), daemon=True).start()

    @property
    def supervisor_pid(self) -> int:
        """The process from which all that the command starts descends."""
        return self._supervisor.pid

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the command itself, not for what it left running; None after ``timeout`` s."""
        self._exited.wait(timeout)
        return self.exit_code

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        self._tell(f"signal {int(number)}")

    def end(self) -> None:
        """Kill the command and every process that descends from it; does not wait."""
        self._tell("end")

    def wait_until_gone(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until no descendant is left."""
        try:
            self._supervisor.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _tell(self, line: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._control >= 0:
                os.write(self._control, f"{line}\n".encode())

    def _listen(self, status: int) -> None:
        with os.fdopen(status, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                word, _, rest = line.strip().partition(" ")
                if word == "started":
                    self.pid = int(rest)
                elif word == "exited":
                    self._end_with(int(rest))
                elif word == "failed":
                    with self._stderr.open("a") as stderr:
                        stderr.write(f"localaws: cannot run it: {rest}\n")
                    self._end_with(NOT_FOUND)
        self._supervisor.wait()
        self._end_with(KILLED)
        with self._lock:
            os.close(self._control)
            self._control = -1
        self._runner.forget(self)

    def _end_with(self, exit_code: int) -> None:
        if self.exit_code is not None:
            return
        self.exit_code = exit_code
        self._exited.set()
        if self._when_exited:
            try:
                self._when_exited(self)
            except Exception:
                # this thread must go on: it knows when the last process has gone
                log.exception("process %s has ended, and what follows that failed", self.pid)


class Runner:
    """Starts commands and knows those that still have processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[RunningCommand] = set()
        self._closed = False

    def start(
        self, command: Command, when_exited: Callable[[RunningCommand], None] | None = None
    ) -> RunningCommand:
        """Start a command; ``when_exited`` is called by a thread that waits for its end.

        Raises:
            RuntimeError: the runner was closed: the server is going down.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("localaws is stopping: no command is started any more")
            running = RunningCommand(self, command, when_exited)
            self._running.add(running)
        return running

    def forget(self, running: RunningCommand) -> None:
        """Take a command off the list: no process of it is left."""
        with self._lock:
            self._running.discard(running)

    def close(self, timeout: float = 5.0) -> None:
        """Start nothing any more, kill whatever runs and wait until it is gone."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for command in running:
            command.end()
        for command in running:
            if not command.wait_until_gone(timeout):
                log.error("process %s did not end within %.0f s", command.pid, timeout)


def _argv(control: int, status: int, argv: Sequence[str]) -> list[str]:
    # -I -S: neither site-packages nor the environment have a say in the supervisor
    return [sys.executable, "-I", "-S", str(SUPERVISOR), str(control), str(status), *argv]
