"""A round of the reaper: look at all that lives, wait, look again at what nobody needs, end it."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently, is_passing
from aws_jobs.cluster_lease import (
    Lease,
    LeaseTable,
    SharedCluster,
    cancel_left_steps,
    user_owner,
)
from aws_jobs.identity import TAG_POOL
from aws_jobs.reaper_attempts import Attempts, error_line
from aws_jobs.reaper_aws import BatchJobs, Clusters
from aws_jobs.reaper_decision import (
    GRACE,
    Action,
    Judgement,
    Kind,
    LiveJob,
    judge_by_owner,
    judge_by_tags,
    judge_by_users,
    judge_lifetime,
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from aws_jobs.reaper_aws import Place
    from aws_jobs.reaper_owners import Owners
    from aws_jobs.settings import Settings

log = logging.getLogger(__name__)

# How long DynamoDB is asked for the users of a cluster, and EMR to cancel their steps, in seconds:
# there may be many clusters.
_LEASE_BUDGET = 10.0
_STS_BUDGET = 30.0
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Finding:
    """An external job that lives, and what is to become of it.

    :param shared: who shared it when it was judged.
    """

    job: LiveJob
    judgement: Judgement
    shared: SharedCluster | None = None

    @property
    def key(self) -> tuple[Kind, str]:
        """Kind and id, by which it is found again."""
        return self.job.kind, self.job.external_id

    @property
    def owner(self) -> str:
        """Whose it is, in a person's words."""
        run_key = self.job.run_key
        if run_key is None:
            return f"nobody knows whom, named {self.job.name!r}"
        index = f"[{run_key.map_index}]" if run_key.map_index >= 0 else ""
        return f"{run_key.dag_id} / {run_key.run_id} / {run_key.task_id}{index}"

    def __str__(self) -> str:
        job = self.job
        return f"{job.kind} {job.external_id} ({job.state}) of {self.owner}: {self.judgement.why}"


@dataclass
class Look:
    """What a first look found.

    :param others: how many live that look like ours and are not this deployment's.
    :param problems: what could not be looked at.
    """

    findings: list[Finding] = field(default_factory=list)
    others: int = 0
    problems: list[str] = field(default_factory=list)

    def with_action(self, *actions: Action) -> list[Finding]:
        """Return the findings with one of these actions."""
        return [finding for finding in self.findings if finding.judgement.action in actions]

    @property
    def overdue(self) -> list[Finding]:
        """What is to end at once."""
        return self.with_action(Action.END_NOW)

    @property
    def orphans(self) -> list[Finding]:
        """What nobody needs, if that is still so after the grace."""
        return self.with_action(Action.RELEASE, Action.END)

    @property
    def left(self) -> list[Finding]:
        """What a person has to look at."""
        return self.with_action(Action.LEAVE)

    def waits(self, grace: timedelta) -> bool:
        """Whether the owner of an orphan is not known to have been gone for the grace."""
        now = utc_now()
        return any(each.judgement.waits(now, grace) for each in self.orphans)


@dataclass
class Outcome:
    """What became of what nobody needed.

    :param released: clusters of which some users' leases were given back, and others go on.
    :param spared: what has ended meanwhile, or is needed again.
    :param left: what nobody can tell of any more, or whose owner has only just gone.
    :param problems: what could not be looked at or ended.
    """

    ended: list[Finding] = field(default_factory=list)
    released: list[Finding] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Judge:
    """Judges external jobs, one after the other.

    :param leases: who shares clusters, where any are shared. While DynamoDB does not answer it is
        not asked for the next cluster.
    """

    owners: Owners
    leases: LeaseTable | None
    attempts: Attempts
    _silent: Exception | None = None

    def judge(self, job: LiveJob) -> Finding:
        """Judge one; what cannot be judged is left alone."""
        by_tags = judge_by_tags(job, utc_now())
        if by_tags is not None:
            return Finding(job, by_tags)
        finding = self.attempts.make("not everything could be judged", partial(self._asked, job))
        if finding is None:
            return _left(job, "whether it is needed could not be told")
        return replace(finding, judgement=judge_lifetime(job, finding.judgement))

    def _asked(self, job: LiveJob) -> Finding:
        try:
            return self._by_owner(job)
        except ValueError as error:
            return _left(job, f"whether it is needed cannot be told: {error_line(error)}")

    def _by_owner(self, job: LiveJob) -> Finding:
        if TAG_POOL in job.tags:
            return self._by_users(job)
        key = job.run_key
        assert key is not None
        if job.kind is Kind.CLUSTER:
            owner = self.owners.run_owner(key.dag_id, key.run_id)
        else:
            owner = self.owners.task_owner(key.dag_id, key.run_id, key.task_id, key.map_index)
        return Finding(job, judge_by_owner(job.kind, owner))

    def _by_users(self, job: LiveJob) -> Finding:
        """Judge a cluster that was founded for several."""
        if self.leases is None:
            return _left(job, "it may be shared, and the settings name no leases_table")
        shared = self._shared(self.leases, job.external_id)
        if shared is None:
            return _left(job, "it may be shared, and the table of leases does not know it")
        if shared.is_closing:
            return Finding(job, Judgement(Action.END, "its last user has left"), shared)
        runs = {user: user_owner(user)[:2] for user in shared.users}
        judged = {
            user: judge_by_owner(job.kind, self.owners.run_owner(*run))
            for user, run in runs.items()
        }
        expired = runs.keys() - {*shared.live_users()}
        return Finding(job, judge_by_users(judged, expired), shared)

    def _shared(self, leases: LeaseTable, cluster_id: str) -> SharedCluster | None:
        if self._silent is not None:
            raise self._silent
        try:
            return leases.cluster(cluster_id)
        except Exception as error:
            self._silent = error if is_passing(error) else None
            raise


@dataclass(frozen=True)
class Reaper:
    """Ends what nobody needs any more.

    :param places: where external jobs live.
    :param new_owners: begins a look at Airflow.
    :param emr: a client, for the steps of those who are gone from a cluster that goes on.
    :param leases: who shares clusters, where any are shared.
    :param grace: how long an owner must have been gone.
    """

    deployment_id: str
    places: Sequence[Place]
    new_owners: Callable[[], Owners]
    emr: Any
    leases: LeaseTable | None = None
    grace: timedelta = GRACE

    @classmethod
    def of(
        cls,
        settings: Settings,
        client: Callable[[str], Any],
        new_owners: Callable[[], Owners],
        grace: timedelta = GRACE,
    ) -> Reaper:
        """Look after one deployment.

        :param client: makes a client for a service, which makes each call once.
        """
        # What a triggerer leaves of the account's quotas.
        share = max(_LEAST_SHARE, min(settings.quota_share, 1 - settings.quota_share))
        emr = client("emr")
        places = (Clusters.of(emr, share), BatchJobs.of(client("batch"), share))
        name = settings.leases_table
        leases = LeaseTable(client("dynamodb"), name, _LEASE_BUDGET) if name else None
        return cls(settings.deployment_id, places, new_owners, emr, leases, grace)

    def look(self) -> Look:
        """Judge all that lives; nothing is changed. What cannot be looked at hides nothing else."""
        look, attempts = Look(), Attempts()
        judge = Judge(self.new_owners(), self.leases, attempts)
        for place in self.places:
            for ids in _batches(place.marked(attempts), place.ids_per_call):
                what = f"not every {place.kind} could be looked at, such as {ids[0]}"
                jobs = attempts.make(what, partial(place.describe, ids)) or []
                ours = [job for job in jobs if job.deployment_id == self.deployment_id]
                look.findings += map(judge.judge, ours)
                look.others += len(jobs) - len(ours)
        look.problems = attempts.problems
        return look

    def end(self, found: Iterable[tuple[Kind, str]]) -> Outcome:
        """Look at these again, one by one, and end at once what nobody needs still.

        :param found: kind and id of what the first look found.
        """
        outcome, attempts = Outcome(), Attempts()
        judge = Judge(self.new_owners(), self.leases, attempts)
        places = {place.kind: place for place in self.places}
        for kind, external_id in found:
            judge.owners.forget()
            what = f"{kind} {external_id} could not be ended"
            attempts.make(what, partial(self._end_one, places[kind], external_id, judge, outcome))
        outcome.problems = attempts.problems
        return outcome

    def _end_one(self, place: Place, external_id: str, judge: Judge, outcome: Outcome) -> None:
        jobs = place.describe([external_id])
        ours = [job for job in jobs if job.deployment_id == self.deployment_id]
        if not ours:
            outcome.spared.append(f"{place.kind} {external_id} has ended meanwhile")
            return
        finding = judge.judge(ours[0])
        judgement = finding.judgement
        if judgement.action is Action.KEEP:
            outcome.spared.append(str(finding))
        elif judgement.action is Action.LEAVE or judgement.is_too_early(utc_now(), self.grace):
            outcome.left.append(finding)
        elif self._give_back_leases(finding):
            place.end(finding.job, judgement.why)
            outcome.ended.append(finding)
        elif judgement.action is Action.RELEASE:
            outcome.released.append(finding)
        else:
            outcome.spared.append(f"{finding}; somebody has joined it since")

    def _give_back_leases(self, finding: Finding) -> bool:
        """Give back the leases of those who are gone, and say whether the job may be ended.

        Whoever closes a cluster's item, by the same write as the last lease, may end the cluster.
        A lease that was taken anew since the judgement is another, and stays.
        """
        if self.leases is None or TAG_POOL not in finding.job.tags:
            return True
        cluster_id = finding.job.external_id
        if finding.judgement.action is Action.END_NOW:
            return self._close(self.leases, cluster_id)
        shared = finding.shared
        assert shared is not None
        gone = {user: shared.users[user].use for user in finding.judgement.gone_users}
        if finding.judgement.action is Action.RELEASE:
            steps = [step for user in gone for step in shared.users[user].steps]
            call_patiently(
                lambda: cancel_left_steps(self.emr, cluster_id, steps), budget=_LEASE_BUDGET
            )
        # Nobody's lease: where no user is left, the item is closed all the same.
        for user, use in (gone or {"": ""}).items():
            shared = self.leases.release(Lease(cluster_id, user, use))
        return shared is not None and shared.is_closing

    def _close(self, leases: LeaseTable, cluster_id: str) -> bool:
        """Let nobody join a cluster whose time is up; it is ended also where that fails."""
        try:
            leases.close(cluster_id)
        except Exception as error:
            log.warning("the leases on cluster %s stay: %s", cluster_id, error)
        return True


def deployment_at(settings: Settings, sts: Any) -> str:
    """Name a deployment so that its like in another account or region has another name."""
    answer = call_patiently(sts.get_caller_identity, budget=_STS_BUDGET)
    return f"{settings.deployment_id} ({answer['Account']}, {settings.region})"


def _batches(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    """Take ids in any order: where the time does not suffice, each comes first at some time."""
    ids = list(ids)
    random.shuffle(ids)
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _left(job: LiveJob, why: str) -> Finding:
    return Finding(job, Judgement(Action.LEAVE, why))
