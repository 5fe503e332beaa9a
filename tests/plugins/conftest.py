"""Operators run as a worker and a triggerer run them, against a localaws."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest

from localaws.process import LocalAws
from tests.plugins.harness import TaskInstance, job_flow

SETTINGS = json.loads(os.environ["AIRFLOW_VAR_AWS_JOBS"])


@pytest.fixture(scope="session")
def localaws_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    delays = {
        "LOCALAWS_EMR_STARTING_SECONDS": "0.2",
        "LOCALAWS_EMR_BOOTSTRAPPING_SECONDS": "0.2",
        "LOCALAWS_EMR_TERMINATING_SECONDS": "0.2",
    }
    with LocalAws(env=delays) as aws:
        yield aws


@pytest.fixture
def aws(localaws_process: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAws]:
    """A localaws without faults and with a new count; what a test leaves is ended."""
    for name, value in localaws_process.environment().items():
        monkeypatch.setenv(name, value)
    settings = {**SETTINGS, "lookup_grace_seconds": 1, "log_wait_seconds": 2}
    monkeypatch.setenv("AIRFLOW_VAR_AWS_JOBS", json.dumps(settings))
    # There is no scheduler here whose notes a trigger must wait for.
    monkeypatch.setattr("aws_jobs.polling.SETTLE_SECONDS", 0.0)
    # Each test has the account's whole quota.
    monkeypatch.setattr("aws_jobs.emr_polling._asks", {})
    localaws_process.set_faults([])
    localaws_process.reset_calls()
    yield localaws_process
    localaws_process.set_faults([])
    emr = localaws_process.client("emr")
    for cluster_id in live_clusters(localaws_process):
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
