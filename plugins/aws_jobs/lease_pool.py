"""Which cluster of a pool a run may join, and when it has to found one."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently
from aws_jobs.cluster_lease import Lease, end_or_release, user_owner
from aws_jobs.exceptions import InvalidRequestError
from aws_jobs.job_flow import CLUSTER_ENDING, STEP_ACTIVE, ClusterJob, is_unknown_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aws_jobs.cluster_lease import LeaseTable, Pool, SharedCluster
    from aws_jobs.identity import RunKey

log = logging.getLogger(__name__)

# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-steps.html
_EMR_STEPS = 256
# It is renewed at a third of its time, over the network.
_LEAST_LEASE = timedelta(seconds=10)
# DescribeCluster and ListSteps are repeated this long, in seconds, while EMR throttles.
_READ_BUDGET = 300.0
# A note that is of use only where EMR throttles is not tried for longer than this, in seconds.
_NOTE_BUDGET = 10.0
# A cluster that EMR does not know so many seconds after it was founded is gone.
_KNOWN_AFTER = 900.0
# Others change a cluster's item at the same time: as often it is read again.
_ROUNDS = 20
_RELEASED = "RELEASED"


@dataclass(frozen=True)
class ClusterReuse:
    """How runs share clusters whose rendered job flows are alike but for the name.

    :param pool: clusters are shared within a deployment and pool. Empty: not at all. (templated)
    :param most_users: runs that use a cluster at once; None for the job flow's
        ``StepConcurrencyLevel``, which it may not exceed.
    :param most_steps: a cluster that has had so many steps is not joined; EMR takes 256.
    :param oldest: a cluster of that age is not joined; shorter than the create task's ``lifetime``,
        which leaves the difference to a run that joins last.
    :param lease: how long a run keeps its cluster while none of its tasks waits for it.
    """

    pool: str
    most_users: int | None = None
    most_steps: int = 200
    oldest: timedelta = timedelta(hours=6)
    lease: timedelta = timedelta(hours=1)


@dataclass(frozen=True)
class ClusterPool:
    """The clusters that a run may share.

    :param pool_id: ``<deployment>/<pool>/<digest of job flow and lifetime>``.
    :param concurrency: steps that a cluster runs at once.
    :param lifetime: after which a cluster may be ended, whoever uses it.
    """

    pool_id: str
    name: str
    concurrency: int
    most_users: int
    reuse: ClusterReuse
    lifetime: timedelta

    @classmethod
    def of(
        cls,
        reuse: ClusterReuse,
        name: str,
        deployment_id: str,
        job_flow: Mapping[str, Any],
        lifetime: timedelta,
    ) -> ClusterPool:
        """Return the pool of a conformed job flow.

        :param name: the rendered name of the pool.
        :raises InvalidRequestError: where clusters of this job flow cannot be shared.
        """
        concurrency = job_flow.get("StepConcurrencyLevel", 1)
        most_users = concurrency if reuse.most_users is None else reuse.most_users
        problems = []
        if not 1 <= most_users <= concurrency:
            problems.append(
                f"reuse.most_users is {most_users} and StepConcurrencyLevel {concurrency}: a run "
                "would wait for the steps of another"
            )
        if not 1 <= reuse.most_steps <= _EMR_STEPS:
            problems.append(f"reuse.most_steps is {reuse.most_steps}: it may be 1 to {_EMR_STEPS}")
        if not timedelta(0) < reuse.oldest < lifetime:
            problems.append(
                f"reuse.oldest is {reuse.oldest}: it must be positive and shorter than lifetime, "
                f"{lifetime}, or a cluster's time would be up while a run uses it"
            )
        if reuse.lease < _LEAST_LEASE:
            problems.append(f"reuse.lease is {reuse.lease}: it must be {_LEAST_LEASE} or more")
        if job_flow.get("Steps"):
            problems.append("it has Steps, which would run for the first run only")
        if not job_flow["Instances"].get("KeepJobFlowAliveWhenNoSteps"):
            problems.append("Instances.KeepJobFlowAliveWhenNoSteps is false")
        if problems:
            raise InvalidRequestError("Clusters of this job flow cannot be shared", problems)
        alike = {key: value for key, value in job_flow.items() if key != "Name"}
        # A cluster's time is its founder's: whoever joins must have meant the same.
        alike["lifetime"] = lifetime.total_seconds()
        digest = hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()[:16]
        pool_id = f"{deployment_id}/{name}/{digest}"
        return cls(pool_id, name, concurrency, most_users, reuse, lifetime)

    def new_lease(self, cluster_id: str, user: str) -> Lease:
        """Return a lease that nobody had before."""
        return Lease(cluster_id, user, secrets.token_hex(8), self.reuse.lease.total_seconds())

    def joinable(self, leases: LeaseTable, read: Pool, user: str) -> Iterator[SharedCluster]:
        """Read the clusters that a user may join, those with the most users first."""
        found = []
        for cluster_id in read.cluster_ids:
            shared = leases.cluster(cluster_id)
            if shared is None or shared.is_closing or shared.age > self.lifetime.total_seconds():
                leases.leave_out(self.pool_id, cluster_id)
            elif self._takes(shared, user):
                found.append(shared)
        yield from sorted(found, key=lambda each: (-len(each.live_users()), -each.founded_at))

    def join(self, leases: LeaseTable, read: SharedCluster, lease: Lease) -> bool:
        """Become a user of a cluster; False where others took the last place, or ended it."""
        shared: SharedCluster | None = read
        for _ in range(_ROUNDS):
            if shared is None or not self._takes(shared, lease.user):
                return False
            if leases.join(shared, lease):
                return True
            time.sleep(random.uniform(0.0, 0.1))  # noqa: S311 - jitter
            shared = leases.cluster(read.cluster_id)
            # An answer was lost.
            if shared is not None and shared.holds(lease):
                return True
        return False

    def unfit(self, emr: Any, leases: LeaseTable, cluster_id: str) -> str | None:
        """Say why a cluster that was joined is of no use after all, or return None.

        It is looked at after the join: from then on nobody of this deployment ends it.
        """
        state = _state(emr, cluster_id)
        if state is None or state in CLUSTER_ENDING:
            if state or _should_be_known(leases, cluster_id):
                leases.close(cluster_id)
            return f"it is {state or 'unknown to EMR'}"
        states = call_patiently(lambda: _step_states(emr, cluster_id), budget=_READ_BUDGET)
        if len(states) >= self.reuse.most_steps:
            return f"it has had {len(states)} steps"
        active = sum(state in STEP_ACTIVE for state in states)
        if active >= self.concurrency:
            return f"{active} steps are under way"
        return None

    def _takes(self, shared: SharedCluster, user: str) -> bool:
        """Whether a cluster takes one user more; of a run it takes one only."""
        if shared.is_closing:
            return False
        if shared.age >= self.reuse.oldest.total_seconds():
            return False
        run = user_owner(user)[:2]
        users = shared.live_users()
        return len(users) < self.most_users and run not in {
            user_owner(other)[:2] for other in shared.users
        }


def _state(emr: Any, cluster_id: str) -> str | None:
    """Return the state of a cluster, None for one that EMR does not know."""
    try:
        answer = call_patiently(
            lambda: emr.describe_cluster(ClusterId=cluster_id), budget=_READ_BUDGET
        )
    except Exception as error:
        if is_unknown_id(error):
            return None
        raise
    return str(answer["Cluster"]["Status"]["State"])


def _should_be_known(leases: LeaseTable, cluster_id: str) -> bool:
    """Whether a cluster was founded so long ago that EMR must know it: its answers lag."""
    shared = leases.cluster(cluster_id)
    return shared is not None and shared.age > _KNOWN_AFTER


def _step_states(emr: Any, cluster_id: str) -> list[str]:
    pages = emr.get_paginator("list_steps").paginate(ClusterId=cluster_id)
    return [step["Status"]["State"] for page in pages for step in page["Steps"]]


@dataclass(frozen=True)
class LeasedClusterJob(ClusterJob):
    """A cluster of a pool as an external job: to end it is to give back the lease on it.

    Its scope is the pool, so that a task whose job flow or pool has changed since its last try
    gives back what it has. A cluster of no pool has none, and is the task's own.

    :param user: who starts or joins it.
    :param use: the acquisition that the user's task remembers, empty where it remembers none.
    """

    leases: LeaseTable = field(kw_only=True)
    user: str = field(kw_only=True)
    use: str = field(kw_only=True)

    def submit_job(self, run_key: RunKey) -> list[str]:
        """Call RunJobFlow; as long as EMR throttles it, the others go on waiting for this one."""
        if self.scope:
            try:
                replace(self.leases, budget=_NOTE_BUDGET).keep_founding(self.scope, self.user)
            except Exception as error:
                log.warning("Another run may found a cluster of this pool too: %s", error)
        return super().submit_job(run_key)

    def get_job_status(self, external_ids: Sequence[str]) -> str | None:
        """Return the cluster's state, or that the user's lease on it is over."""
        shared = self.leases.cluster(external_ids[0]) if self.scope else None
        if shared is not None and not shared.holds(self._lease(external_ids)):
            return _RELEASED
        return super().get_job_status(external_ids)

    def end_job(self, external_ids: Sequence[str]) -> None:
        """Give back the lease, or terminate the cluster where nobody shares it."""
        if not self.scope:
            super().end_job(external_ids)
            return
        try:
            end_or_release(self.emr, self.leases, self._lease(external_ids))
        except Exception as error:
            if not is_unknown_id(error):
                raise

    def at(self, scope: str) -> LeasedClusterJob:
        """Return a cluster of another pool, or of none."""
        return replace(self, scope=scope)

    def _lease(self, external_ids: Sequence[str]) -> Lease:
        return Lease(external_ids[0], self.user, self.use)
