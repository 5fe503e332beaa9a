"""Whether somebody still needs a cluster or Batch job: decided from its tags and from Airflow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from aws_jobs.identity import TAG_DEPLOYMENT, TAG_ENDS_BY, RunKey

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# How long an owner must have been gone, and its job with it, before the job is ended.
GRACE = timedelta(minutes=10)

# https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/dag-run.html#dag-run-status
_RUN_ACTIVE = frozenset({"queued", "running"})
RUN_ENDED = frozenset({"success", "failed"})
# https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html#task-instances
_TASK_ENDED = frozenset({"failed", "skipped", "success", "upstream_failed"})
_TASK_ACTIVE = frozenset(
    {
        "awaiting_input",
        "deferred",
        "queued",
        "restarting",
        "running",
        "scheduled",
        "up_for_reschedule",
        "up_for_retry",
    }
)


class Kind(StrEnum):
    """What the reaper looks at."""

    CLUSTER = "cluster"
    BATCH_JOB = "job"


class Action(StrEnum):
    """What the reaper does with an external job."""

    KEEP = "keep"
    """Somebody needs it."""
    LEAVE = "leave"
    """Nobody can tell whether somebody needs it: a person has to look."""
    RELEASE = "release"
    """Some who share it are gone: their leases are given back, if that is so after the grace."""
    END = "end"
    """Nobody needs it: it is ended if that is still so after the grace."""
    END_NOW = "end now"
    """Its time is up, whoever needs it."""


_LEFT = frozenset({Action.KEEP, Action.LEAVE})


@dataclass(frozen=True)
class LiveJob:
    """A cluster or Batch job that nobody has ended."""

    kind: Kind
    external_id: str
    name: str
    state: str
    tags: Mapping[str, str]

    @property
    def deployment_id(self) -> str | None:
        """Which deployment started it, by its tag."""
        return self.tags.get(TAG_DEPLOYMENT)

    @property
    def run_key(self) -> RunKey | None:
        """Whose it is; None where tags and name do not tell without doubt."""
        run_key = RunKey.from_tags(self.tags)
        return run_key if run_key and run_key.digest in self.name else None

    @property
    def ends_by(self) -> datetime | None:
        """When its time is up; None where its tag does not say, or not in which zone."""
        try:
            moment = datetime.fromisoformat(self.tags[TAG_ENDS_BY])
        except (KeyError, ValueError):
            return None
        return moment if moment.tzinfo else None


@dataclass(frozen=True)
class Owner:
    """What Airflow says of whom an external job is for.

    :param dag: ``active``, ``paused``, ``removed``, or ``unknown`` to Airflow.
    :param run: the run's state; None where Airflow does not know the run.
    :param has_task: whether the run has the task instance; asked for Batch jobs of an active run.
    :param task: the task instance's state, None for one without a state.
    :param ended_at: when the run or task ended; None where Airflow does not say.
    """

    dag: str
    run: str | None
    has_task: bool = True
    task: str | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Judgement:
    """What is done with an external job, and why.

    :param gone_since: when its owner went, the last of them where there are several; None where
        nobody can tell.
    :param gone_users: who of those that share it are gone.
    """

    action: Action
    why: str
    gone_since: datetime | None = None
    gone_users: tuple[str, ...] = ()

    def waits(self, now: datetime, grace: timedelta) -> bool:
        """Whether its owner is not known to have been gone for the grace."""
        if self.action is Action.END_NOW:
            return False
        return self.gone_since is None or now - self.gone_since < grace

    def is_too_early(self, now: datetime, grace: timedelta) -> bool:
        """Whether its owner is known to have gone within the grace."""
        return self.gone_since is not None and self.waits(now, grace)


def judge_by_tags(job: LiveJob, now: datetime) -> Judgement | None:
    """Judge what needs no answer of Airflow's; None for the rest."""
    if job.ends_by is not None and now > job.ends_by:
        return Judgement(Action.END_NOW, f"its time was up at {job.ends_by:%Y-%m-%d %H:%M:%S %Z}")
    if job.run_key is None:
        return Judgement(Action.LEAVE, "its tags do not say for certain whose it is")
    return None


def judge_lifetime(job: LiveJob, judgement: Judgement) -> Judgement:
    """Have a person look at what is needed and would never end, should its owner never end."""
    if judgement.action is not Action.KEEP or job.ends_by is not None:
        return judgement
    why = f"{judgement.why}, but its tag {TAG_ENDS_BY} does not say when its time is up"
    return replace(judgement, action=Action.LEAVE, why=why)


def judge_by_owner(kind: Kind, owner: Owner) -> Judgement:
    """Judge by what Airflow says; what is not known to be over is left alone."""
    if owner.dag != "active":
        run = owner.run or "not there any more"
        return Judgement(Action.LEAVE, f"its DAG is {owner.dag}, its run is {run}")
    if owner.run is None:
        return Judgement(Action.END, "its run was deleted", owner.ended_at)
    if owner.run in RUN_ENDED:
        return Judgement(Action.END, f"its run has ended: {owner.run}", owner.ended_at)
    if owner.run not in _RUN_ACTIVE:
        return Judgement(Action.LEAVE, f"its run is {owner.run!r}, which means nothing here")
    if kind is Kind.CLUSTER:
        return Judgement(Action.KEEP, f"its run is {owner.run}")
    return _judge_by_task(owner)


def _judge_by_task(owner: Owner) -> Judgement:
    """Judge a job of a run that goes on."""
    if not owner.has_task:
        return Judgement(Action.LEAVE, f"its run is {owner.run}, and has no such task instance")
    if owner.task in _TASK_ENDED:
        return Judgement(Action.END, f"its task has ended: {owner.task}", owner.ended_at)
    if owner.task is None or owner.task in _TASK_ACTIVE:
        return Judgement(Action.KEEP, f"its task is {owner.task or 'to be scheduled'}")
    return Judgement(Action.LEAVE, f"its task is {owner.task!r}, and its run {owner.run}")


def judge_by_users(users: Mapping[str, Judgement], expired: Collection[str] = ()) -> Judgement:
    """Judge a shared cluster by those who hold a lease on it, each judged by its own run.

    :param expired: whose lease has expired. Where their runs go on they may be about to renew it,
        and to release others would close the cluster.
    """
    gone = {user: each for user, each in users.items() if each.action not in _LEFT}
    there = {user: each for user, each in users.items() if each.action in _LEFT}
    words = "; ".join(f"{user}: {each.why}" for user, each in {**gone, **there}.items())
    if there and there.keys() <= {*expired}:
        return Judgement(Action.LEAVE, f"its leases have expired, but {words}")
    if there and not gone:
        needed = any(each.action is Action.KEEP for each in there.values())
        return Judgement(Action.KEEP if needed else Action.LEAVE, f"it is shared by {words}")
    moments = [each.gone_since for each in gone.values()]
    known = [moment for moment in moments if moment is not None]
    return Judgement(
        action=Action.RELEASE if there else Action.END,
        why=f"it was shared by {words}" if words else "nobody holds a lease on it any more",
        gone_since=max(known) if known and len(known) == len(moments) else None,
        gone_users=tuple(gone),
    )


def utc_now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)
