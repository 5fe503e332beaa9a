"""EMR's operations on clusters. Whoever calls holds EMR's service lock."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import moto.emr.models as moto_emr
import moto.emr.urls as moto_emr_urls

from localaws.emr.errors import (
    InvalidRequestException,
    ValidationException,
    unknown_cluster,
    unknown_job_flow,
    unknown_step,
)
from localaws.emr.lifecycle import ClusterLife, Machinery
from localaws.emr.models import Cluster, Group, Step, now
from localaws.emr.states import (
    ACCEPTS_STEPS,
    BY_USER,
    CANCEL_PENDING,
    INTERRUPTED,
    MAX_CANCEL_IDS,
    MAX_JOB_FLOW_IDS,
    MAX_STEP_IDS,
    MAX_TAGS,
    PENDING,
    RUNNING,
    SERVER_STOPPED,
    TERMINATED_WITH_ERRORS,
    Ending,
)
from localaws.emr.strikes import watch
from localaws.emr.validation import (
    check_concurrency,
    check_idle_timeout,
    check_number,
    check_run_job_flow,
    check_steps,
)
from localaws.locks import LOCKS


class LocalEmrBackend(moto_emr.ElasticMapReduceBackend):
    """EMR of one account and region.

    moto's own backend keeps security configurations, release labels and the like; clusters and
    steps are ours.
    """

    #: What clusters run on; set once, before the first request.
    machinery: Machinery
    # of the class: a snapshot of before it was there has none
    _watcher: threading.Thread | None = None

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.local_clusters: dict[str, Cluster] = {}
        self.lives: dict[str, ClusterLife] = {}

    @property
    def _url_module(self) -> Any:
        # moto derives it from the module of the class, which is not moto's here
        return moto_emr_urls

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lives": {}, "_watcher": None}

    def run(self, request: dict[str, Any]) -> Cluster:
        """Make a cluster of a RunJobFlow request."""
        check_run_job_flow(request, self._release_labels)
        instances = request.get("Instances") or {}
        cluster = Cluster(request, self.account_id, self.region_name, groups_of(instances))
        cluster.keep_alive = bool(instances.get("KeepJobFlowAliveWhenNoSteps")) or cluster.is_ha
        cluster.protected = bool(instances.get("TerminationProtected")) or cluster.is_ha
        cluster.visible = bool(request.get("VisibleToAllUsers", True))
        cluster.concurrency = request.get("StepConcurrencyLevel") or 1
        cluster.idle_timeout = (request.get("AutoTerminationPolicy") or {}).get("IdleTimeout")
        cluster.tags = tags_of(request.get("Tags") or [])
        cluster.steps = [Step(config) for config in request.get("Steps") or []]
        self.local_clusters[cluster.id] = cluster
        life = ClusterLife(cluster, self.machinery, LOCKS.of("emr"))
        self.lives[cluster.id] = life
        life.start()
        self._watch()
        return cluster

    def _watch(self) -> None:
        if self._watcher is None:
            arguments = (self.lives, LOCKS.of("emr"), self.machinery.faults)
            self._watcher = threading.Thread(target=watch, args=arguments, daemon=True)
            self._watcher.start()

    def cluster(self, cluster_id: str) -> Cluster:
        """Find a cluster, as the newer operations do."""
        try:
            return self.local_clusters[cluster_id]
        except KeyError:
            raise unknown_cluster(cluster_id) from None

    def job_flows(self, ids: Sequence[str]) -> list[Cluster]:
        """Find clusters, as the oldest operations do."""
        if any(cluster_id not in self.local_clusters for cluster_id in ids):
            raise unknown_job_flow()
        return [self.local_clusters[cluster_id] for cluster_id in ids]

    def listed(
        self,
        states: Sequence[str],
        after: datetime | None,
        before: datetime | None,
        lag: float,
    ) -> list[Cluster]:
        """List clusters, newest first, without those younger than ``lag`` seconds."""
        visible_before = now() - timedelta(seconds=lag)
        return [
            cluster
            for cluster in reversed(self.local_clusters.values())
            if (not states or cluster.state in states)
            and (after is None or cluster.created > utc(after))
            and (before is None or cluster.created < utc(before))
            and (not lag or cluster.created <= visible_before)
        ]

    def add_local_steps(self, cluster_id: str, configs: list[dict[str, Any]]) -> list[Step]:
        """Add steps to a cluster that lives."""
        (cluster,) = self.job_flows([cluster_id])
        if cluster.state not in ACCEPTS_STEPS or self.is_ending(cluster):
            raise ValidationException(
                "A job flow that is shutting down, terminated, or finished may not be modified."
            )
        active = sum(step.is_active for step in cluster.steps)
        check_steps(configs, cluster.concurrency, active)
        steps = [Step(config) for config in configs]
        cluster.steps += steps
        self.notify(cluster)
        return steps

    def is_ending(self, cluster: Cluster) -> bool:
        """Say whether the cluster's end was decided."""
        return cluster.has_ended or self.lives[cluster.id].is_ending

    def steps(
        self, cluster_id: str, ids: Sequence[str], states: Sequence[str], lag: float
    ) -> list[Step]:
        """List steps, newest first, or those that were asked for in their order."""
        cluster = self.cluster(cluster_id)
        check_number(ids, MAX_STEP_IDS, "step ids")
        found = [self.step(cluster_id, one) for one in ids] if ids else cluster.steps[::-1]
        visible_before = now() - timedelta(seconds=lag)
        return [
            step
            for step in found
            if (not states or step.state in states) and (not lag or step.created <= visible_before)
        ]

    def step(self, cluster_id: str, step_id: str) -> Step:
        """Find a step."""
        step = self.cluster(cluster_id).step(step_id)
        if step is None:
            raise unknown_step(step_id)
        return step

    def cancel(self, cluster_id: str, ids: Sequence[str], option: str) -> list[dict[str, str]]:
        """Cancel steps; return CancelStepsInfo for each."""
        cluster = self.cluster(cluster_id)
        check_number(ids, MAX_CANCEL_IDS, "step ids")
        return [self._cancel(cluster, step_id, option) for step_id in ids]

    def _cancel(self, cluster: Cluster, step_id: str, option: str) -> dict[str, str]:
        step = cluster.step(step_id)
        if step is None or step.state not in (PENDING, RUNNING, CANCEL_PENDING):
            state = step.state if step else "unknown"
            reason = f"Step {step_id} cannot be cancelled: it is {state}."
            return {"StepId": step_id, "Status": "FAILED", "Reason": reason}
        if not cluster.has_ended:
            step.tell_to_end()
            self.lives[cluster.id].cancel(step, option)
        return {"StepId": step_id, "Status": "SUBMITTED"}

    def terminate(self, ids: Sequence[str]) -> None:
        """End clusters; those that are protected make it fail, after the others were ended."""
        check_number(ids, MAX_JOB_FLOW_IDS, "job flow ids", newer=False)
        clusters = self.job_flows(ids)
        for cluster in clusters:
            if not cluster.protected and not cluster.has_ended:
                cluster.tell_to_end()
                self.lives[cluster.id].end(Ending(BY_USER))
        if any(cluster.protected and not cluster.has_ended for cluster in clusters):
            raise ValidationException(
                "Could not shut down one or more job flows since they are termination protected."
            )

    def protect(self, ids: Sequence[str], protected: bool) -> None:
        """Set termination protection."""
        for cluster in self.job_flows(ids):
            if not cluster.has_ended:
                cluster.protected = protected

    def set_idle_timeout(self, cluster_id: str, policy: dict[str, Any] | None) -> None:
        """Put or remove the auto-termination policy."""
        check_idle_timeout(policy)
        cluster = self._modifiable(cluster_id)
        cluster.idle_timeout = (policy or {}).get("IdleTimeout")
        self.notify(cluster)

    def set_concurrency(self, cluster_id: str, level: int | None) -> Cluster:
        """Change StepConcurrencyLevel."""
        check_concurrency(level)
        cluster = self._modifiable(cluster_id)
        cluster.concurrency = level or cluster.concurrency
        self.notify(cluster)
        return cluster

    def tag(self, cluster_id: str, tags: list[dict[str, str]]) -> None:
        """Add tags."""
        cluster = self.cluster(cluster_id)
        merged = {**cluster.tags, **tags_of(tags)}
        if len(merged) > MAX_TAGS:
            raise InvalidRequestException(f"A cluster takes at most {MAX_TAGS} tags.")
        cluster.tags = merged

    def untag(self, cluster_id: str, keys: Sequence[str]) -> None:
        """Remove tags."""
        cluster = self.cluster(cluster_id)
        cluster.tags = {key: value for key, value in cluster.tags.items() if key not in keys}

    def notify(self, cluster: Cluster) -> None:
        """Wake the cluster's life."""
        if cluster.id in self.lives:
            self.lives[cluster.id].notify()

    def audit(self) -> list[dict[str, Any]]:
        """Return all clusters for ``/localaws/emr/clusters``."""
        return [cluster.audit() for cluster in self.local_clusters.values()]

    def break_off(self) -> None:
        """Mark what is alive as ended by the server's end."""
        for cluster in self.local_clusters.values():
            if not cluster.has_ended:
                for step in cluster.steps:
                    if step.state == PENDING:
                        step.end("CANCELLED", SERVER_STOPPED)
                    step.end(INTERRUPTED, SERVER_STOPPED)
                cluster.enter(TERMINATED_WITH_ERRORS, SERVER_STOPPED)
                if cluster.id in self.lives:
                    self.lives[cluster.id].end(Ending(SERVER_STOPPED, with_errors=True))

    def _modifiable(self, cluster_id: str) -> Cluster:
        cluster = self.cluster(cluster_id)
        if self.is_ending(cluster):
            raise InvalidRequestException(
                f"Cluster {cluster_id} is {cluster.state}: it may not be modified."
            )
        return cluster


def groups_of(instances: dict[str, Any]) -> list[Group]:
    """Make the groups or fleets of a RunJobFlow's Instances."""
    if instances.get("InstanceFleets"):
        return [Group.of_fleet(fleet) for fleet in instances["InstanceFleets"]]
    if instances.get("InstanceGroups"):
        return [Group.of_group(group) for group in instances["InstanceGroups"]]
    count = int(instances.get("InstanceCount") or 1)
    core = instances.get("SlaveInstanceType") or instances["MasterInstanceType"]
    groups = [("MASTER", 1, instances["MasterInstanceType"]), ("CORE", count - 1, core)]
    return [
        Group.of_group({"InstanceRole": role, "InstanceCount": number, "InstanceType": kind})
        for role, number, kind in groups
        if number
    ]


def tags_of(tags: list[dict[str, str]]) -> dict[str, str]:
    """Turn a list of Tag into a dictionary."""
    return {tag["Key"]: tag.get("Value", "") for tag in tags}


def utc(time: datetime) -> datetime:
    """Give a request's time its zone; moto's parser takes it off."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
