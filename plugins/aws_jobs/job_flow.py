"""EMR clusters ("job flows") and their steps as external jobs, and what their ends mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import error_code, error_message
from aws_jobs.identity import mark, named
from aws_jobs.verdicts import FailureClass, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from aws_jobs.identity import RunKey

# https://docs.aws.amazon.com/emr/latest/APIReference/API_ClusterStatus.html
CLUSTER_READY = frozenset({"RUNNING", "WAITING"})
CLUSTER_STARTING = frozenset({"STARTING", "BOOTSTRAPPING"})
CLUSTER_ENDED = frozenset({"TERMINATED", "TERMINATED_WITH_ERRORS"})
CLUSTER_ENDING = CLUSTER_ENDED | {"TERMINATING"}

# https://docs.aws.amazon.com/emr/latest/APIReference/API_StepStatus.html
STEP_ACTIVE = frozenset({"PENDING", "RUNNING"})
STEP_ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED"})

# https://docs.aws.amazon.com/emr/latest/APIReference/API_ListSteps.html
STEP_IDS_PER_CALL = 10

_NOT_FOUND_CODES = frozenset({"InvalidRequestException", "ValidationException"})
_CAPACITY_CODES = frozenset({"INSTANCE_FAILURE", "INSTANCE_FLEET_TIMEOUT"})
_CAPACITY_TEXT = re.compile(
    r"insufficient.?instance.?capacity|insufficient capacity|\bspot\b|Host EC2 .* terminated", re.I
)
_MEMORY_TEXT = re.compile(
    r"OutOfMemory|exit (?:code|status):? *137|exceeding (?:physical )?memory limits"
    r"|running beyond (?:physical|virtual) memory limits|Cannot allocate memory",
    re.I,
)


def is_unknown_id(error: BaseException) -> bool:
    """Whether EMR says that it does not know a cluster or step."""
    return error_code(error) in _NOT_FOUND_CODES and bool(
        re.search(r"is not valid|does not exist|not found", error_message(error), re.I)
    )


def is_protected(error: BaseException) -> bool:
    """Whether EMR refused to terminate a cluster because it is protected."""
    return error_code(error) == "ValidationException" and bool(
        re.search("protect", error_message(error), re.I)
    )


def terminate_cluster(emr: Any, cluster_id: str) -> None:
    """Terminate a cluster; one that has ended already stays as it is.

    Nothing is read first, so that a throttled read cannot keep a cluster alive. Protection is
    lifted only where EMR refuses for it: SetTerminationProtection has the scarcest quota of all.
    """
    try:
        emr.terminate_job_flows(JobFlowIds=[cluster_id])
    except Exception as error:
        if not is_protected(error):
            raise
        emr.set_termination_protection(JobFlowIds=[cluster_id], TerminationProtected=False)
        emr.terminate_job_flows(JobFlowIds=[cluster_id])


def cancel_steps(
    emr: Any, cluster_id: str, step_ids: Sequence[str], *, force: bool = False
) -> dict[str, str]:
    """Cancel steps and return EMR's reason for each that it did not cancel.

    :param force: end the process at once instead of interrupting it.
    """
    option = "TERMINATE_PROCESS" if force else "SEND_INTERRUPT"
    answer = emr.cancel_steps(
        ClusterId=cluster_id, StepIds=list(step_ids), StepCancellationOption=option
    )
    return {
        info["StepId"]: info.get("Reason", "no reason given")
        for info in answer.get("CancelStepsInfoList", [])
        if info.get("Status") == "FAILED"
    }


@dataclass(frozen=True)
class ClusterJob:
    """One cluster as an external job.

    :param emr: a client that makes each call once.
    :param job_flow: the arguments of RunJobFlow, validated.
    :param tags: tags beside those of the run key.
    """

    emr: Any
    job_flow: Mapping[str, Any]
    tags: Mapping[str, str]
    scope: str = ""

    def submit_job(self, run_key: RunKey) -> list[str]:
        """Call RunJobFlow."""
        tags = {**self.tags, **run_key.tags}
        request = {
            **self.job_flow,
            "Name": named(self.job_flow["Name"], run_key),
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }
        return [self.emr.run_job_flow(**request)["JobFlowId"]]

    def find_job(self, run_key: RunKey, since: datetime) -> list[str] | None:
        """Look for the run key in the names of clusters: ListClusters returns no tags."""
        ended: list[str] | None = None
        pages = self.emr.get_paginator("list_clusters").paginate(CreatedAfter=since)
        for page in pages:
            for cluster in page["Clusters"]:
                if not cluster["Name"].endswith(mark(run_key)):
                    continue
                if cluster["Status"]["State"] not in CLUSTER_ENDING:
                    return [cluster["Id"]]
                ended = [cluster["Id"]]
        return ended

    def get_job_status(self, external_ids: Sequence[str]) -> str | None:
        """Return the cluster's state."""
        try:
            answer = self.emr.describe_cluster(ClusterId=external_ids[0])
        except Exception as error:
            if is_unknown_id(error):
                return None
            raise
        return str(answer["Cluster"]["Status"]["State"])

    def is_job_active(self, status: str) -> bool:
        """Return False for a cluster that is terminating: somebody has ended it."""
        return status in CLUSTER_READY | CLUSTER_STARTING

    def is_job_succeeded(self, status: str) -> bool:
        """Return False: a cluster that has ended is never what a retry wants."""
        return False

    def end_job(self, external_ids: Sequence[str]) -> None:
        """Terminate the cluster."""
        try:
            terminate_cluster(self.emr, external_ids[0])
        except Exception as error:
            if not is_unknown_id(error):
                raise

    def at(self, scope: str) -> ClusterJob:
        """Clusters live in no scope."""
        return self


@dataclass(frozen=True)
class StepsJob:
    """Steps of a cluster, submitted by one call, as one external job.

    :param scope: the cluster's id; of a shared one ``<id>-<use>``, so that a run that has taken the
        same cluster anew submits anew.
    """

    emr: Any
    scope: str
    steps: Sequence[Mapping[str, Any]]

    @property
    def cluster_id(self) -> str:
        """The cluster, however it is used: its id is ``j-`` and letters and digits."""
        return "-".join(self.scope.split("-")[:2])

    def submit_job(self, run_key: RunKey) -> list[str]:
        """Call AddJobFlowSteps."""
        steps = [
            {**step, "Name": named(step["Name"], run_key, index=index)}
            for index, step in enumerate(self.steps)
        ]
        return list(self.emr.add_job_flow_steps(JobFlowId=self.cluster_id, Steps=steps)["StepIds"])

    def find_job(self, run_key: RunKey, since: datetime) -> list[str] | None:
        """Look for the run key in the names of the cluster's steps."""
        found: dict[int, str] = {}
        try:
            for page in self.emr.get_paginator("list_steps").paginate(ClusterId=self.cluster_id):
                for step in page["Steps"]:
                    for index in range(len(self.steps)):
                        if step["Name"].endswith(mark(run_key, index=index)):
                            # The newest comes first.
                            found.setdefault(index, step["Id"])
        except Exception as error:
            if is_unknown_id(error):
                return None
            raise
        if len(found) < len(self.steps):
            return None
        return [found[index] for index in range(len(self.steps))]

    def get_job_status(self, external_ids: Sequence[str]) -> str | None:
        """Return the state of the steps together: that of the one that is furthest from success."""
        states: list[str] = []
        for start in range(0, len(external_ids), STEP_IDS_PER_CALL):
            some = list(external_ids[start : start + STEP_IDS_PER_CALL])
            try:
                answer = self.emr.list_steps(ClusterId=self.cluster_id, StepIds=some)
            except Exception as error:
                if is_unknown_id(error):
                    return None
                raise
            states += [step["Status"]["State"] for step in answer["Steps"]]
        if len(states) < len(external_ids):
            return None
        return next(
            (s for s in states if s not in STEP_ACTIVE and s != "COMPLETED"),
            next((s for s in states if s in STEP_ACTIVE), "COMPLETED"),
        )

    def is_job_active(self, status: str) -> bool:
        """Return False for a step whose cancellation is pending: somebody has ended it."""
        return status in STEP_ACTIVE

    def is_job_succeeded(self, status: str) -> bool:
        """Whether all steps have completed."""
        return status == "COMPLETED"

    def end_job(self, external_ids: Sequence[str]) -> None:
        """Cancel the steps; EMR refuses where the cluster or the step has ended already."""
        try:
            cancel_steps(self.emr, self.cluster_id, external_ids)
        except Exception as error:
            if error_code(error) not in _NOT_FOUND_CODES:
                raise

    def at(self, scope: str) -> StepsJob:
        """Return the steps of another cluster."""
        return replace(self, scope=scope)


def cluster_verdict(cluster_id: str, cluster: Mapping[str, Any]) -> Verdict:
    """Judge a cluster that ended, or is ending, without having been told to.

    :param cluster: DescribeCluster's ``Cluster``, or as much of it as is known.
    """
    status = cluster.get("Status", {})
    change = status.get("StateChangeReason", {})
    code, message = change.get("Code", ""), change.get("Message", "")
    details = [
        detail.get("ErrorMessage") or detail.get("ErrorCode", "")
        for detail in status.get("ErrorDetails", [])
    ]
    words = " ".join(filter(None, [f"{code}:" if code else "", message, *details]))
    return Verdict(
        job=f"Cluster {cluster_id}",
        state=status.get("State", "UNKNOWN"),
        failure=_cluster_failure(code, words),
        reason=words,
    )


def _cluster_failure(code: str, words: str) -> FailureClass:
    if code == "BOOTSTRAP_FAILURE":
        return FailureClass.BOOTSTRAP
    if code in _CAPACITY_CODES or _CAPACITY_TEXT.search(words):
        return FailureClass.CAPACITY
    if code == "VALIDATION_ERROR":
        return FailureClass.REFUSED
    return FailureClass.CLUSTER_LOST


def step_verdict(
    cluster_id: str, step_id: str, step: Mapping[str, Any], cluster: Mapping[str, Any]
) -> Verdict:
    """Judge a step that ended otherwise than completed.

    :param step: DescribeStep's ``Step``, or as much of it as is known.
    :param cluster: DescribeCluster's ``Cluster``, or as much of it as is known.
    """
    status = step.get("Status", {})
    details = status.get("FailureDetails", {})
    change = status.get("StateChangeReason", {})
    state = status.get("State", "UNKNOWN")
    parts = [details.get("Reason"), details.get("Message"), change.get("Message")]
    words = " ".join(dict.fromkeys(part for part in parts if part))
    failure = FailureClass.APPLICATION
    if state in {"CANCELLED", "CANCEL_PENDING"}:
        failure = FailureClass.CANCELLED
    if _MEMORY_TEXT.search(words):
        failure = FailureClass.MEMORY
    cluster_status = cluster.get("Status", {})
    if state != "FAILED" and cluster_status.get("State") in CLUSTER_ENDING:
        ended = cluster_verdict(cluster_id, cluster)
        failure = FailureClass.CLUSTER_LOST
        words = f"{words} The cluster is {ended.state}: {ended.reason}".strip()
    return Verdict(
        job=f"Step {step_id} of cluster {cluster_id}",
        state=state,
        failure=failure,
        reason=words,
        log_uri=details.get("LogFile", ""),
    )


def memory_failure(verdict: Verdict, lines: Sequence[str]) -> Verdict:
    """Call a failure one of memory where its log says so."""
    if verdict.failure is FailureClass.APPLICATION and any(map(_MEMORY_TEXT.search, lines)):
        return replace(verdict, failure=FailureClass.MEMORY)
    return verdict
