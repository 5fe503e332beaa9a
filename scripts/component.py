"""One process of the local stack, with everything that it starts.

Each component leads a session of its own: a Ctrl-C in the terminal does not reach it, and whoever
finds its session finds all that it left, also after it is dead. (Airflow's task processes have
process groups of their own, but stay in the session.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_START_TOLERANCE = 1.0  # seconds; the system's clock of process starts ticks in hundredths


@dataclass(frozen=True)
class Identity:
    """A process that was started: a pid alone may by now be somebody else's."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Take down who has this pid now."""
        return cls(pid, psutil.Process(pid).create_time())

    def is_alive(self) -> bool:
        """Tell whether that very process still runs; one that nobody has reaped does not."""
        try:
            process = psutil.Process(self.pid)
            return self._is(process) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _is(self, process: psutil.Process) -> bool:
        return abs(process.create_time() - self.started) < _START_TOLERANCE

    def session(self) -> list[psutil.Process]:
        """Find all living processes of its session, also when it is dead itself.

        The system gives no pid anew that is still the number of a session, so a stranger under this
        pid means that nothing is left of ours.
        """
        try:
            if not self._is(psutil.Process(self.pid)):
                return []
        except psutil.NoSuchProcess:
            pass
        return [process for process in psutil.process_iter() if self._leads(process)]

    def _leads(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            return False

    def family(self) -> list[psutil.Process]:
        """Give the session and what left it by starting a session of its own (a task's shell)."""
        found = {process.pid: process for process in self.session()}
        for process in list(found.values()):
            try:
                found.update({child.pid: child for child in process.children(recursive=True)})
            except psutil.NoSuchProcess:
                continue
        return list(found.values())

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process group; a group that is gone is no error."""
        if self.session():
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return


class Component:
    """A command that runs in the background, its output in a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        cwd: Path,
        on_start: Callable[[Component], None] = lambda component: None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.environ = dict(environ)
        self.log = log
        self.cwd = cwd
        self.started_at = 0.0
        self._on_start = on_start
        self._process: subprocess.Popen[bytes] | None = None
        self._identity: Identity | None = None

    @property
    def identity(self) -> Identity:
        """Who it is now; a restart makes it another one."""
        if self._identity is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._identity

    def start(self) -> None:
        """Start it; its output is appended to its log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.environ,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started_at = time.time()
        self._identity = Identity.of(self._process.pid)
        self._on_start(self)

    @property
    def pid(self) -> int:
        """The pid of the first process, for a test that hits it alone."""
        return self.identity.pid

    def exit_code(self) -> int | None:
        """Give the exit code, or None while it runs."""
        return self._process.poll() if self._process else None

    def is_alive(self) -> bool:
        """Tell whether it runs."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to everything that it started: SIGKILL is a lost host, SIGSTOP a hang."""
        for process in self.identity.family():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def kill(self) -> None:
        """End it and everything that it started at once, as a lost host does."""
        self.signal(signal.SIGKILL)
        if self._process:
            self._process.wait(timeout=10)

    def stop(self, patience: float = 10.0) -> None:
        """Ask it to end; end it with all that it started after so many seconds."""
        end_all([self.identity], patience)
        if self._process:
            self._process.wait(timeout=10)

    def restart(self) -> None:
        """Stop what is left of it and start it anew; ready when the stack is healthy again."""
        self.stop()
        self.start()

    def tail(self, lines: int = 20) -> str:
        """Give the last lines of its log."""
        return tail(self.log, lines)


def end_all(identities: Iterable[Identity], patience: float) -> bool:
    """End components together: SIGTERM to their groups, after ``patience`` seconds SIGKILL to all.

    What had left its component's session is remembered before, and ended too.

    :returns: whether all ended by themselves.
    """
    identities = list(identities)
    family = [process for identity in identities for process in identity.family()]
    for identity in identities:
        identity.signal_group(signal.SIGTERM)
    deadline = time.monotonic() + patience
    while _living(identities, family) and time.monotonic() < deadline:
        time.sleep(0.1)
    stubborn = _living(identities, family)
    for process in stubborn:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + 5
    while _living(identities, family) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not stubborn


def _living(identities: Iterable[Identity], family: list[psutil.Process]) -> list[psutil.Process]:
    """Give who still runs of the sessions and of the family remembered from before."""
    living = {process.pid: process for identity in identities for process in identity.session()}
    for process in family:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                living[process.pid] = process
        except psutil.NoSuchProcess:
            continue
    return list(living.values())


def tail(path: Path, lines: int) -> str:
    """Give the last lines of a text file; of a missing one, nothing."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
