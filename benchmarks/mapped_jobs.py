"""Batch jobs of a minute each in one mapped run, through a whole Airflow: what is asked of AWS.

Prints the calls by operation, beside those of one DescribeJobs a job and look, which is how the
stock operator's triggers wait.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from scripts.local_env import read_env_file
from scripts.stack import ROOT, Stack

JOB_SECONDS = 60
POLL_SECONDS = 10
IMAGE = "benchmark/sleep"


def prepare(stack: Stack, jobs: int) -> None:
    """Make a compute environment with a vCPU for each job, and a definition that sleeps."""
    batch = stack.client("batch")
    batch.create_compute_environment(
        computeEnvironmentName="benchmark",
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
        jobQueueName="benchmark",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "benchmark"}],
    )
    batch.register_job_definition(
        jobDefinitionName="sixty-seconds",
        type="container",
        containerProperties={
            "image": IMAGE,
            "command": ["sleep", str(JOB_SECONDS)],
            "resourceRequirements": [
                {"type": "VCPU", "value": "1"},
                {"type": "MEMORY", "value": "64"},
            ],
        },
    )


def run(stack: Stack, jobs: int) -> dict[str, Any]:
    """Run the DAG once and return what it took."""
    prepare(stack, jobs)
    stack.rest.wait_for_dags(["sixty_seconds"])
    stack.rest.set_paused("sixty_seconds", False)
    counted = f"{stack.localaws_url}/localaws/calls"
    httpx.delete(counted, trust_env=False).raise_for_status()
    began = time.monotonic()
    run_id = stack.rest.trigger("sixty_seconds", conf={"jobs": jobs}, run_id=None)
    state = stack.rest.wait_for_run("sixty_seconds", run_id, timeout=1800)["state"]
    wall = time.monotonic() - began
    if state != "success":
        raise SystemExit(f"the run ended as {state}")
    records = [
        stack.rest.xcom("sixty_seconds", run_id, "sleep", "attempts", index)[-1]
        for index in range(jobs)
    ]
    tasks = [t for t in stack.rest.tasks("sixty_seconds", run_id) if t["task_id"] == "sleep"]
    ends = {task["map_index"]: datetime.fromisoformat(task["end_date"]) for task in tasks}
    late = sorted(ends[index].timestamp() - records[index]["stopped_at"] for index in range(jobs))
    return {
        "wall": wall,
        "waited": sum(record["queued_seconds"] + record["run_seconds"] for record in records),
        "late": late,
        "calls": httpx.get(counted, trust_env=False).json()["batch"],
    }


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    jobs = parser.parse_args().jobs
    settings = json.loads(read_env_file(ROOT / "airflow.env")["AIRFLOW_VAR_AWS_JOBS"])
    settings["batch_poll_seconds"] = POLL_SECONDS
    with (
        tempfile.TemporaryDirectory(prefix="airflow-bench-") as home,
        Stack(
            ROOT,
            Path(home),
            dags_folders=[Path(__file__).parent / "dags"],
            environ={"AIRFLOW_VAR_AWS_JOBS": json.dumps(settings)},
            localaws_environ={"LOCALAWS_BATCH_IMAGES": json.dumps({IMAGE: ""})},
        ) as stack,
    ):
        took = run(stack, jobs)
    alone = math.ceil(took["waited"] / POLL_SECONDS)
    calls = {name: sum(by_status.values()) for name, by_status in took["calls"].items()}
    print(
        f"{jobs} jobs of {JOB_SECONDS} s in one mapped task, run and done in {took['wall']:.0f} s"
    )
    print(f"{'operation':16} {'calls':>7} {'a job':>7}")
    for name, count in sorted(calls.items()):
        print(f"{name:16} {count:7} {count / jobs:7.2f}")
    print(f"one DescribeJobs a job every {POLL_SECONDS} s would be {alone} calls", end=": ")
    print(f"{calls['DescribeJobs'] / alone:.3f} of them were made")
    late = took["late"]
    print(f"from a job's end to its task's: median {late[len(late) // 2]:.1f} s", end=", ")
    print(f"95 % within {late[int(len(late) * 0.95)]:.1f} s")


if __name__ == "__main__":
    main()
