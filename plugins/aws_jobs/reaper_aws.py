"""What of this deployment lives at AWS: found in listings, told by its tags, and ended."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from aws_jobs import batch_polling, emr_polling
from aws_jobs.aws_errors import call_patiently, error_code, is_throttled
from aws_jobs.batch_job import JOB_ACTIVE, JOB_IDS_PER_CALL, state_of, terminate_job
from aws_jobs.identity import TAG_DEPLOYMENT
from aws_jobs.job_flow import CLUSTER_READY, CLUSTER_STARTING, is_unknown_id, terminate_cluster
from aws_jobs.polling import CallRate
from aws_jobs.reaper_decision import Kind, LiveJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# A call that AWS throttles is repeated this long, in seconds.
_BUDGET = 900.0

_CLUSTER_NAME = re.compile(r" \[[0-9a-f]{16}\]$")
_JOB_NAME = re.compile(r"-[0-9a-f]{16}$")
# In this order: a job that moves on while it is looked for is met again, and not missed.
_JOB_STATES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


class Place(Protocol):
    """Where external jobs of one kind live."""

    kind: ClassVar[Kind]
    others: int
    """How many were met that look like ours and are not this deployment's."""

    def live(self) -> Iterator[LiveJob]:
        """Find those of this deployment that nobody has ended."""

    def find(self, external_id: str) -> LiveJob | None:
        """Look at one of them again; None where it has ended, or is not this deployment's."""

    def end(self, job: LiveJob, why: str) -> None:
        """End it; one that has ended meanwhile is no error."""


@dataclass
class PacedClient:
    """Calls that may safely be made twice, within a share of the account's quotas.

    :param client: a client that makes each call once.
    :param rates: by operation; the others are not held back.
    """

    client: Any
    rates: Mapping[str, CallRate]
    budget: float = _BUDGET
    sleep: Callable[[float], None] = time.sleep

    def call(self, operation: str, **arguments: Any) -> Any:
        """Call an operation, and again while AWS throttles or fails.

        :raises botocore.exceptions.ClientError: once the budget is used up, or for a refusal.
        """
        method = getattr(self.client, operation)
        return self.patiently(operation, partial(method, **arguments))

    def patiently(self, operation: str, call: Callable[[], Any]) -> Any:
        """Do what needs an operation's quota."""
        return call_patiently(lambda: self._paced(operation, call), budget=self.budget)

    def pages(self, operation: str, key: str, token: str, **arguments: Any) -> Iterator[Any]:
        """Yield what is listed below a key, page by page.

        :param token: the name under which the next page is asked for and told of.
        """
        while True:
            answer = self.call(operation, **arguments)
            yield from answer[key]
            if not answer.get(token):
                return
            arguments[token] = answer[token]

    def _paced(self, operation: str, call: Callable[[], Any]) -> Any:
        rate = self.rates.get(operation)
        if rate is None:
            return call()
        if wait := rate.take():
            self.sleep(wait)
        try:
            answer = call()
        except Exception as error:
            if is_throttled(error):
                rate.throttled()
            raise
        rate.answered()
        return answer


@dataclass
class Clusters:
    """The account's clusters.

    :param emr: EMR's client, paced.
    """

    emr: PacedClient
    deployment_id: str
    others: int = 0
    kind: ClassVar[Kind] = Kind.CLUSTER

    @classmethod
    def of(cls, client: Any, deployment_id: str, quota_share: float) -> Clusters:
        """Look with a client, at the pace of EMR's quotas."""
        operations = {"list_clusters": "ListClusters", "describe_cluster": "DescribeCluster"}
        quotas = {name: emr_polling.QUOTAS[call] for name, call in operations.items()}
        rates = {
            name: CallRate(burst * quota_share, refill * quota_share)
            for name, (burst, refill) in quotas.items()
        }
        return cls(PacedClient(client, rates), deployment_id)

    def live(self) -> Iterator[LiveJob]:
        """List, and describe each that has a run key's mark in its name: listings tell no tags."""
        states = sorted(CLUSTER_READY | CLUSTER_STARTING)
        listed = self.emr.pages("list_clusters", "Clusters", "Marker", ClusterStates=states)
        marked = {each["Id"] for each in listed if _CLUSTER_NAME.search(each["Name"])}
        for cluster_id in sorted(marked):
            cluster = self._describe(cluster_id)
            if cluster is None:
                continue
            if _is_ours(cluster.tags, self.deployment_id):
                yield cluster
            else:
                self.others += 1

    def find(self, external_id: str) -> LiveJob | None:
        """Describe a cluster."""
        cluster = self._describe(external_id)
        return cluster if cluster and _is_ours(cluster.tags, self.deployment_id) else None

    def end(self, job: LiveJob, why: str) -> None:
        """Terminate a cluster, also where it is protected."""
        try:
            self.emr.patiently(
                "terminate_job_flows", lambda: terminate_cluster(self.emr.client, job.external_id)
            )
        except Exception as error:
            if not is_unknown_id(error):
                raise

    def _describe(self, cluster_id: str) -> LiveJob | None:
        try:
            cluster = self.emr.call("describe_cluster", ClusterId=cluster_id)["Cluster"]
        except Exception as error:
            if is_unknown_id(error):
                return None
            raise
        state = cluster["Status"]["State"]
        if state not in CLUSTER_READY | CLUSTER_STARTING:
            return None
        tags = {tag["Key"]: tag["Value"] for tag in cluster.get("Tags", [])}
        return LiveJob(Kind.CLUSTER, cluster_id, cluster["Name"], state, tags)


@dataclass
class BatchJobs:
    """The jobs of the account's queues, an array as one.

    :param batch: Batch's client, paced.
    """

    batch: PacedClient
    deployment_id: str
    others: int = 0
    kind: ClassVar[Kind] = Kind.BATCH_JOB

    @classmethod
    def of(cls, client: Any, deployment_id: str, quota_share: float) -> BatchJobs:
        """Look with a client, at the pace of Batch's quota, which is one for all calls."""
        burst, refill = batch_polling.QUOTA
        rate = CallRate(burst * quota_share, refill * quota_share)
        operations = ("describe_job_queues", "list_jobs", "describe_jobs", "terminate_job")
        return cls(PacedClient(client, dict.fromkeys(operations, rate)), deployment_id)

    def live(self) -> Iterator[LiveJob]:
        """List every queue, and describe what has a run key's mark in its name."""
        marked = sorted(self._marked())
        for start in range(0, len(marked), JOB_IDS_PER_CALL):
            for job in self._describe(marked[start : start + JOB_IDS_PER_CALL]):
                if _is_ours(job.tags, self.deployment_id):
                    yield job
                else:
                    self.others += 1

    def find(self, external_id: str) -> LiveJob | None:
        """Describe a job."""
        found = [
            job for job in self._describe([external_id]) if _is_ours(job.tags, self.deployment_id)
        ]
        return found[0] if found else None

    def end(self, job: LiveJob, why: str) -> None:
        """Terminate a job; the children of an array end with it."""
        try:
            self.batch.patiently(
                "terminate_job",
                lambda: terminate_job(self.batch.client, job.external_id, f"Housekeeping: {why}"),
            )
        except Exception as error:
            # Batch does not know it any more.
            if error_code(error) != "ClientException" or is_throttled(error):
                raise

    def _marked(self) -> set[str]:
        queues = self.batch.pages("describe_job_queues", "jobQueues", "nextToken")
        return {
            job["jobId"]
            for queue in [each["jobQueueName"] for each in queues]
            for state in _JOB_STATES
            for job in self.batch.pages(
                "list_jobs", "jobSummaryList", "nextToken", jobQueue=queue, jobStatus=state
            )
            if _JOB_NAME.search(job["jobName"]) and ":" not in job["jobId"]
        }

    def _describe(self, job_ids: Sequence[str]) -> Iterator[LiveJob]:
        for job in self.batch.call("describe_jobs", jobs=list(job_ids))["jobs"]:
            if (state := state_of(job)) in JOB_ACTIVE:
                tags = job.get("tags") or {}
                yield LiveJob(Kind.BATCH_JOB, job["jobId"], job["jobName"], state, tags)


def _is_ours(tags: Mapping[str, str], deployment_id: str) -> bool:
    return tags.get(TAG_DEPLOYMENT) == deployment_id
