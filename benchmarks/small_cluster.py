"""Requests for a cluster of one node and for a step of bash."""

from __future__ import annotations

from typing import Any


def job_flow(name: str, concurrency: int) -> dict[str, Any]:
    """Return RunJobFlow's arguments for a cluster that runs so many steps at once."""
    return {
        "Name": name,
        "ReleaseLabel": "emr-7.12.0",
        "Instances": {
            "InstanceGroups": [
                {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
            ],
            "KeepJobFlowAliveWhenNoSteps": True,
            "Ec2SubnetId": "subnet-0localaws",
        },
        "JobFlowRole": "local-emr-instance",
        "ServiceRole": "local-emr-service",
        "StepConcurrencyLevel": concurrency,
        "AutoTerminationPolicy": {"IdleTimeout": 600},
    }


def bash_step(name: str, script: str, *arguments: str) -> dict[str, Any]:
    """Return a step that runs a script."""
    return {
        "Name": name,
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {
            "Jar": "command-runner.jar",
            "Args": ["bash", "-c", script, name, *arguments],
        },
    }
