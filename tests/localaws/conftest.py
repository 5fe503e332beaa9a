"""A localaws on a free port, quick and without templates, shared by the tests of a session."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from localaws.process import LocalAws

BUCKET = "logs-and-code"
#: Delays near 0; an idle timeout of 60 s lasts 0.6 s, a job's timeout of 60 s lasts 0.3 s.
QUICK = {
    "LOCALAWS_EMR_STARTING_SECONDS": "0.05",
    "LOCALAWS_EMR_BOOTSTRAPPING_SECONDS": "0.05",
    "LOCALAWS_EMR_TERMINATING_SECONDS": "0.05",
    "LOCALAWS_EMR_IDLE_SCALE": "0.01",
    "LOCALAWS_BATCH_STARTING_SECONDS": "0.02",
    "LOCALAWS_BATCH_TIMEOUT_SCALE": "0.005",
    "LOCALAWS_BATCH_IMAGES": json.dumps({"local/*": "", "elsewhere/tools:*": "/nonexistent"}),
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


class Batch:
    """What tests do with Batch, in short words; ``client`` is boto3's."""

    numbers = itertools.count()

    def __init__(self, aws: LocalAws) -> None:
        self.aws = aws
        self.client = aws.client("batch")
        self.logs = aws.client("logs")

    def environment(self, vcpus: int, kind: str = "EC2", **resources: Any) -> str:
        """Make a compute environment of its own name."""
        name = f"environment-{next(self.numbers)}"
        self.client.create_compute_environment(
            computeEnvironmentName=name,
            type="MANAGED",
            computeResources={
                "type": kind,
                "maxvCpus": vcpus,
                "instanceTypes": ["r6g"],
                "subnets": ["subnet-1"],
                "securityGroupIds": ["sg-1"],
                **resources,
            },
        )
        return name

    def queue(self, *environments: str, priority: int = 1) -> str:
        """Make a queue of its own name."""
        name = f"queue-{next(self.numbers)}"
        order = [
            {"order": place, "computeEnvironment": one} for place, one in enumerate(environments, 1)
        ]
        self.client.create_job_queue(
            jobQueueName=name, priority=priority, computeEnvironmentOrder=order
        )
        return name

    def definition(self, command: Any = ("bash", "-c", "Ref::script"), **more: Any) -> str:
        """Register a definition of its own name: 1 vCPU, 500 MiB."""
        name = f"definition-{next(self.numbers)}"
        container = {
            "image": "local/any",
            "command": list(command),
            "resourceRequirements": requirements(1, 500),
            **more.pop("container", {}),
        }
        self.client.register_job_definition(
            jobDefinitionName=name, type="container", containerProperties=container, **more
        )
        return name

    def submit(self, script: str = "true", *, name: str = "job", **request: Any) -> str:
        """Submit a job of bash to the queue that all tests share."""
        arguments = {
            "jobName": name,
            "jobQueue": "shared",
            "jobDefinition": "bash",
            "parameters": {"script": script},
            **request,
        }
        return str(self.client.submit_job(**arguments)["jobId"])

    def job(self, job_id: str) -> dict[str, Any]:
        (found,) = self.client.describe_jobs(jobs=[job_id])["jobs"]
        return dict(found)

    def state(self, job_id: str) -> str:
        return str(self.job(job_id)["status"])

    def await_state(self, job_id: str, *states: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def there() -> bool:
            found.clear()
            found.update(self.job(job_id))
            return found["status"] in states

        until(there, f"{job_id} to be {states}")
        return found

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end."""
        return self.await_state(job_id, "SUCCEEDED", "FAILED")

    def succeeded(self, job_id: str) -> dict[str, Any]:
        job = self.ended(job_id)
        assert job["status"] == "SUCCEEDED", job
        return job

    def printed(self, job: dict[str, Any], group: str = "/aws/batch/job") -> list[str]:
        """Read the log of a job's last attempt."""
        stream = job["container"]["logStreamName"]
        events = self.logs.get_log_events(
            logGroupName=group, logStreamName=stream, startFromHead=True
        )
        return [event["message"] for event in events["events"]]

    def output(self, script: str, **request: Any) -> list[str]:
        """Run a script to its success and return what it printed."""
        return self.printed(self.succeeded(self.submit(script, **request)))


def requirements(vcpus: int, memory: int) -> list[dict[str, str]]:
    return [
        {"type": "VCPU", "value": str(vcpus)},
        {"type": "MEMORY", "value": str(memory)},
    ]


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
    clusters, jobs = server.live_clusters(), server.live_jobs()
    # a client takes longer to make than most tests
    if clusters:
        emr = server.client("emr")
        for cluster in clusters:
            emr.set_termination_protection(JobFlowIds=[cluster["id"]], TerminationProtected=False)
            emr.terminate_job_flows(JobFlowIds=[cluster["id"]])
    if jobs:
        batch = server.client("batch")
        for job in jobs:
            batch.terminate_job(jobId=job["id"], reason="the test is over")


@pytest.fixture
def emr(aws: LocalAws) -> Emr:
    return Emr(aws)


@pytest.fixture(scope="session")
def batch_stack(server: LocalAws) -> Batch:
    """A queue of 16 vCPUs and a definition that most tests use."""
    batch = Batch(server)
    environment = batch.environment(16)
    batch.client.create_job_queue(
        jobQueueName="shared",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": environment}],
    )
    batch.client.register_job_definition(
        jobDefinitionName="bash",
        type="container",
        containerProperties={
            "image": "local/any",
            "command": ["bash", "-c", "Ref::script"],
            "resourceRequirements": requirements(1, 500),
        },
    )
    return batch


@pytest.fixture
def batch(aws: LocalAws, batch_stack: Batch) -> Batch:
    return batch_stack
