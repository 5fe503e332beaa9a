"""Start, seed, serve, and stop in order."""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import logging
import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

from localaws.settings import ACCOUNT_ID, ENVIRONMENT_HELP, Settings

log = logging.getLogger("localaws")

#: Open files the server may have: two for each process it runs. A shell's usual limit of 1024 would
#: end it at 500 jobs.
OPEN_FILES = 16_384


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    arguments = _parser().parse_args(argv)
    settings = _settings(arguments)
    _prepare_environment()
    # moto reads its environment when it is imported
    from localaws.seed import SeedError
    from localaws.snapshot import SnapshotError
    from localaws.stack import Stack

    # Not an Event: a second signal within Event.set() would wait for the first for ever. And by
    # set_wakeup_fd, which writes from whichever thread the signal reaches: a Python handler only
    # runs when the main thread goes on, which a signal to another thread does not make it do.
    stopping, stop = os.pipe()
    os.set_blocking(stop, False)
    signal.set_wakeup_fd(stop, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if arguments.until_stdin_ends:
        threading.Thread(target=_await_end_of_stdin, args=(stop,), daemon=True).start()
    try:
        stack = Stack(settings)
    except SnapshotError as error:
        log.error("%s", error)
        return 1
    try:
        stack.start()
        if arguments.port_file:
            _write_port(arguments.port_file, stack.port)
        log.info("localaws is ready on %s", stack.endpoint_url)
        os.read(stopping, 1)
        log.info("localaws stops")
    except (SeedError, SnapshotError) as error:
        log.error("%s", error)
        return 1
    finally:
        stack.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m localaws",
        description=(
            "AWS on this machine: moto's server, extended so that EMR steps and Batch jobs run."
        ),
        epilog=ENVIRONMENT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one (4570)")
    parser.add_argument("--data", type=Path, help="folder that keeps the state over a restart")
    parser.add_argument("--no-seed", action="store_true", help="deploy no templates at start")
    parser.add_argument(
        "--until-stdin-ends", action="store_true", help="stop when the process that started it ends"
    )
    parser.add_argument("--port-file", type=Path, help="write the port here when ready")
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    given: dict[str, Any] = {
        "host": arguments.host,
        "port": arguments.port,
        "data": arguments.data.resolve() if arguments.data else None,
        "seed": False if arguments.no_seed else None,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(Settings.from_environment(), **asked)


def _prepare_environment() -> None:
    # a server that hangs can be asked where: kill -USR1 writes every thread's stack to its log
    faulthandler.register(signal.SIGUSR1)
    _allow_open_files()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    os.environ["MOTO_ACCOUNT_ID"] = ACCOUNT_ID
    # templates attach managed policies of AWS
    os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
    # the server's own clients name their endpoint; the environment must not send them elsewhere
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
        os.environ.pop(name, None)
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    bound = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < bound:
        resource.setrlimit(resource.RLIMIT_NOFILE, (bound, hard))


def _await_end_of_stdin(stop: int) -> None:
    # the other end of the pipe is held by whoever started this: it ends with them, even by SIGKILL
    while os.read(0, 4096):
        pass
    os.write(stop, b"x")


def _write_port(path: Path, port: int) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(f"{port}\n")
    draft.replace(path)
