"""Processes that work on one stream together: all of them end well, or none goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from read_mapping.exceptions import MappingError, OutOfMemoryError
from read_mapping.resources import oom_kills
from read_mapping.termination import held_back

# Against 64 KiB by default: fewer turns between writers and readers.
PIPE_BYTES = 1 << 20
# As a file: what is started reads nothing, or is not asked what it prints.
NOTHING = subprocess.DEVNULL


def pipe() -> tuple[int, int]:
    """Make a roomy pipe; return its ends to read from and to write to."""
    read, write = os.pipe()
    # Refused where the user's share of pipe memory is used up: a small pipe does as well.
    with contextlib.suppress(OSError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read, write


class Processes:
    """The processes of one stage and the threads that feed them.

    Leaving the context kills whatever still runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._ends: queue.SimpleQueue[tuple[str, int | BaseException]] = queue.SimpleQueue()
        self._awaited = 0
        self._oom_kills = oom_kills()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._started:
            process.kill()
        for process in self._started:
            process.wait()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] = NOTHING,
        stdout: int | IO[bytes] = NOTHING,
        pass_fds: Sequence[int] = (),
        environ: dict[str, str] | None = None,
    ) -> None:
        """Start a process in the stage's folder.

        It takes over the files that it is given: they are closed here. Its stderr is kept for the
        sentence that says why it failed.
        """
        try:
            with held_back(), self._stderr(name).open("wb") as stderr:
                process = subprocess.Popen(
                    list(argv),
                    cwd=self._folder,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=pass_fds,
                    env={**os.environ, **(environ or {})},
                )
                self._started.append(process)
        except OSError as error:
            raise MappingError(f"{argv[0]} cannot be started: {error.strerror}") from error
        for file in (stdin, stdout, *pass_fds):
            if not isinstance(file, int):
                file.close()
            elif file >= 0:
                os.close(file)
        self._watch(name, process.wait)

    def feed(self, name: str, pour: Callable[[], None]) -> None:
        """Run what feeds a process in a thread."""

        def run() -> int:
            pour()
            return 0

        self._watch(name, run)

    def wait(self) -> None:
        """Wait until everything that was started has ended well.

        Raises what a feeding thread raised, or MappingError with the last line on stderr of the
        process that failed. A broken pipe only follows from the end of another one, whose reason
        is the one that is told.
        """
        broken: BaseException | None = None
        for _ in range(self._awaited):
            name, end = self._ends.get()
            if isinstance(end, BrokenPipeError) or end == -signal.SIGPIPE:
                broken = MappingError(f"{name} lost its reader")
            elif isinstance(end, BaseException):
                raise end
            elif end:
                raise self._failure(name, end)
        if broken:
            raise broken
        self._awaited = 0

    def _watch(self, name: str, run: Callable[[], int]) -> None:
        def watch() -> None:
            try:
                self._ends.put((name, run()))
            except BaseException as error:
                self._ends.put((name, error))

        self._awaited += 1
        # A daemon: one that waits for S3 keeps nobody from leaving.
        threading.Thread(target=watch, name=name, daemon=True).start()

    def _stderr(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.stderr"

    def _failure(self, name: str, code: int) -> MappingError:
        said = self._stderr(name).read_text(errors="replace").strip().splitlines()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        if code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            return OutOfMemoryError(f"{name} {how}: the job is out of memory")
        return MappingError(f"{name} {how}" + (f": {said[-1].strip()}" if said else ""))
