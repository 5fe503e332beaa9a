"""Operators run as a worker and a triggerer run them, against a localaws."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest

from localaws.process import LocalAws
from tests.plugins.harness import (
    DEFINITION,
    FALLBACK_QUEUE,
    QUEUE,
    TaskInstance,
    job_flow,
    live_jobs,
)

SETTINGS = json.loads(os.environ["AIRFLOW_VAR_AWS_JOBS"])


@pytest.fixture(scope="session")
def localaws_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    delays = {
        "LOCALAWS_EMR_STARTING_SECONDS": "0.2",
        "LOCALAWS_EMR_BOOTSTRAPPING_SECONDS": "0.2",
        "LOCALAWS_EMR_TERMINATING_SECONDS": "0.2",
        "LOCALAWS_BATCH_STARTING_SECONDS": "0.1",
        "LOCALAWS_BATCH_IMAGES": json.dumps({"local/*": ""}),
    }
    with LocalAws(env=delays) as aws:
        yield aws


@pytest.fixture(autouse=True)
def _no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none whose notes a trigger must wait for."""
    monkeypatch.setenv("AIRFLOW__AWS_JOBS__SETTLE_SECONDS", "0")


@pytest.fixture(autouse=True)
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which tasks would have left their processes."""
    codes: list[int] = []
    monkeypatch.setattr("aws_jobs.aws_task._leave", codes.append)
    return codes


@pytest.fixture
def aws(localaws_process: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAws]:
    """A localaws without faults and with a new count; what a test leaves is ended."""
    for name, value in localaws_process.environment().items():
        monkeypatch.setenv(name, value)
    waits = {"lookup_grace_seconds": 1, "log_wait_seconds": 2, "batch_poll_seconds": 0.2}
    settings = {**SETTINGS, **waits}
    monkeypatch.setenv("AIRFLOW_VAR_AWS_JOBS", json.dumps(settings))
    # Each test has the account's whole quota.
    monkeypatch.setattr("aws_jobs.emr_polling._asks", {})
    monkeypatch.setattr("aws_jobs.batch_polling._asks", {})
    localaws_process.set_faults([])
    localaws_process.reset_calls()
    yield localaws_process
    localaws_process.set_faults([])
    left = live_clusters(localaws_process)
    emr = localaws_process.client("emr") if left else None
    for cluster_id in left:
        emr.set_termination_protection(JobFlowIds=[cluster_id], TerminationProtected=False)
        emr.terminate_job_flows(JobFlowIds=[cluster_id])


@pytest.fixture
def live(aws: LocalAws) -> Callable[[], list[str]]:
    """Ids of the clusters that stay alive: EMR ends one a moment after it was told to."""

    def settled() -> list[str]:
        if live_clusters(aws):
            time.sleep(0.5)
        return live_clusters(aws)

    return settled


@pytest.fixture
def ti() -> TaskInstance:
    return TaskInstance()


@pytest.fixture
def cluster_id(aws: LocalAws) -> str:
    """A cluster that somebody made."""
    return str(aws.client("emr").run_job_flow(**job_flow(), Tags=[])["JobFlowId"])


def live_clusters(aws: LocalAws) -> list[str]:
    over = {"TERMINATED", "TERMINATED_WITH_ERRORS", "TERMINATING"}
    return [cluster["id"] for cluster in aws.clusters() if cluster["state"] not in over]


@pytest.fixture(scope="session")
def batch_environment(localaws_process: LocalAws) -> LocalAws:
    """Compute environment, two queues, and a job definition whose parameter is a bash script."""
    batch = localaws_process.client("batch")
    batch.create_compute_environment(
        computeEnvironmentName="here",
        type="MANAGED",
        state="ENABLED",
        computeResources={
            "type": "EC2",
            "minvCpus": 0,
            "maxvCpus": 32,
            "instanceTypes": ["r6g"],
            "subnets": ["subnet-0localaws"],
            "securityGroupIds": ["sg-0localaws"],
            "instanceRole": "arn:aws:iam::123456789012:instance-profile/ecsInstanceRole",
        },
    )
    for queue in (QUEUE, FALLBACK_QUEUE):
        batch.create_job_queue(
            jobQueueName=queue,
            state="ENABLED",
            priority=1,
            computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "here"}],
        )
    batch.register_job_definition(
        jobDefinitionName=DEFINITION,
        type="container",
        parameters={"script": "true", "manifest": ""},
        containerProperties={
            "image": "local/bash",
            "command": ["bash", "-c", "Ref::script", "bash", "Ref::manifest"],
            "resourceRequirements": [
                {"type": "VCPU", "value": "1"},
                {"type": "MEMORY", "value": "200"},
            ],
        },
    )
    return localaws_process


@pytest.fixture
def batch(batch_environment: LocalAws, aws: LocalAws) -> Iterator[LocalAws]:
    """A localaws in which Batch jobs run; what a test leaves is ended."""
    yield aws
    client = aws.client("batch")
    for job in live_jobs(aws):
        client.terminate_job(jobId=job["id"], reason="the test is over")
