"""A process of the local stack ends with everything that it started, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from scripts.component import Component, Identity, end_all

PATIENT = 5.0


@pytest.fixture
def component(tmp_path: Path) -> Iterator[Callable[[str], Component]]:
    made: list[Component] = []

    def start(script: str) -> Component:
        it = Component("it", ["bash", "-c", script], os.environ, tmp_path / "it.log", tmp_path)
        made.append(it)
        it.start()
        until(lambda: "up" in it.tail())
        return it

    yield start
    for it in made:
        it.kill()


def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def sleepers(seconds: int) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["cmdline"] == ["sleep", str(seconds)]
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_what_it_started_ends_with_it_also_what_left_its_session(component):
    it = component("sleep 98761 & setsid sleep 98762 & echo up; wait")
    until(lambda: len(sleepers(98761) + sleepers(98762)) == 2)

    it.stop(PATIENT)

    assert not it.is_alive()
    assert sleepers(98761) + sleepers(98762) == []


def test_what_does_not_listen_is_killed_after_the_patience(component):
    it = component("trap '' TERM; echo up; while true; do sleep 0.1; done")

    started = time.monotonic()
    ended_by_itself = end_all([it.identity], patience=0.5)

    assert not ended_by_itself
    assert 0.5 <= time.monotonic() - started < 5
    assert it.exit_code() == -signal.SIGKILL


def test_what_listens_ends_by_itself(component):
    it = component("trap 'exit 0' TERM; echo up; while true; do sleep 0.05; done")

    assert end_all([it.identity], PATIENT)
    assert it.exit_code() == 0


def test_the_rest_is_found_when_the_first_process_is_dead(component):
    it = component("sleep 98763 & echo up; wait")
    until(lambda: sleepers(98763))
    os.kill(it.pid, signal.SIGKILL)
    until(lambda: not it.is_alive())

    it.stop(PATIENT)

    assert sleepers(98763) == []


def test_a_stranger_under_a_remembered_pid_is_left_alone():
    with subprocess.Popen(["sleep", "98764"], start_new_session=True) as stranger:
        remembered = Identity(stranger.pid, started=Identity.of(stranger.pid).started - 3600)

        assert not remembered.is_alive()
        assert remembered.session() == []
        assert end_all([remembered], patience=0.2)
        assert stranger.poll() is None
        stranger.kill()


def test_a_restart_is_another_process_that_is_told_of_and_goes_on_with_the_log(tmp_path):
    told: list[int] = []
    it = Component(
        "it",
        [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"],
        os.environ,
        tmp_path / "logs" / "it.log",
        tmp_path,
        on_start=lambda component: told.append(component.pid),
    )
    it.start()
    first = it.pid
    until(lambda: str(first) in it.tail())

    it.restart()
    until(lambda: str(it.pid) in it.tail())
    it.kill()

    assert told == [first, it.pid]
    assert it.tail().split() == [str(first), str(it.pid)]
    assert not it.is_alive()


def test_one_that_was_never_started_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="it was never started"):
        _ = Component("it", ["true"], {}, tmp_path / "it.log", tmp_path).pid
