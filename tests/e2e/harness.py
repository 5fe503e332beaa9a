"""What the tests ask of the stack, and the account of what each case did to it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import boto3
import httpx

from aws_jobs.identity import TAG_DAG, TAG_RUN
from scripts.airflow_rest import AirflowRest
from scripts.stack import Stack

BUCKET = "localaws-data"
DATABASE = "local_flights"
TABLE = "flight_delays"


@dataclass
class Case:
    """What one thing that happened to a run made run again, and what it left."""

    name: str
    dag_id: str
    run_id: str = ""
    ran_before: dict[str, int] = field(default_factory=dict)
    clusters_before: int = 0
    ran: dict[str, int] = field(default_factory=dict)
    """Each task that ran, with the number of its tries; of mapped tasks the sum."""
    started: int = 0
    """Clusters."""
    left: int = 0
    """Clusters of the run that have not ended."""
    state: str = ""
    seconds: float = 0.0

    @property
    def cells(self) -> tuple[str, ...]:
        ran = [
            f"`{task}`" + (f" x {tries}" if tries > 1 else "") for task, tries in self.ran.items()
        ]
        return (
            self.dag_id,
            self.name,
            ", ".join(ran) or "nothing",
            str(self.started),
            str(self.left),
            self.state,
            f"{self.seconds:.0f}",
        )


HEADER = ("DAG", "what happened", "what ran", "clusters started", "left", "run", "seconds")


class World:
    """The stack, with AWS behind it.

    :param stack: a started one.
    :param cases: takes the account of each case.
    """

    def __init__(self, stack: Stack, cases: list[Case]) -> None:
        self.stack = stack
        self.cases = cases
        self.under_way: list[Case] = []
        # verify: to load certificates for plain http costs more CPU than the whole call.
        self._http = httpx.Client(timeout=30, trust_env=False, verify=False)

    @property
    def rest(self) -> AirflowRest:
        return self.stack.rest

    def client(self, service: str) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.stack.localaws_url,
            region_name=self.stack.environ["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.stack.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.stack.environ["AWS_SECRET_ACCESS_KEY"],
        )

    def airflow(self, *arguments: str) -> str:
        """Run an `airflow` command and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "airflow", *arguments],
            env=self.stack.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"airflow {' '.join(arguments)}:\n{done.stdout}"
        return done.stdout

    # What is there

    def clusters(self, dag_id: str, run_id: str | None = None) -> list[dict[str, Any]]:
        """Return the clusters that a DAG, or a run of it, has started, the oldest first."""
        wanted = {TAG_DAG: dag_id} | ({TAG_RUN: run_id} if run_id else {})
        return [each for each in self.all_clusters() if wanted.items() <= each["tags"].items()]

    def all_jobs(self) -> list[dict[str, Any]]:
        """Return every Batch job, and each child of an array."""
        answer = self._http.get(f"{self.stack.localaws_url}/localaws/batch/jobs")
        jobs: list[dict[str, Any]] = answer.raise_for_status().json()
        return jobs

    def jobs_left_running(self) -> list[dict[str, Any]]:
        """Return the jobs that have not ended though no run that may own them is under way."""
        owners = {(case.dag_id, case.run_id) for case in self.under_way}
        return [
            job
            for job in self.all_jobs()
            if job["state"] not in {"SUCCEEDED", "FAILED"}
            and (job["tags"].get(TAG_DAG), job["tags"].get(TAG_RUN)) not in owners
        ]

    def left_running(self) -> list[dict[str, Any]]:
        """Return the clusters that are alive though no run that may own them is under way."""
        owners = {(case.dag_id, case.run_id) for case in self.under_way}
        return [
            each
            for each in self.all_clusters()
            if not each["state"].startswith("TERMINATED")
            and (each["tags"].get(TAG_DAG), each["tags"].get(TAG_RUN)) not in owners
        ]

    def all_clusters(self) -> list[dict[str, Any]]:
        answer = self._http.get(f"{self.stack.localaws_url}/localaws/emr/clusters")
        clusters: list[dict[str, Any]] = answer.raise_for_status().json()
        return clusters

    def published(self, day: str) -> dict[str, str]:
        """Return what the catalog says of a day: location and parameters; nothing if not there."""
        found = [each for each in self.partitions() if each["Values"] == [day]]
        assert len(found) <= 1, f"{day} is there {len(found)} times"
        return {
            key: value
            for each in found
            for key, value in {
                "location": each["StorageDescriptor"]["Location"],
                **each["Parameters"],
            }.items()
        }

    def partitions(self) -> list[dict[str, Any]]:
        pages = self.client("glue").get_paginator("get_partitions")
        return [
            partition
            for page in pages.paginate(DatabaseName=DATABASE, TableName=TABLE)
            for partition in page["Partitions"]
        ]

    def objects(self, uri: str) -> list[str]:
        """Return the keys below ``s3://bucket/prefix``."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        pages = self.client("s3").get_paginator("list_objects_v2")
        return [
            entry["Key"]
            for page in pages.paginate(Bucket=bucket, Prefix=prefix)
            for entry in page.get("Contents", [])
        ]

    def published_events(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the asset events of a run."""
        query = {"source_dag_id": dag_id, "source_run_id": run_id, "limit": 100}
        events: list[dict[str, Any]] = self.rest.call("GET", "/assets/events", params=query)[
            "asset_events"
        ]
        return events

    def scheduled_run(self, dag_id: str, timeout: float = 60) -> dict[str, Any]:
        """Return the first run that the scheduler has made since the DAG was unpaused."""
        give_up = time.monotonic() + timeout
        while True:
            for run in self.rest.runs(dag_id):
                if run["run_type"] == "scheduled":
                    return run
            assert time.monotonic() < give_up, f"no scheduled run of {dag_id} in {timeout} s"
            time.sleep(0.2)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 120) -> None:
        """Wait until something is so."""
        give_up = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < give_up, f"not so in {timeout} s"
            time.sleep(0.2)

    # What happens

    def begin(self, name: str, dag_id: str, conf: Mapping[str, Any], run_id: str = "") -> Case:
        """Start a run; :meth:`end` waits for it."""
        case = Case(name, dag_id)
        case.run_id = self.rest.trigger(dag_id, conf=conf, run_id=run_id or None)
        self.under_way.append(case)
        return case

    def new_run(self, name: str, dag_id: str, conf: Mapping[str, Any]) -> Case:
        """Start a run, wait for its end, and give the account."""
        return self.end(self.begin(name, dag_id, conf))

    @contextmanager
    def happens(self, name: str, dag_id: str, run_id: str) -> Iterator[Case]:
        """Do something to a run in this block, and wait for what comes of it."""
        case = Case(name, dag_id, run_id)
        case.ran_before = self._tries(case)
        case.clusters_before = len(self.clusters(dag_id, run_id))
        yield case
        self.end(case)

    def end(self, case: Case, timeout: float = 240) -> Case:
        """Wait for the end of the run and draw up the account."""
        run = self.rest.wait_for_run(case.dag_id, case.run_id, timeout)
        self.under_way = [each for each in self.under_way if each is not case]
        clusters = self.clusters(case.dag_id, case.run_id)
        case.state = run["state"]
        case.seconds = run["duration"]
        case.started = len(clusters) - case.clusters_before
        case.left = sum(not each["state"].startswith("TERMINATED") for each in clusters)
        ran = {
            task: tries - case.ran_before.get(task, 0) for task, tries in self._tries(case).items()
        }
        case.ran = {task: tries for task, tries in ran.items() if tries}
        self.cases.append(case)
        print(" | ".join(case.cells))
        return case

    def _tries(self, case: Case) -> dict[str, int]:
        """Return how often each task has run so far, in the order of their latest start."""
        tries: dict[str, int] = {}
        tasks = self.rest.tasks(case.dag_id, case.run_id)
        for task in sorted(tasks, key=lambda task: task["start_date"] or ""):
            tries[task["task_id"]] = tries.get(task["task_id"], 0) + task["try_number"]
        return tries

    def logs(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Return the logs of all tries of a task."""
        tries = self.rest.task(dag_id, run_id, task_id)["try_number"]
        return "\n".join(
            self.rest.log(dag_id, run_id, task_id, number) for number in range(1, tries + 1)
        )

    def why_skipped(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Return the reason that the log of a skipped task gives."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/logs/1"
        events = self.rest.call("GET", path, params={"full_content": True})["content"]
        (reason,) = [event["reason"] for event in events if event["event"] == "Skipping task."]
        return str(reason)


def table(cases: list[Case]) -> str:
    """Return the account as a table of Markdown."""
    rows = [HEADER, tuple("---" for _ in HEADER), *(case.cells for case in cases)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
