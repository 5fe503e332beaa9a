"""The local stack, for real: it ends with its owner, and its history lives with its data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from scripts.local_env import JWT_SECRET
from scripts.stack import ROOT, Stack
from scripts.stack_record import stop_recorded

pytestmark = [pytest.mark.stack, pytest.mark.slow]

OWNER = """
import pathlib, sys, time
from scripts.stack import ROOT, Stack
with Stack(ROOT, pathlib.Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("stack")
    yield home
    stop_recorded(home)


def until(reached: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def left_of(home: Path) -> list[str]:
    """List what runs with a path of this home in its command or its environment."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE or process.info["pid"] == os.getpid():
            continue
        try:
            where = " ".join([*(process.info["cmdline"] or []), *process.environ().values()])
        except psutil.Error:
            continue
        if str(home) in where:
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def test_nothing_is_left_when_its_owner_is_killed(home):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "up\n"
        stack = Stack.attach(ROOT, home)
        assert stack
        assert len(stack.record.living()) == 5
        assert len(left_of(home)) > 5
        stack.rest.wait_for_dags({"emr_daily_etl"})
        stack.rest.trigger("emr_daily_etl", run_id="kept", conf={"day": "2013-01-01"})

        owner.kill()

    until(lambda: left_of(home) == [], seconds=30)
    assert stack.record.living() == []


def test_history_goes_on_in_the_next_start_and_a_component_can_be_restarted_alone(home):
    with Stack(ROOT, home) as stack:
        assert not (home / "set-aside").exists()
        assert [run["dag_run_id"] for run in stack.rest.runs("emr_daily_etl")] == ["kept"]
        stack.rest.wait_for_dags({"emr_daily_etl"})
        assert stack.rest.import_errors() == {}
        assert httpx.get(f"{stack.localaws_url}/localaws/health").json()["seeded"] is True
        assert stack.rest.call("GET", "/pools/batch_submissions")["slots"] == 32
        assert JWT_SECRET not in stack.processes["triggerer"].environ
        assert JWT_SECRET in stack.processes["scheduler"].environ

        stack.processes["triggerer"].kill()
        assert stack.unwell() == ["triggerer"]
        stack.processes["triggerer"].restart()
        stack.wait_healthy()

        os.kill(stack.processes["localaws"].pid, signal.SIGKILL)

    assert left_of(home) == []


def test_a_history_without_its_data_is_set_aside(home):
    said: list[str] = []

    Stack(ROOT, home, say=said.append).clear_up()

    assert [line for line in said if "history starts anew" in line]
    assert (home / "set-aside" / "postgres" / "PG_VERSION").exists()
    # What the next start finds is what the first one found.
    assert {path.name for path in home.iterdir()} & {"postgres", "airflow", "localaws"} == set()
