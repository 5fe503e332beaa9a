"""Run one command and end all that it leaves behind. Standard library only: it starts in 30 ms.

``python -I -S supervise.py CONTROL_FD STATUS_FD COMMAND...``

The supervisor stands between localaws and a command. As the subreaper of its descendants
(``prctl(2)``) it inherits every process that a daemon or a JVM launcher leaves, whatever session or
group it moved to. It ends them all when told so, and when the control pipe ends because localaws is
gone, even by SIGKILL. Linux only.

Control lines: ``signal N`` sends signal N to the command's process group; ``end`` kills every
descendant. Status lines: ``started PID`` or ``failed REASON``, then ``exited CODE`` (128 + N after
signal N). The supervisor itself exits when no descendant is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
#: How often (milliseconds) the supervisor looks whether a child ended; SIGCHLD wakes it at once.
PATIENCE = 1000


def main(argv: list[str]) -> int:
    """Supervise ``argv[2:]``; ``argv[:2]`` are the control and the status descriptor."""
    control, status = int(argv[0]), int(argv[1])
    os.set_inheritable(control, False)
    os.set_inheritable(status, False)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    process = _start(argv[2:], status)
    if process is None:
        return 127
    _drop_output()
    _watch(process.pid, control, status, wake)
    return 0


def _start(argv: list[str], status: int) -> subprocess.Popen[bytes] | None:
    """Start the command; the object must be kept: when it goes it reaps the child itself."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_prepare_child
        )
    except OSError as error:
        _tell(status, f"failed {error.strerror}: {argv[0]}")
        return None
    _tell(status, f"started {process.pid}")
    return process


def _prepare_child() -> None:
    # a server started by a shell with & ignores SIGINT, and a child would inherit that: then
    # CancelSteps' SEND_INTERRUPT would do nothing
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _drop_output() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _watch(command: int, control: int, status: int, wake: int) -> None:
    pending = b""
    # not select(2): it takes no descriptor above 1023, and a server with 500 jobs hands those on
    listening = select.poll()
    for descriptor in (control, wake):
        listening.register(descriptor, select.POLLIN)
    ending = False
    while True:
        ready = {descriptor for descriptor, _ in listening.poll(50 if ending else PATIENCE)}
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
        if control in ready:
            data = os.read(control, 4096)
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                ending = _obey(line.decode(), command) or ending
            if not data:
                listening.unregister(control)
                ending = True
        if not _reap(command, status):
            return
        if ending:
            _kill_descendants()


def _obey(line: str, command: int) -> bool:
    if line.startswith("signal "):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command, int(line.split()[1]))
    return line == "end"


def _reap(command: int, status: int) -> bool:
    """Collect who ended; say whether any child is left."""
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if pid == command:
            exit_code = os.waitstatus_to_exitcode(code)
            _tell(status, f"exited {exit_code if exit_code >= 0 else 128 - exit_code}")


def _kill_descendants() -> None:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # the name in parentheses may hold blanks: fields count from the last parenthesis
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    doomed = list(children.get(os.getpid(), []))
    for pid in doomed:
        doomed.extend(children.get(pid, []))
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _tell(status: int, line: str) -> None:
    # localaws may be gone: then nobody asks
    with contextlib.suppress(OSError):
        os.write(status, f"{line}\n".encode())


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
