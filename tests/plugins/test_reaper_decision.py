"""What is ended, and above all what is not: a row each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aws_jobs.identity import TAG_ENDS_BY, RunKey
from aws_jobs.reaper_decision import (
    Action,
    Judgement,
    Kind,
    LiveJob,
    Owner,
    judge_by_owner,
    judge_by_tags,
    judge_by_users,
    judge_lifetime,
)

NOW = datetime(2013, 1, 2, 12, tzinfo=UTC)
GRACE = timedelta(minutes=10)
KEY = RunKey("local", "etl", "manual__1", "create", -1)
CLUSTER, JOB = Kind.CLUSTER, Kind.BATCH_JOB


def live(name: str = f"daily [{KEY.digest}]", **tags: str) -> LiveJob:
    return LiveJob(CLUSTER, "j-1", name, "WAITING", {**KEY.tags, **tags})


@pytest.mark.parametrize(
    ("ends_by", "action"),
    [
        ("2013-01-02T11:59:59Z", Action.END_NOW),
        ("2013-01-02T13:59:59+02:00", Action.END_NOW),
        ("2013-01-02T12:00:01Z", None),
        # Nobody knows in which zone.
        ("2013-01-01T00:00:00", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_only_a_time_that_is_up_for_certain_ends_a_job_by_its_tags(
    ends_by: str, action: Action | None
) -> None:
    judgement = judge_by_tags(live(**{TAG_ENDS_BY: ends_by}), NOW)

    assert (judgement and judgement.action) == action


@pytest.mark.parametrize(
    "job",
    [
        live(**{"aws-jobs:run": "manual__2"}),
        live(**{"aws-jobs:attempt": ""}),
        live(name="daily [0123456789abcdef]"),
        LiveJob(CLUSTER, "j-1", live().name, "WAITING", {"aws-jobs:deployment": "local"}),
    ],
)
def test_a_job_whose_tags_are_not_what_its_run_wrote_is_left_alone(job: LiveJob) -> None:
    judgement = judge_by_tags(job, NOW)

    assert judgement is not None
    assert judgement.action is Action.LEAVE


@pytest.mark.parametrize("ends_by", ["2013-01-01T00:00:00", "yesterday", ""])
def test_what_is_needed_and_would_never_end_is_for_a_person_to_look_at(ends_by: str) -> None:
    job = live(**{TAG_ENDS_BY: ends_by})

    assert judge_lifetime(job, KEEP).action is Action.LEAVE
    assert "ends-by does not say" in judge_lifetime(job, KEEP).why
    assert judge_lifetime(job, DELETED) == DELETED
    assert judge_lifetime(live(**{TAG_ENDS_BY: "2013-01-02T12:00:01Z"}), KEEP) == KEEP


ALIVE = ["queued", "running"]
OVER = ["success", "failed", None]
NOT_ACTIVE = ["paused", "removed", "unknown to Airflow"]
TASK_ALIVE = [
    *("awaiting_input", "deferred", "queued", "restarting", "running", "scheduled"),
    *("up_for_reschedule", "up_for_retry", None),
]
TASK_OVER = ["failed", "skipped", "success", "upstream_failed"]


@pytest.mark.parametrize(
    ("kind", "owner", "action"),
    [
        *((kind, Owner("active", run), Action.END) for kind in Kind for run in OVER),
        *((CLUSTER, Owner("active", run), Action.KEEP) for run in ALIVE),
        # A cluster is for its whole run, whatever became of the task that started it.
        *((CLUSTER, Owner("active", run, task="success"), Action.KEEP) for run in ALIVE),
        *((CLUSTER, Owner("active", run, has_task=False), Action.KEEP) for run in ALIVE),
        *((JOB, Owner("active", "running", task=task), Action.KEEP) for task in TASK_ALIVE),
        *((JOB, Owner("active", "running", task=task), Action.END) for task in TASK_OVER),
        (JOB, Owner("active", "running", has_task=False), Action.LEAVE),
        (JOB, Owner("active", "running", task="removed"), Action.LEAVE),
        # States of an Airflow that is newer than this.
        *((kind, Owner("active", "suspended"), Action.LEAVE) for kind in Kind),
        *((kind, Owner("active", ""), Action.LEAVE) for kind in Kind),
        (JOB, Owner("active", "running", task="suspended"), Action.LEAVE),
        *(
            (kind, Owner(dag, run, task="failed"), Action.LEAVE)
            for kind in Kind
            for dag in NOT_ACTIVE
            for run in [*ALIVE, *OVER]
        ),
    ],
)
def test_a_job_is_ended_only_where_its_owner_is_known_to_be_gone(
    kind: Kind, owner: Owner, action: Action
) -> None:
    assert judge_by_owner(kind, owner).action is action


def test_every_state_that_airflow_has_is_judged() -> None:
    from airflow.utils.state import DagRunState, TaskInstanceState

    judged = {*TASK_ALIVE, *TASK_OVER, "removed"}
    assert {state.value for state in TaskInstanceState} == judged - {None}
    assert {state.value for state in DagRunState} == {*ALIVE, *OVER} - {None}


@pytest.mark.parametrize(
    ("judgement", "waits", "is_too_early"),
    [
        (Judgement(Action.END_NOW, ""), False, False),
        (Judgement(Action.END, ""), True, False),
        (Judgement(Action.END, "", NOW - timedelta(minutes=9)), True, True),
        (Judgement(Action.END, "", NOW - timedelta(minutes=10)), False, False),
        # Of an Airflow whose clock is ahead.
        (Judgement(Action.END, "", NOW + timedelta(minutes=1)), True, True),
    ],
)
def test_an_owner_must_have_been_gone_for_the_grace(
    judgement: Judgement, waits: bool, is_too_early: bool
) -> None:
    assert judgement.waits(NOW, GRACE) == waits
    assert judgement.is_too_early(NOW, GRACE) == is_too_early


KEEP = Judgement(Action.KEEP, "its run is running")
LEAVE = Judgement(Action.LEAVE, "its DAG is paused")
GONE = Judgement(Action.END, "its run has ended: failed", NOW - timedelta(hours=1))
JUST_GONE = Judgement(Action.END, "its run has ended: failed", NOW)
DELETED = Judgement(Action.END, "its run was deleted")


@pytest.mark.parametrize(
    ("users", "action", "gone", "gone_since"),
    [
        ([], Action.END, "", None),
        ([KEEP], Action.KEEP, "", None),
        ([LEAVE], Action.LEAVE, "", None),
        ([LEAVE, KEEP], Action.KEEP, "", None),
        ([GONE, KEEP], Action.RELEASE, "0", GONE.gone_since),
        ([LEAVE, GONE], Action.RELEASE, "1", GONE.gone_since),
        ([GONE], Action.END, "0", GONE.gone_since),
        ([JUST_GONE, GONE], Action.END, "01", JUST_GONE.gone_since),
        ([GONE, DELETED], Action.END, "01", None),
    ],
)
def test_a_shared_cluster_is_ended_only_where_all_its_users_are_gone(
    users: list[Judgement], action: Action, gone: str, gone_since: Any
) -> None:
    judgement = judge_by_users({str(number): each for number, each in enumerate(users)})

    assert judgement.action is action
    assert judgement.gone_users == tuple(gone)
    assert judgement.gone_since == gone_since


@pytest.mark.parametrize(
    ("users", "expired", "action"),
    [
        ([KEEP], "0", Action.LEAVE),
        # To release the first would close the cluster under the second.
        ([GONE, KEEP], "1", Action.LEAVE),
        ([GONE, KEEP], "01", Action.LEAVE),
        ([GONE, KEEP], "0", Action.RELEASE),
        ([GONE, KEEP, KEEP], "1", Action.RELEASE),
        ([GONE], "0", Action.END),
    ],
)
def test_a_lease_that_expired_while_its_run_goes_on_ends_nothing(
    users: list[Judgement], expired: str, action: Action
) -> None:
    judged = {str(number): each for number, each in enumerate(users)}

    assert judge_by_users(judged, {*expired}).action is action
