"""What is submitted again after items failed, and how."""

from __future__ import annotations

import json

import pytest

from aws_jobs.batch_attempts import Attempt
from aws_jobs.batch_progress import Escalation, Progress
from aws_jobs.verdicts import FailureClass
from tests.plugins.harness import TaskStateStore

ESCALATION = Escalation(memory_factor=1.5, memory_cap_mib=4000, queues=2)


def end(failure: str | None = None, memory_mib: int | None = 1000) -> list[Attempt]:
    outcome = "failed" if failure else "succeeded"
    return [Attempt("job", "queue", outcome, failure=failure, memory_mib=memory_mib)]


def after(progress: Progress, **ends: str | None) -> Progress:
    return progress.after("job", {name: end(failure) for name, failure in ends.items()}, ESCALATION)


def test_what_succeeded_is_done_and_what_failed_waits_for_the_next_try() -> None:
    progress = after(Progress(0, ("a", "b", "c")), a=None, b="application", c="cancelled")

    assert (dict(progress.done), progress.pending) == ({"a": "job"}, ())
    assert progress.failed == ("b", "c")
    assert progress.next_try().pending == ("b", "c")


@pytest.mark.parametrize("failure", ["image", "input", "stuck", "timeout"])
def test_what_no_attempt_can_help_is_given_up(failure: str) -> None:
    progress = after(Progress(0, ("a",)), a=failure)

    assert (progress.given_up, progress.next_try().pending) == (("a",), ())


def test_memory_grows_by_the_factor_up_to_the_cap() -> None:
    progress, given = Progress(0, ("a",)), 2000
    asked = []
    while progress.pending:
        ends = {"a": end("memory", given)}
        progress = progress.after("job", ends, ESCALATION)
        if progress.pending:
            given = progress.memory_mib or 0
            asked.append(given)

    assert asked == [3000, 4000]
    assert progress.given_up == ("a",)


def test_without_a_cap_memory_does_not_grow() -> None:
    progress = Progress(0, ("a",)).after("job", {"a": end("memory")}, Escalation())

    assert (progress.pending, progress.given_up) == ((), ("a",))


def test_after_two_losses_the_next_queue_is_taken_and_after_six_the_task_fails() -> None:
    progress = Progress(0, ("a", "b"))
    queues = []
    while progress.pending:
        progress = after(progress, **dict.fromkeys(progress.pending, "capacity"))
        queues.append(progress.queue)

    assert queues[:5] == [0, 1, 1, 1, 1]
    assert len(queues) == 6
    assert progress.failed == ("a", "b")


def test_losses_count_for_each_item() -> None:
    progress = after(Progress(0, ("a", "b")), a="capacity", b="capacity")

    assert progress.queue == 0


def test_a_lost_job_runs_once_more() -> None:
    once = after(Progress(0, ("a",)), a="lost")
    twice = after(once, a="lost")

    assert (once.pending, twice.pending, twice.failed) == (("a",), (), ("a",))


def test_it_survives_the_state_store() -> None:
    progress = after(Progress(3, ("a", "b")), a="memory", b="input")
    store = TaskStateStore()

    progress.remember(store)
    store.values = json.loads(json.dumps(store.values))

    assert Progress.recall(store) == progress


def test_each_class_has_a_place() -> None:
    classes = [f for f in FailureClass if f not in {"bootstrap", "cluster lost", "refused"}]
    for failure in classes:
        progress = after(Progress(0, ("a",)), a=failure)
        assert (*progress.pending, *progress.failed, *progress.given_up) == ("a",)


def test_what_was_given_up_is_tried_again_when_the_run_was_cleared_meanwhile() -> None:
    progress = after(Progress(0, ("a", "b"), clear_number=1), a="input", b="application")

    assert progress.next_try(1).pending == ("b",)
    assert progress.next_try(2).pending == ("b", "a")


def test_a_factor_that_gives_no_more_memory_gives_none() -> None:
    assert Escalation(memory_factor=1.0, memory_cap_mib=4000).more_memory(2000) is None
