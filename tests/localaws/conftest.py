"""A localaws on a free port, quick and without templates, shared by the tests of a session."""

from __future__ import annotations

import gzip
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from localaws.process import LocalAws

BUCKET = "logs-and-code"
#: Delays near 0; an idle timeout of 60 s lasts 0.6 s.
QUICK = {
    "LOCALAWS_EMR_STARTING_SECONDS": "0.05",
    "LOCALAWS_EMR_BOOTSTRAPPING_SECONDS": "0.05",
    "LOCALAWS_EMR_TERMINATING_SECONDS": "0.05",
    "LOCALAWS_EMR_IDLE_SCALE": "0.01",
}
ACTIVE_STEP = ("PENDING", "RUNNING", "CANCEL_PENDING")


class Emr:
    """What tests do with EMR, in short words; ``client`` is boto3's."""

    def __init__(self, aws: LocalAws) -> None:
        self.aws = aws
        self.client = aws.client("emr")
        self.s3 = aws.client("s3")

    def start(self, *, keep: bool = True, groups: Any = None, **request: Any) -> str:
        """Start a cluster of one node."""
        instances = {
            "KeepJobFlowAliveWhenNoSteps": keep,
            "InstanceGroups": groups or [group("MASTER", 1)],
            **request.pop("Instances", {}),
        }
        arguments = {
            "Name": "test",
            "ReleaseLabel": "emr-7.12.0",
            "LogUri": f"s3://{BUCKET}/logs/",
            "Instances": instances,
            **request,
        }
        return str(self.client.run_job_flow(**arguments)["JobFlowId"])

    def add(self, cluster: str, *scripts: str, action: str = "CONTINUE") -> list[str]:
        """Add a step of bash for each script."""
        steps = [bash(script, action=action) for script in scripts]
        return list(self.client.add_job_flow_steps(JobFlowId=cluster, Steps=steps)["StepIds"])

    def state(self, cluster: str) -> str:
        return str(self.cluster(cluster)["Status"]["State"])

    def cluster(self, cluster: str) -> dict[str, Any]:
        return dict(self.client.describe_cluster(ClusterId=cluster)["Cluster"])

    def step(self, cluster: str, step: str) -> dict[str, Any]:
        return dict(self.client.describe_step(ClusterId=cluster, StepId=step)["Step"])

    def step_state(self, cluster: str, step: str) -> str:
        return str(self.step(cluster, step)["Status"]["State"])

    def await_state(self, cluster: str, *states: str) -> dict[str, Any]:
        until(lambda: self.state(cluster) in states, f"{cluster} to be {states}")
        return self.cluster(cluster)

    def await_step(self, cluster: str, step: str, *states: str) -> dict[str, Any]:
        def there() -> bool:
            state = self.step_state(cluster, step)
            return state in states or state not in ACTIVE_STEP

        until(there, f"{step} to be {states or 'over'}")
        found = self.step(cluster, step)
        assert not states or found["Status"]["State"] in states, found["Status"]
        return found

    def log(self, cluster: str, *path: str) -> str:
        """Read a log that EMR has stored."""
        key = "/".join(["logs", cluster, *path]) + ".gz"
        body = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return gzip.decompress(body).decode()

    def put(self, key: str, text: str) -> str:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=text.encode())
        return f"s3://{BUCKET}/{key}"


def group(role: str, count: int, **more: Any) -> dict[str, Any]:
    return {"InstanceRole": role, "InstanceCount": count, "InstanceType": "m5.xlarge", **more}


def bash(script: str, *, action: str = "CONTINUE", name: str = "step") -> dict[str, Any]:
    jar = {"Jar": "command-runner.jar", "Args": ["bash", "-c", script]}
    return {"Name": name, "ActionOnFailure": action, "HadoopJarStep": jar}


def until(condition: Callable[[], bool], what: str, timeout: float = 20.0) -> None:
    """Wait for something that should happen soon."""
    give_up = time.monotonic() + timeout
    for pause in itertools.chain([0.01] * 20, itertools.repeat(0.1)):
        if condition():
            return
        assert time.monotonic() < give_up, f"waited {timeout} s in vain for {what}"
        time.sleep(pause)


@pytest.fixture(scope="session")
def server() -> Iterator[LocalAws]:
    with LocalAws(env=QUICK, seed=False) as aws:
        aws.client("s3").create_bucket(Bucket=BUCKET)
        yield aws


@pytest.fixture
def aws(server: LocalAws) -> Iterator[LocalAws]:
    """The server without faults and with a new count; what a test leaves alive is ended."""
    server.clear_faults()
    server.reset_calls()
    yield server
    server.clear_faults()
    emr = server.client("emr")
    for cluster in server.live_clusters():
        emr.set_termination_protection(JobFlowIds=[cluster["id"]], TerminationProtected=False)
        emr.terminate_job_flows(JobFlowIds=[cluster["id"]])


@pytest.fixture
def emr(aws: LocalAws) -> Emr:
    return Emr(aws)
