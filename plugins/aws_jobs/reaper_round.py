"""A round of the reaper: look at all that lives, wait, look again at what nobody needs, end it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import error_code
from aws_jobs.cluster_lease import Lease, LeaseTable, user_owner
from aws_jobs.identity import TAG_POOL
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
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aws_jobs.reaper_aws import Place
    from aws_jobs.reaper_owners import Owners
    from aws_jobs.settings import Settings

log = logging.getLogger(__name__)

# How long DynamoDB is asked for the users of a cluster, in seconds: there may be many clusters.
_LEASE_BUDGET = 30.0


@dataclass(frozen=True)
class Finding:
    """An external job that lives, and what is to become of it."""

    job: LiveJob
    judgement: Judgement

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
    def orphans(self) -> list[Finding]:
        """What nobody needs."""
        return self.with_action(Action.RELEASE, Action.END, Action.END_NOW)


@dataclass
class Outcome:
    """What became of the orphans.

    :param released: clusters of which some users' leases were given back, and others go on.
    :param spared: what was not ended after all, and why.
    :param problems: what could not be ended.
    """

    ended: list[Finding] = field(default_factory=list)
    released: list[Finding] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reaper:
    """Ends what nobody needs any more.

    :param places: where external jobs live.
    :param new_owners: begins a look at Airflow.
    :param leases: who shares clusters, where any are shared.
    :param grace: how long an owner must have been gone.
    """

    places: Sequence[Place]
    new_owners: Callable[[], Owners]
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
        places = (
            Clusters.of(client("emr"), settings.deployment_id, settings.quota_share),
            BatchJobs.of(client("batch"), settings.deployment_id, settings.quota_share),
        )
        name = settings.leases_table
        leases = LeaseTable(client("dynamodb"), name, _LEASE_BUDGET) if name else None
        return cls(places, new_owners, leases, grace)

    def look(self) -> Look:
        """Judge all that lives; nothing is changed. What cannot be looked at hides nothing else."""
        look, owners = Look(), self.new_owners()
        for place in self.places:
            try:
                for job in place.live():
                    look.findings.append(Finding(job, self._judge(job, owners)))
            except Exception as error:
                look.problems.append(f"not every {place.kind} could be looked at: {error}")
                _report(look.problems[-1], error)
            look.others += place.others
        return look

    def end(self, orphans: Iterable[tuple[Kind, str]]) -> Outcome:
        """Look at these again, one by one, and end at once what nobody needs still.

        :param orphans: kind and id of what the first look found, a grace ago.
        """
        outcome = Outcome()
        places = {place.kind: place for place in self.places}
        for kind, external_id in orphans:
            try:
                self._end_one(places[kind], external_id, outcome)
            except Exception as error:
                outcome.problems.append(f"{kind} {external_id} could not be ended: {error}")
                _report(outcome.problems[-1], error)
        return outcome

    def _end_one(self, place: Place, external_id: str, outcome: Outcome) -> None:
        job = place.find(external_id)
        if job is None:
            outcome.spared.append(f"{place.kind} {external_id} has ended meanwhile")
            return
        finding = Finding(job, self._judge(job, self.new_owners()))
        judgement = finding.judgement
        if judgement.is_left or judgement.is_too_early(utc_now(), self.grace):
            outcome.spared.append(str(finding))
        elif self._give_back_leases(job, judgement):
            place.end(job, judgement.why)
            outcome.ended.append(finding)
        elif judgement.action is Action.RELEASE:
            outcome.released.append(finding)
        else:
            outcome.spared.append(f"{finding}; somebody has joined it since")

    def _give_back_leases(self, job: LiveJob, judgement: Judgement) -> bool:
        """Give back the leases of those who are gone, and say whether the job may be ended.

        Whoever closes a cluster's item, by the same write as the last lease, may end the cluster.
        """
        if self.leases is None or job.kind is not Kind.CLUSTER:
            return True
        if judgement.action is Action.END_NOW:
            return self._close(job)
        shared = self.leases.cluster(job.external_id)
        if shared is None:
            return judgement.action is Action.END
        users = {
            user: hold.use for user, hold in shared.users.items() if user in judgement.gone_users
        }
        # Nobody's lease: where no user is left, the item is closed all the same.
        for user, use in (users or {"": ""}).items():
            shared = self.leases.release(Lease(job.external_id, user, use))
        return shared is None or shared.is_closing

    def _close(self, job: LiveJob) -> bool:
        """Let nobody join a cluster whose time is up; it is ended also where that fails."""
        assert self.leases is not None
        try:
            self.leases.close(job.external_id)
        except Exception as error:
            _report(f"the leases on cluster {job.external_id} stay: {error}", error)
        return True

    def _judge(self, job: LiveJob, owners: Owners) -> Judgement:
        by_tags = judge_by_tags(job, utc_now())
        if by_tags is not None:
            return by_tags
        try:
            return self._judge_by_owner(job, owners)
        except Exception as error:
            return Judgement(Action.LEAVE, f"whether it is needed cannot be told: {error}")

    def _judge_by_owner(self, job: LiveJob, owners: Owners) -> Judgement:
        key = job.run_key
        assert key is not None
        if job.kind is Kind.BATCH_JOB:
            owner = owners.task_owner(key.dag_id, key.run_id, key.task_id, key.map_index)
            return judge_by_owner(job.kind, owner)
        if self.leases is None and TAG_POOL in job.tags:
            return Judgement(
                Action.LEAVE, "it may be shared, and the settings name no leases_table"
            )
        shared = self.leases and self.leases.cluster(job.external_id)
        if not shared:
            return judge_by_owner(job.kind, owners.run_owner(key.dag_id, key.run_id))
        if shared.is_closing:
            return Judgement(Action.END, "its last user has left")
        runs = {user: user_owner(user)[:2] for user in shared.users}
        return judge_by_users(
            {user: judge_by_owner(job.kind, owners.run_owner(*run)) for user, run in runs.items()},
            expired=runs.keys() - {*shared.live_users()},
        )


def _report(problem: str, error: Exception) -> None:
    """Log what failed; where it is no answer of AWS's, with the place in the code."""
    log.warning("%s", problem, exc_info=None if error_code(error) else error)
