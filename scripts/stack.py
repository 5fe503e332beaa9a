"""The whole thing on this machine: PostgreSQL, localaws and Airflow's four components.

For `make`, in the background until `make down`:

    python -m scripts.stack up|down|status

For the demo and the tests, gone when the block ends, however it ends:

    with Stack(ROOT, home) as stack:
        run_id = stack.rest.trigger("emr_daily_etl")

Airflow's history and what localaws stores live and die together: a history without its clusters and
buckets would wait for ids that nobody knows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType, TracebackType

import httpx
import psutil

from scripts.airflow_rest import AirflowRest
from scripts.component import Component, Identity, end_all, tail
from scripts.local_env import (
    ADMIN,
    JWT_SECRET,
    Places,
    keep_secrets,
    local_environment,
    own_environment,
    passwords_file,
)
from scripts.postgres import is_running, migrated_copy, start_postgres, stop_postgres

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".local"
LOCALAWS = "localaws"
# What Airflow itself reports of each, in /api/v2/monitor/health.
_HEALTH_KEYS = {
    "scheduler": "scheduler",
    "dag-processor": "dag_processor",
    "triggerer": "triggerer",
}
# -P: without it the project's root would be importable to DAGs, which it is not in production.
_AIRFLOW_COMMAND = [sys.executable, "-P", "-m", "airflow"]
# --skip-serve-logs: all components read the same folder, and the log servers would listen on every
# address of the machine.
_AIRFLOW = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
# Who signs and who checks a task's identity. Whoever reads that secret can call the API as anybody,
# so the two that run DAG files' and triggers' code do not get it. LocalExecutor's tasks are the
# scheduler's children: from them it cannot be kept.
_SIGNING = frozenset({"api-server", "scheduler"})
# Airflow's history, and what it refers to.
_HISTORY = ("postgres", "airflow", "localaws")
_AIRFLOW_PATIENCE = 8.0  # seconds; a running task's on_kill gets 5 of them
_LOCALAWS_PATIENCE = 10.0  # seconds; it writes down its state


class StackError(RuntimeError):
    """The local stack could not be started; the message says what to do."""


@dataclass
class Record:
    """What is written down about a stack, for whoever has to end it."""

    airflow_url: str = ""
    localaws_url: str = ""
    components: dict[str, Identity] = field(default_factory=dict)
    embedded_postgres: bool = True
    schema_of: str = ""
    clean: bool = True

    @classmethod
    def read(cls, home: Path) -> Record | None:
        """Read the record of a home; None when nothing was ever started there."""
        path = home / "stack.json"
        if not path.exists():
            return None
        content = json.loads(path.read_text())
        identities = {name: Identity(**each) for name, each in content.pop("components").items()}
        return cls(components=identities, **content)

    def write(self, home: Path) -> None:
        """Write it down; a reader sees the old one or the new one."""
        path = home / "stack.json"
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n")
        unfinished.replace(path)

    def living(self) -> list[str]:
        """Name the components that run."""
        return [name for name, identity in self.components.items() if identity.is_alive()]


class Stack:
    """PostgreSQL, localaws and Airflow, as processes of their own.

    :param root: the project.
    :param home: folder for the state, the logs and the secrets; kept between two starts.
    :param airflow_port: port of the UI and REST API; 0 takes a free one.
    :param localaws_port: port of localaws; 0 takes a free one.
    :param dags_folders: folders with DAG files; the project's own if none are given.
    :param environ: settings of Airflow on top of airflow.env.
    :param localaws_environ: settings of localaws (``LOCALAWS_*``).
    :param database_url: SQLAlchemy address of a PostgreSQL to use in place of the embedded one.
    :param say: takes each line of progress.
    """

    def __init__(
        self,
        root: Path,
        home: Path,
        airflow_port: int = 0,
        localaws_port: int = 0,
        *,
        dags_folders: Sequence[Path] = (),
        environ: Mapping[str, str] | None = None,
        localaws_environ: Mapping[str, str] | None = None,
        database_url: str | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.root = root
        self.home = home.resolve()
        self.processes: dict[str, Component] = {}
        self.environ: dict[str, str] = {}
        self._ports = airflow_port, localaws_port
        self._dags_folders = [folder.resolve() for folder in dags_folders] or [root / "dags"]
        self._extra = dict(environ or {})
        self._localaws_extra = dict(localaws_environ or {})
        self._database_url = database_url
        self._say = say
        self._record = Record()
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._signal_before: object = None
        self._rest: AirflowRest | None = None

    # As a library: with Stack(...) as stack

    def __enter__(self) -> Stack:
        """Start it, under a watchdog that ends it should this process be killed."""
        self._end_on_sigterm()
        self.home.mkdir(parents=True, exist_ok=True)
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "scripts.watchdog", str(self.home)],
            cwd=self.root,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all of it, and the watchdog."""
        try:
            self.stop()
        finally:
            if self._watchdog and self._watchdog.stdin:
                self._watchdog.stdin.close()
                self._watchdog.wait(timeout=60)
            if callable(self._signal_before) or isinstance(self._signal_before, signal.Handlers):
                signal.signal(signal.SIGTERM, self._signal_before)

    def _end_on_sigterm(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._signal_before = signal.signal(signal.SIGTERM, _exit_on_signal)

    @property
    def airflow_url(self) -> str:
        """Address of the UI and the REST API."""
        return self._record.airflow_url

    @property
    def localaws_url(self) -> str:
        """Address of AWS on this machine."""
        return self._record.localaws_url

    @property
    def logs(self) -> Path:
        """Folder with one log for each process."""
        return self.home / "logs"

    @property
    def password(self) -> str:
        """The password of ``admin``."""
        return keep_secrets(self.home).admin_password

    @property
    def rest(self) -> AirflowRest:
        """Airflow's REST API, logged in as ``admin``."""
        if self._rest is None or self._rest.base_url != self.airflow_url:
            self._rest = AirflowRest(self.airflow_url, ADMIN, self.password)
        return self._rest

    # Start

    def start(self, timeout: float = 180) -> None:
        """Start all of it and wait until it is healthy; what was left of an earlier one is ended.

        :param timeout: seconds for Airflow to become healthy.
        :raises StackError: when a port is taken, or with the log of the process that died.
        """
        self._clear_up_before()
        started = time.monotonic()
        places = self._choose_places()
        self._record = Record(
            places.airflow_url,
            places.localaws_url,
            embedded_postgres=self._database_url is None,
            schema_of=self._record.schema_of,
            clean=False,
        )
        self._record.write(self.home)
        self._start_localaws(places)
        self.environ = self._with_database(places)
        for name, arguments in _AIRFLOW.items():
            environ = dict(self.environ)
            if name not in _SIGNING:
                del environ[JWT_SECRET]
            self._run(name, [*_AIRFLOW_COMMAND, *arguments], environ)
        self.wait_healthy(timeout)
        self._say(f"all healthy after {time.monotonic() - started:.0f} s")

    def _clear_up_before(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        before = Record.read(self.home)
        if before is None:
            return
        if before.living():
            self._say(f"ending what was left of an earlier start: {', '.join(before.living())}")
            stop_recorded(self.home)
            before = Record.read(self.home) or before
        self._record.schema_of = before.schema_of
        if not before.clean:
            self._set_history_aside()

    def _set_history_aside(self) -> None:
        """Move away a history whose localaws ended without writing down its state."""
        if self._database_url:
            raise StackError(
                "localaws did not stop cleanly, so the runs in the configured database refer to"
                " clusters and buckets that are gone. Empty it (airflow db reset) and remove"
                f" {self.home / 'stack.json'}."
            )
        stop_postgres(self.home / "postgres")
        aside = self.home / "set-aside"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for name in _HISTORY:
            if (self.home / name).exists():
                (self.home / name).rename(aside / name)
        self._say(
            "localaws did not stop cleanly the last time: its data are incomplete, so Airflow's"
            f" history starts anew. The old one is in {aside}."
        )

    def _choose_places(self) -> Places:
        airflow_port, localaws_port = (port or free_port() for port in self._ports)
        refuse_taken_port(airflow_port, "AIRFLOW_PORT")
        refuse_taken_port(localaws_port, "LOCALAWS_PORT")
        return Places(
            root=self.root,
            home=self.home,
            dags_folders=self._dags_folders,
            database_url=self._database_url or "sqlite://",  # replaced by the embedded one's
            airflow_port=airflow_port,
            scheduler_health_port=free_port(),
            localaws_port=localaws_port,
        )

    def _start_localaws(self, places: Places) -> None:
        data = self.home / "localaws"
        command = [sys.executable, "-m", "localaws", "--port", str(places.localaws_port)]
        environ = {**own_environment(os.environ), **self._localaws_extra}
        self._run(LOCALAWS, [*command, "--data", str(data)], environ)

    def _with_database(self, places: Places) -> dict[str, str]:
        """Give the environment with a database in it that has Airflow's schema."""
        environ = {
            **local_environment(places, keep_secrets(self.home), os.environ),
            **self._extra,
        }
        (self.home / "airflow").mkdir(exist_ok=True)
        if self._database_url is None:
            data = self.home / "postgres"
            new = not (data / "PG_VERSION").exists()
            migrated_copy(data, self.root / ".cache", environ)
            environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = start_postgres(data)
            if new:
                self._record.schema_of = version("apache-airflow-core")
        if self._record.schema_of != version("apache-airflow-core"):
            self._migrate(environ)
        self._record.write(self.home)
        return environ

    def _migrate(self, environ: Mapping[str, str]) -> None:
        self._say("bringing the database to this Airflow's schema")
        result = subprocess.run(
            [*_AIRFLOW_COMMAND, "db", "migrate"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode:
            raise StackError(f"airflow db migrate failed:\n{result.stdout[-3000:]}")
        self._record.schema_of = version("apache-airflow-core")

    def _run(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        log = self.logs / f"{name}.log"
        component = Component(name, command, environ, log, self.root, on_start=self._write_down)
        self.processes[name] = component
        component.start()

    def _write_down(self, component: Component) -> None:
        self._record.components[component.name] = component.identity
        self._record.write(self.home)

    # Health

    def wait_healthy(self, timeout: float = 120) -> None:
        """Wait until all processes answer for themselves, with a heartbeat since their start.

        :raises StackError: with the log of what died or is late.
        """
        deadline = time.monotonic() + timeout
        while unwell := self.unwell():
            dead = [name for name, each in self.processes.items() if not each.is_alive()]
            if dead or time.monotonic() > deadline:
                raise StackError(self._complaint(dead or unwell, dead=bool(dead)))
            time.sleep(0.5)

    def unwell(self) -> list[str]:
        """Name the processes that are not (yet) healthy."""
        unwell = {name for name, each in self.processes.items() if not each.is_alive()}
        if not self._localaws_is_ready():
            unwell.add(LOCALAWS)
        try:
            health = self.rest.health()
        except httpx.HTTPError:
            return sorted(unwell | set(_AIRFLOW))
        late = {name for name, key in _HEALTH_KEYS.items() if not self._beats(name, health[key])}
        return sorted(unwell | late)

    def _beats(self, name: str, said: Mapping[str, str | None]) -> bool:
        """Tell whether a heartbeat is of this start: the database remembers those of the last."""
        beat = said.get(f"latest_{_HEALTH_KEYS[name]}_heartbeat")
        if said["status"] != "healthy" or beat is None:
            return False
        component = self.processes.get(name)
        return component is None or datetime.fromisoformat(beat).timestamp() > component.started_at

    def _localaws_is_ready(self) -> bool:
        try:
            said = httpx.get(f"{self.localaws_url}/localaws/health", timeout=5, trust_env=False)
        except httpx.HTTPError:
            return False
        return said.is_success and said.json()["status"] == "ok"

    def _complaint(self, names: Sequence[str], *, dead: bool) -> str:
        logs = "\n".join(
            f"--- {self.logs / name}.log\n{tail(self.logs / f'{name}.log', 25)}" for name in names
        )
        what = "ended by itself" if dead else "did not become healthy"
        return f"{', '.join(names)} {what}.\n{logs}"

    # Stop

    def stop(self) -> None:
        """End all of it, at the latest after some 20 seconds."""
        stop_recorded(self.home)
        for component in self.processes.values():
            component.exit_code()  # lets the system forget our child
        if self._rest:
            self._rest.close()
            self._rest = None


def stop_recorded(home: Path) -> bool:
    """End what is written down in a home, and note whether localaws could write down its state.

    :returns: whether anything was running.
    """
    record = Record.read(home)
    if record is None:
        return False
    living = record.living()
    of_airflow = [each for name, each in record.components.items() if name != LOCALAWS]
    end_all(of_airflow, _AIRFLOW_PATIENCE)
    if identity := record.components.get(LOCALAWS):
        was_alive = identity.is_alive()
        ended_itself = end_all([identity], _LOCALAWS_PATIENCE)
        record.clean = record.clean or (was_alive and ended_itself)
    if record.embedded_postgres:
        stop_postgres(home / "postgres")
    record.components = {}
    record.write(home)
    return bool(living)


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def free_port() -> int:
    """Find a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refuse_taken_port(port: int, name: str) -> None:
    """Refuse a port that somebody listens on, and say who.

    :param name: the variable of `make` that chooses another one.
    :raises StackError: when it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"port {port} is taken{_who_listens(port)}: {error.strerror}."
                f" Take another one: make up {name}={port + 1}"
            ) from error


def _who_listens(port: int) -> str:
    try:
        listeners = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.laddr and connection.laddr.port == port and connection.pid
        ]
        return f" by process {listeners[0]} ({psutil.Process(listeners[0]).name()})"
    except (psutil.Error, IndexError):  # the system does not tell everybody
        return ""


# Commands of `make`


def up(stack: Stack) -> None:
    """Start the stack in the background and say where everything is."""
    record = Record.read(stack.home)
    if record and len(record.living()) == len(_AIRFLOW) + 1:
        print("already up")
        status(stack.home)
        return
    try:
        stack.start()
    except BaseException:
        stop_recorded(stack.home)
        raise
    print(
        f"Airflow    {stack.airflow_url}  (user {ADMIN}, password {stack.password})\n"
        f"localaws   {stack.localaws_url}  (AWS_ENDPOINT_URL)\n"
        f"password   also in {passwords_file(stack.home)}\n"
        f"logs       {stack.logs}; of tasks {stack.home / 'airflow' / 'logs'}\n"
        "stop       make down"
    )


def down(home: Path) -> None:
    """End what `up` started."""
    started = time.monotonic()
    if stop_recorded(home):
        print(f"down after {time.monotonic() - started:.0f} s; history and data are in {home}")
    else:
        print("nothing was running")


def status(home: Path) -> bool:
    """Print each process's health; tell whether all is well."""
    record = Record.read(home)
    if record is None or not record.components:
        print("down (make up starts it)")
        return False
    stack = Stack(ROOT, home)
    stack._record = record
    unwell = set(stack.unwell())
    for name, identity in record.components.items():
        state = "dead" if not identity.is_alive() else "unwell" if name in unwell else "healthy"
        since = datetime.fromtimestamp(identity.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        print(f"{name:14} {state:8} pid {identity.pid:<8} since {since}  {stack.logs / name}.log")
    if record.embedded_postgres:
        state = "healthy" if is_running(home / "postgres") else "dead"
        print(f"{'postgres':14} {state:8} {home / 'postgres' / 'log'}")
    print(f"Airflow {record.airflow_url}  localaws {record.localaws_url}")
    return not unwell and len(record.living()) == len(record.components)


def main() -> None:
    """Run one command of `make`."""
    parser = argparse.ArgumentParser(description="Airflow, localaws and PostgreSQL here.")
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--home", type=Path, default=HOME, help="state, logs and secrets")
    parser.add_argument("--airflow-port", type=int, default=8080)
    parser.add_argument("--localaws-port", type=int, default=4570)
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    if arguments.command == "down":
        return down(home)
    if arguments.command == "status":
        sys.exit(0 if status(home) else 1)
    stack = Stack(
        ROOT,
        home,
        arguments.airflow_port,
        arguments.localaws_port,
        database_url=os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"),
        say=lambda line: print(line, flush=True),
    )
    try:
        up(stack)
    except StackError as error:
        sys.exit(f"make up: {error}")


if __name__ == "__main__":
    main()
