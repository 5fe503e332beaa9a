"""What lives at AWS: found in listings, described with its tags, and ended."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from aws_jobs import batch_polling, emr_polling
from aws_jobs.aws_errors import call_patiently, error_code, is_throttled
from aws_jobs.batch_job import JOB_ACTIVE, JOB_IDS_PER_CALL, terminate_job
from aws_jobs.job_flow import CLUSTER_READY, CLUSTER_STARTING, is_unknown_id, terminate_cluster
from aws_jobs.polling import CallRate
from aws_jobs.reaper_decision import Kind, LiveJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from aws_jobs.reaper_attempts import Attempts

# A call that AWS throttles or fails is repeated this long, in seconds.
_BUDGET = 300.0

_CLUSTER_STATES = CLUSTER_READY | CLUSTER_STARTING
_CLUSTER_NAME = re.compile(r" \[[0-9a-f]{16}\]$")
_JOB_NAME = re.compile(r"-[0-9a-f]{16}$")
# In this order: a job that moves on while it is looked for is met again, and not missed.
_JOB_STATES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


class Place(Protocol):
    """Where external jobs of one kind live."""

    kind: ClassVar[Kind]
    ids_per_call: ClassVar[int]

    def marked(self, attempts: Attempts) -> set[str]:
        """List what lives, and return the ids of what has a run key's mark in its name."""

    def describe(self, external_ids: Sequence[str]) -> list[LiveJob]:
        """Look at some, as many as one call takes; what somebody has ended is left out."""

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
    kind: ClassVar[Kind] = Kind.CLUSTER
    ids_per_call: ClassVar[int] = 1

    @classmethod
    def of(cls, client: Any, quota_share: float) -> Clusters:
        """Look with a client, at the pace of a share of EMR's quotas."""
        operations = {"list_clusters": "ListClusters", "describe_cluster": "DescribeCluster"}
        quotas = {name: emr_polling.QUOTAS[call] for name, call in operations.items()}
        rates = {
            name: CallRate(burst * quota_share, refill * quota_share)
            for name, (burst, refill) in quotas.items()
        }
        return cls(PacedClient(client, rates))

    def marked(self, attempts: Attempts) -> set[str]:
        """List the clusters that have not ended."""
        listed = attempts.make("not every cluster could be looked at", self._listed)
        return {each["Id"] for each in listed or () if _CLUSTER_NAME.search(each["Name"])}

    def describe(self, external_ids: Sequence[str]) -> list[LiveJob]:
        """Describe a cluster: listings tell no tags."""
        (cluster_id,) = external_ids
        try:
            cluster = self.emr.call("describe_cluster", ClusterId=cluster_id)["Cluster"]
        except Exception as error:
            if is_unknown_id(error):
                return []
            raise
        state = cluster["Status"]["State"]
        if state not in _CLUSTER_STATES:
            return []
        # A tag's value may be missing: https://docs.aws.amazon.com/emr/latest/APIReference/API_Tag.html
        tags = {tag["Key"]: tag.get("Value", "") for tag in cluster.get("Tags", [])}
        return [LiveJob(Kind.CLUSTER, cluster_id, cluster["Name"], state, tags)]

    def end(self, job: LiveJob, why: str) -> None:
        """Terminate a cluster, also where it is protected."""
        try:
            self.emr.patiently(
                "terminate_job_flows", lambda: terminate_cluster(self.emr.client, job.external_id)
            )
        except Exception as error:
            if not is_unknown_id(error):
                raise

    def _listed(self) -> list[dict[str, Any]]:
        states = sorted(_CLUSTER_STATES)
        return list(self.emr.pages("list_clusters", "Clusters", "Marker", ClusterStates=states))


@dataclass
class BatchJobs:
    """The jobs of the account's queues, an array as one.

    :param batch: Batch's client, paced.
    """

    batch: PacedClient
    kind: ClassVar[Kind] = Kind.BATCH_JOB
    ids_per_call: ClassVar[int] = JOB_IDS_PER_CALL

    @classmethod
    def of(cls, client: Any, quota_share: float) -> BatchJobs:
        """Look with a client, at the pace of a share of Batch's quota, one for all calls."""
        burst, refill = batch_polling.QUOTA
        rate = CallRate(burst * quota_share, refill * quota_share)
        operations = ("describe_job_queues", "list_jobs", "describe_jobs", "terminate_job")
        return cls(PacedClient(client, dict.fromkeys(operations, rate)))

    def marked(self, attempts: Attempts) -> set[str]:
        """List the jobs of every queue that have not ended."""
        marked: set[str] = set()
        for queue in attempts.make("not every job could be looked at", self._queues) or ():
            what = f"not every job of the queue {queue} could be looked at"
            for job in attempts.make(what, partial(self._listed, queue)) or ():
                if _JOB_NAME.search(job["jobName"]) and ":" not in job["jobId"]:
                    marked.add(job["jobId"])
        return marked

    def describe(self, external_ids: Sequence[str]) -> list[LiveJob]:
        """Describe jobs.

        One that was cancelled lives on: the children of an array run to their ends.
        """
        return [
            LiveJob(
                Kind.BATCH_JOB, job["jobId"], job["jobName"], job["status"], job.get("tags") or {}
            )
            for job in self.batch.call("describe_jobs", jobs=list(external_ids))["jobs"]
            if job["status"] in JOB_ACTIVE and not job.get("isTerminated")
        ]

    def end(self, job: LiveJob, why: str) -> None:
        """Terminate a job; the children of an array end with it."""
        try:
            self.batch.patiently(
                "terminate_job",
                lambda: terminate_job(self.batch.client, job.external_id, f"Housekeeping: {why}"),
            )
        except Exception as error:
            # So Batch answers where it does not know the job any more, and for much else.
            if error_code(error) != "ClientException" or self.describe([job.external_id]):
                raise

    def _queues(self) -> list[str]:
        queues = self.batch.pages("describe_job_queues", "jobQueues", "nextToken")
        return [queue["jobQueueName"] for queue in queues]

    def _listed(self, queue: str) -> list[dict[str, Any]]:
        return [
            job
            for state in _JOB_STATES
            for job in self.batch.pages(
                "list_jobs", "jobSummaryList", "nextToken", jobQueue=queue, jobStatus=state
            )
        ]
