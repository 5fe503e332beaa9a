"""What EMR's operators and sensors have in common."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_task import AwsTaskMixin
from aws_jobs.cluster_lease import Lease, LeaseTable, is_of_a_pool
from aws_jobs.links.emr import EMR_LINKS, emr_links

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from airflow.sdk import BaseOperatorLink, Context

    from aws_jobs.cluster_lease import SharedCluster

# A note that is of use only where all else fails is not tried for longer than this, in seconds.
_NOTE_BUDGET = 10.0


class EmrTaskMixin(AwsTaskMixin):
    """Links and descriptions of an EMR task, and its run's lease on a shared cluster."""

    service = "emr"
    operator_extra_links: Collection[BaseOperatorLink] = EMR_LINKS
    lease: Lease | None = None
    """The run's lease on the cluster of this task, where it is known to have one."""

    @cached_property
    def emr(self) -> Any:
        """EMR, each call made once."""
        return self.client("emr")

    @cached_property
    def leases(self) -> LeaseTable | None:
        """The leases on shared clusters; None where the settings name no table."""
        if self.settings.leases_table is None:
            return None
        return LeaseTable(self.client("dynamodb"), self.settings.leases_table)

    def shared_cluster(self, cluster_id: str) -> SharedCluster | None:
        """Return what is known of a cluster's users; None for one that nobody shares.

        Clusters that nobody shares depend on no table: one that was founded for no pool is told by
        its tags where the table does not answer.
        """
        if self.leases is None:
            return None
        try:
            return self.leases.cluster(cluster_id)
        except Exception as error:
            if is_of_a_pool(self.emr, cluster_id):
                raise
            self.log.warning("The leases were not read; %s is not shared: %s", cluster_id, error)
            return None

    def keep_lease(self, context: Context, cluster_id: str) -> None:
        """Find the lease that this run has on a cluster, and renew it; most clusters have none."""
        shared = self.shared_cluster(cluster_id)
        if shared is None or self.leases is None:
            return
        ti = context["ti"]
        self.lease = shared.lease_of_run(ti.dag_id, ti.run_id)
        if self.lease is None:
            self.log.info("Others share cluster %s; this run has no lease on it", cluster_id)
        elif not self.leases.renew(self.lease):
            self.log.warning("Cluster %s is closing: this run's lease on it is over", cluster_id)

    def scope_of_steps(self, cluster_id: str) -> str:
        """Return where this run's steps live: on a cluster, or in its use of a shared one."""
        return self.lease.cluster_use if self.lease else cluster_id

    def note_steps(self, step_ids: Sequence[str]) -> None:
        """Note on a shared cluster what this run has submitted, so that it ends with the run."""
        if self.lease is None or self.leases is None:
            return
        try:
            replace(self.leases, budget=_NOTE_BUDGET).note_steps(self.lease, step_ids)
        except Exception as error:
            self.log.warning("Steps %s are not in the lease: %s", ", ".join(step_ids), error)

    def trigger_arguments(self, *, deadline: float, end_on_kill: bool) -> dict[str, Any]:
        """Return the arguments that all EMR triggers take."""
        arguments = super().trigger_arguments(deadline=deadline, end_on_kill=end_on_kill)
        if self.lease is None or self.leases is None:
            return arguments
        lease = {"table": self.leases.name, **self.lease.arguments()}
        return {**arguments, "lease": lease}

    def show_links(self, cluster_id: str, step_id: str | None = None) -> None:
        """Offer links in the UI; without them the task goes on."""
        log_uri = f"s3://{self.settings.bucket}/{self.settings.log_prefix}"
        try:
            self.links = emr_links(
                region=self.settings.region,
                log_uri=log_uri,
                cluster_id=cluster_id,
                step_id=step_id,
            )
        except Exception as error:
            self.log.warning("No links for %s: %s", cluster_id, error)

    def describe_cluster(self, cluster_id: str) -> dict[str, Any]:
        """Return DescribeCluster's ``Cluster``, or what is known without it."""
        cluster = self.describe(lambda: self.emr.describe_cluster(ClusterId=cluster_id), "Cluster")
        return {"Id": cluster_id, **cluster}

    def describe_step(self, cluster_id: str, step_id: str) -> dict[str, Any]:
        """Return DescribeStep's ``Step``, or nothing."""
        return self.describe(
            lambda: self.emr.describe_step(ClusterId=cluster_id, StepId=step_id), "Step"
        )
