"""One whole Airflow with its AWS, for all tests of the session."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from scripts import seed_flights
from scripts.local_env import read_env_file
from scripts.stack import ROOT, Stack
from tests.e2e.harness import BUCKET, Case, World, table

HERE = Path(__file__).parent
DAGS = (
    *("emr_daily_etl", "emr_step_sensors", "genomics_mapping", "genomics_graviton_benchmark"),
    *("daily_by_bash", "which_day", "which_day_too"),
)
FIRST_DAY, LAST_DAY = date(2013, 1, 1), date(2013, 1, 9)

# What waits in a test waits in vain: localaws lists at once and has all the data it will have.
WAITS = {"lookup_grace_seconds": 1, "input_wait_seconds": 3, "log_wait_seconds": 10}

# Exits with 1 in the first tries of the task, $2 of them.
BOOTSTRAP = b"""#!/bin/bash
echo "bootstrap: try $1, of which $2 fail" >&2
[ "$1" -gt "$2" ]
"""

_CASES = pytest.StashKey[list[Case]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_CASES] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.stack)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    cases = config.stash[_CASES]
    if not cases:
        return
    text = table(cases)
    terminalreporter.section("what ran, what was started, what was left")
    terminalreporter.write_line(text)
    if report := os.environ.get("E2E_REPORT"):
        Path(report).write_text(f"{text}\n")


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL, localaws and Airflow's processes, with the project's DAGs and the tests' own.

    Not below pytest's own folder: started by root, PostgreSQL runs as another user, from whom the
    next pytest that starts on this machine would close it.
    """
    settings = json.loads(read_env_file(ROOT / "airflow.env")["AIRFLOW_VAR_AWS_JOBS"])
    with (
        tempfile.TemporaryDirectory(prefix="airflow-e2e-") as home,
        Stack(
            ROOT,
            Path(home),
            dags_folders=[ROOT / "dags", HERE / "dags"],
            environ={"AIRFLOW_VAR_AWS_JOBS": json.dumps(settings | WAITS)},
        ) as stack,
    ):
        yield stack


@pytest.fixture(scope="session")
def source_rows(stack: Stack, pytestconfig: pytest.Config) -> dict[str, int]:
    """The days that were uploaded, real flights, with their rows as the source has them."""
    s3 = World(stack, []).client("s3")
    flights = seed_flights.download(seed_flights.CACHE)
    seed_flights.upload_jobs(s3, BUCKET)
    s3.put_object(Bucket=BUCKET, Key="code/e2e/bootstrap.sh", Body=BOOTSTRAP)
    uploaded = seed_flights.upload(s3, BUCKET, flights, FIRST_DAY, LAST_DAY)
    return {Path(key).stem: rows for key, rows in uploaded}


@pytest.fixture(scope="session")
def _unpaused(stack: Stack) -> None:
    stack.rest.wait_for_dags(DAGS)
    for dag_id in DAGS:
        stack.rest.set_paused(dag_id, False)


@pytest.fixture(scope="session")
def world(
    stack: Stack, source_rows: dict[str, int], _unpaused: None, pytestconfig: pytest.Config
) -> Iterator[World]:
    """The stack, with data, and its DAGs unpaused; runs that nobody awaited end with it."""
    world = World(stack, pytestconfig.stash[_CASES])
    yield world
    for case in list(world.under_way):
        world.end(case)
    _assert_none_left(world)


@pytest.fixture(autouse=True)
def _nothing_is_left(world: World) -> Iterator[None]:
    """Whatever a test did: at its end no cluster or job lives but those of runs that go on."""
    yield
    _assert_none_left(world)


def _assert_none_left(world: World) -> None:
    left = [*world.left_running(), *world.jobs_left_running()]
    assert not left, f"left running: {[(each['id'], each['name']) for each in left]}"
