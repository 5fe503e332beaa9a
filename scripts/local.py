"""The local stack in the background: what `make up`, `make down` and `make status` call.

python -m scripts.local up|down|status
python -m scripts.local airflow backfill create --dag-id emr_daily_etl ...
python -m scripts.local samples show
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import psutil

from scripts.local_env import ADMIN, passwords_file
from scripts.ports import PortTakenError
from scripts.postgres import PostgresError, is_running
from scripts.stack import ROOT, Stack, StackError
from scripts.stack_record import stop_recorded

HOME = ROOT / ".local"
DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
# The year that the DAGs find raw data of.
DAYS = "2013-01-01..2013-12-31"
# Command lines that work on what is up.
MODULES = {"airflow": "airflow", "samples": "aws_jobs.sample_tools"}


def main() -> None:
    """Run one command of `make`."""
    if sys.argv[1:2] and sys.argv[1] in MODULES:
        run_module(HOME, MODULES[sys.argv[1]], sys.argv[2:])
    parser = argparse.ArgumentParser(description="Airflow, localaws and PostgreSQL here.")
    parser.add_argument("command", choices=["up", "down", "status", *MODULES])
    parser.add_argument("--home", type=Path, default=HOME, help="state, logs and secrets")
    parser.add_argument("--airflow-port", type=int, default=8080)
    parser.add_argument("--localaws-port", type=int, default=4570)
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    if arguments.command == "down":
        down(home)
    elif arguments.command == "status":
        sys.exit(0 if status(home) else 1)
    else:
        try:
            up(home, arguments.airflow_port, arguments.localaws_port)
        except (StackError, PortTakenError, PostgresError) as error:
            sys.exit(f"make up: {error}")


def up(home: Path, airflow_port: int, localaws_port: int) -> None:
    """Start the stack in the background, fill the bucket, and say where everything is.

    A PostgreSQL of your own is used when ``AIRFLOW__DATABASE__SQL_ALCHEMY_CONN`` names one.
    """
    running = Stack.attach(ROOT, home)
    if running and not running.unwell():
        print("already up")
        describe(running)
        return
    stack = Stack(
        ROOT, home, airflow_port, localaws_port, database_url=os.environ.get(DATABASE), say=say
    )
    try:
        stack.start()
        fill_bucket(stack)
    except BaseException:
        stop_recorded(home)
        raise
    describe(stack)


def fill_bucket(stack: Stack) -> None:
    """Put what the DAGs work on where they expect it; what is there stays."""
    settings = json.loads(stack.environ["AIRFLOW_VAR_AWS_JOBS"])
    bucket, table = settings["bucket"], settings["genomics"]["samples_table"]
    run_seed(stack, "scripts.seed_flights", "--bucket", bucket, "--days", DAYS)
    say(f"s3://{bucket} holds raw flights of {DAYS} and the Spark jobs")
    run_seed(stack, "scripts.seed_genomes", "--bucket", bucket, "--table", table)
    say(f"s3://{bucket} holds a reference and samples, which {table} lists")


def run_seed(stack: Stack, module: str, *arguments: str) -> None:
    """Let a seeding script fill the stack's bucket.

    :raises StackError: with what it said when it failed.
    """
    result = subprocess.run(
        [sys.executable, "-m", module, "--upload", *arguments],
        cwd=ROOT,
        env=stack.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise StackError(f"the bucket could not be filled: {result.stderr.strip()[-2000:]}")


def describe(stack: Stack) -> None:
    """Say where everything is."""
    print(
        f"Airflow    {stack.airflow_url}  (user {ADMIN}, password {stack.password})\n"
        f"password   also in {passwords_file(stack.home)}\n"
        f"localaws   {stack.localaws_url}  (AWS_ENDPOINT_URL)\n"
        f"logs       {stack.logs}; of tasks {stack.home / 'airflow' / 'logs'}\n"
        "next       make status, make down"
    )


def run_module(home: Path, module: str, arguments: Sequence[str]) -> NoReturn:
    """Run a command-line module with the environment that the scheduler was started with."""
    stack = Stack.attach(ROOT, home)
    scheduler = stack and stack.record.components.get("scheduler")
    if not scheduler or not scheduler.is_alive():
        sys.exit("Airflow is not up; make up starts it")
    environ = {**psutil.Process(scheduler.pid).environ(), "PYTHONPATH": str(ROOT / "plugins")}
    command = [sys.executable, "-P", "-m", module, *arguments]
    sys.exit(subprocess.run(command, env=environ, check=False).returncode)


def down(home: Path) -> None:
    """End what `up` started."""
    started = time.monotonic()
    if stop_recorded(home):
        print(f"down after {time.monotonic() - started:.0f} s; history and data stay in {home}")
    else:
        print("nothing was running")


def status(home: Path) -> bool:
    """Print each process's health; tell whether all is well."""
    stack = Stack.attach(ROOT, home)
    if stack is None:
        print("down; make up starts it")
        return False
    unwell = set(stack.unwell())
    for name, identity in stack.record.components.items():
        state = "dead" if not identity.is_alive() else "unwell" if name in unwell else "healthy"
        since = datetime.fromtimestamp(identity.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        line(name, state, stack.logs / f"{name}.log", f"pid {identity.pid} since {since}")
    if stack.record.embedded_postgres:
        data = home / "postgres"
        line("postgres", "healthy" if is_running(data) else "dead", data / "log", "")
    print(f"Airflow {stack.airflow_url}  localaws {stack.localaws_url}")
    return not unwell and all(each.is_alive() for each in stack.record.components.values())


def line(name: str, state: str, log: Path, more: str) -> None:
    """Print one process's line."""
    print(f"{name:14} {state:8} {more:40} {log}")


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
