"""Batch jobs that sleep, and a queue with room for all of them at once."""

from __future__ import annotations

import json
from typing import Any

QUEUE = "benchmark"
#: The pool of airflow-pools.json for tasks that submit.
POOL = "batch_submissions"
IMAGE = "benchmark/sleep"
#: Sleeps for `seconds`.
SLEEP = "sleep-for"
#: Sleeps until `milliseconds` of Unix time.
SLEEP_UNTIL = "sleep-until"
#: What a localaws needs to run them.
ENVIRONMENT = {"LOCALAWS_BATCH_IMAGES": json.dumps({IMAGE: ""})}

#: Of bash; its argument are the milliseconds of Unix time until which it sleeps.
UNTIL_SCRIPT = """
left=$(( $1 - ${EPOCHREALTIME/[.,]/} / 1000 ))
[ $left -le 0 ] || exec sleep $(printf '%d.%03d' $((left / 1000)) $((left % 1000)))
"""


def prepare(batch: Any, jobs: int) -> None:
    """Make a compute environment with a vCPU for each job, a queue and the job definitions."""
    batch.create_compute_environment(
        computeEnvironmentName=QUEUE,
        type="MANAGED",
        computeResources={
            "type": "EC2",
            "minvCpus": 0,
            "maxvCpus": jobs,
            "instanceTypes": ["r6g"],
            "subnets": ["subnet-0localaws"],
            "securityGroupIds": ["sg-0localaws"],
            "instanceRole": "arn:aws:iam::123456789012:instance-profile/benchmark",
        },
    )
    batch.create_job_queue(
        jobQueueName=QUEUE,
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": QUEUE}],
    )
    _define(batch, SLEEP, ["sleep", "Ref::seconds"], {"seconds": "60"})
    _define(batch, SLEEP_UNTIL, ["bash", "-c", UNTIL_SCRIPT, "-", "Ref::milliseconds"], {})


def _define(batch: Any, name: str, command: list[str], parameters: dict[str, str]) -> None:
    batch.register_job_definition(
        jobDefinitionName=name,
        type="container",
        parameters=parameters,
        containerProperties={
            "image": IMAGE,
            "command": command,
            "resourceRequirements": [
                {"type": "VCPU", "value": "1"},
                {"type": "MEMORY", "value": "64"},
            ],
        },
    )
