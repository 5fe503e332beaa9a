"""The whole thing on this machine: PostgreSQL, localaws and Airflow's four components.

Gone when the block ends, however it ends (`make demo`, the tests):

    with Stack(ROOT, home) as stack:
        run_id = stack.rest.trigger("emr_daily_etl")

In the background until `make down`: :mod:`scripts.local`.

Airflow's history and what localaws stores live and die together: a history without its clusters and
buckets would wait for ids that nobody knows.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import httpx

from scripts.airflow_rest import AirflowRest
from scripts.component import Component, tail
from scripts.local_env import (
    ADMIN,
    JWT_SECRET,
    Places,
    keep_secrets,
    local_environment,
    own_environment,
)
from scripts.ports import free_port, refuse_taken_port
from scripts.postgres import migrated_copy, start_postgres, stop_postgres
from scripts.stack_record import LOCALAWS, Record, stop_recorded, why_data_are_lost

ROOT = Path(__file__).resolve().parent.parent
# In the form of `airflow pools import`.
POOLS = "airflow-pools.json"
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


class StackError(RuntimeError):
    """The local stack could not be started; the message says what to do."""


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

    @classmethod
    def attach(cls, root: Path, home: Path) -> Stack | None:
        """Look at a stack that another process started; None when none is up."""
        record = Record.read(home)
        if record is None or not record.components:
            return None
        stack = cls(root, home)
        stack._record = record
        return stack

    @property
    def record(self) -> Record:
        """What is written down about it."""
        return self._record

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

    def client(self, service: str) -> Any:
        """Give a boto3 client of its localaws."""
        import boto3

        session: Any = boto3.session.Session()  # Any: types know each service by its name only
        return session.client(
            service,
            endpoint_url=self.localaws_url,
            region_name=self.environ["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["AWS_SECRET_ACCESS_KEY"],
        )

    # Start

    def start(self, timeout: float = 180) -> None:
        """Start all of it and wait until it is healthy; what was left of an earlier one is ended.

        :param timeout: seconds for Airflow to become healthy.
        :raises StackError: with the log of what died or is late.
        :raises PortTakenError: when somebody else listens there.
        """
        self.clear_up()
        started = time.monotonic()
        places = self._choose_places()
        self._record = Record(
            places.airflow_url,
            places.localaws_url,
            embedded_postgres=self._database_url is None,
            schema_of=self._record.schema_of,
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
        self.rest.set_pools(json.loads((self.root / POOLS).read_text()))
        self._say(f"all healthy after {time.monotonic() - started:.0f} s")

    def clear_up(self) -> None:
        """End what is left of an earlier start; set a history aside that has lost its data."""
        self.home.mkdir(parents=True, exist_ok=True)
        before = Record.read(self.home)
        if before is None:
            return
        if before.living():
            self._say(f"ending what was left of an earlier start: {', '.join(before.living())}")
            stop_recorded(self.home)
            before = Record.read(self.home) or before
        self._record.schema_of = before.schema_of
        anything = any((self.home / name).exists() for name in _HISTORY)
        if anything and (reason := why_data_are_lost(self.home / LOCALAWS)):
            self._set_history_aside(reason)

    def _set_history_aside(self, reason: str) -> None:
        """Move away a history that refers to data which are not there any more."""
        if self._database_url:
            raise StackError(
                f"{reason}, so the runs in the configured database refer to clusters and objects"
                " that are gone. Empty it (airflow db reset) and remove"
                f" {self.home / 'stack.json'} and {self.home / LOCALAWS}."
            )
        stop_postgres(self.home / "postgres")
        aside = self.home / "set-aside"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for name in _HISTORY:
            if (self.home / name).exists():
                (self.home / name).rename(aside / name)
        self._say(f"{reason}, so Airflow's history starts anew. The old one is in {aside}.")

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
        """End all of it, at the latest after some 40 seconds."""
        stop_recorded(self.home)
        for component in self.processes.values():
            component.exit_code()  # lets the system forget our child
        if self._rest:
            self._rest.close()
            self._rest = None


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
