"""A backfill on clusters of its own, on shared ones and by the stock operators.

14 days, four runs at once, clusters that take a minute to start. A day is a cluster, two steps of
10 s one after the other, and the teardown: with ours, a cluster a day; with ours and `reuse`, where
runs share clusters; and with `EmrCreateJobFlowOperator`, `EmrAddStepsOperator` and
`EmrTerminateJobFlowOperator`, deferred, every 30 s. All three at the same time in one stack, which
they leave idle for most of it: they wait for clusters and steps.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.report import Report, number, ratio, tell
from benchmarks.stock_environment import stock_environment
from scripts.stack import ROOT, Stack

DAYS, AT_ONCE, START_SECONDS = 14, 4, 60
FIRST_DAY = date(2013, 1, 1)
#: DAG to the beginning of its clusters' names.
FORMS = {
    "backfilled_days_ours": "days-own",
    "backfilled_days_shared": "days-shared",
    "backfilled_days_stock": "days-stock",
}
TIMEOUT = 2400.0

MEANING = """\
EMR bills from the start of a cluster to its end, so cluster-seconds are what a backfill costs.
With a cluster a day, most of them are start-up, in ours as in stock's; what differs is how soon
the end of a step and of the last task is seen. Shared clusters start up once for as many days as
come after one another, and end with their last user.
"""


@dataclass(frozen=True)
class Figures:
    """What one backfill took: clusters, the seconds that they lived in all, and its own seconds."""

    clusters: int
    cluster_seconds: float
    wall: float
    succeeded: int
    alive: int


def run(stack: Stack, days: int) -> dict[str, Figures]:
    """Run the three backfills and wait for their ends."""
    last_day = FIRST_DAY + timedelta(days=days - 1)
    begun = {
        dag_id: stack.rest.backfill(
            dag_id, FIRST_DAY.isoformat(), last_day.isoformat(), max_active_runs=AT_ONCE
        )
        for dag_id in FORMS
    }
    for backfill_id in begun.values():
        stack.rest.wait_for_backfill(backfill_id, TIMEOUT)
    clusters = _clusters_when_ended(stack.client("emr"))
    return {dag_id: _figures(stack, dag_id, clusters) for dag_id in FORMS}


def _clusters_when_ended(emr: Any) -> list[dict[str, Any]]:
    """List all clusters, when those that were told to end have ended."""
    give_up = time.monotonic() + 60
    while True:
        pages = emr.get_paginator("list_clusters").paginate()
        clusters = [cluster for page in pages for cluster in page["Clusters"]]
        ending = [each for each in clusters if each["Status"]["State"] == "TERMINATING"]
        if not ending or time.monotonic() > give_up:
            return clusters
        time.sleep(1)


def _figures(stack: Stack, dag_id: str, clusters: list[dict[str, Any]]) -> Figures:
    runs = stack.rest.runs(dag_id)
    own = [each["Status"] for each in clusters if each["Name"].startswith(FORMS[dag_id])]
    lives = [_seconds(each["Timeline"], "CreationDateTime", "EndDateTime") for each in own]
    starts = [datetime.fromisoformat(run["start_date"]) for run in runs if run["start_date"]]
    ends = [datetime.fromisoformat(run["end_date"]) for run in runs if run["end_date"]]
    return Figures(
        clusters=len(own),
        cluster_seconds=sum(lives),
        wall=(max(ends) - min(starts)).total_seconds(),
        succeeded=sum(run["state"] == "success" for run in runs),
        alive=sum(not each["State"].startswith("TERMINATED") for each in own),
    )


def _seconds(timeline: Mapping[str, datetime], since: str, until: str) -> float:
    end = timeline.get(until) or datetime.now(timeline[since].tzinfo)
    return (end - timeline[since]).total_seconds()


def rows(own: Figures, shared: Figures, stock: Figures) -> list[list[str]]:
    """Give the table's rows."""

    def row(what: str, *values: float) -> list[str]:
        a, b, c = values
        return [what, number(a), number(b), number(c), ratio(a, c), ratio(b, c)]

    forms = (own, shared, stock)
    return [
        row("clusters started", *(each.clusters for each in forms)),
        row("cluster-seconds", *(each.cluster_seconds for each in forms)),
        row("backfill, s", *(each.wall for each in forms)),
        row("days that succeeded", *(each.succeeded for each in forms)),
        row("clusters left alive", *(each.alive for each in forms)),
    ]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 days, clusters start in 5 s")
    quick = parser.parse_args().quick
    path = f"{stock_environment()['PYTHONPATH']}:{ROOT}"
    with (
        tempfile.TemporaryDirectory(prefix="airflow-bench-") as home,
        Stack(
            ROOT,
            Path(home),
            dags_folders=[Path(__file__).parent / "dags"],
            environ={"PYTHONPATH": path},
            localaws_environ={
                "LOCALAWS_EMR_STARTING_SECONDS": str(5 if quick else START_SECONDS),
                "LOCALAWS_EMR_BOOTSTRAPPING_SECONDS": "0",
            },
        ) as stack,
    ):
        stack.rest.wait_for_dags(FORMS)
        for dag_id in FORMS:
            stack.rest.set_paused(dag_id, False)
        own, shared, stock = run(stack, 5 if quick else DAYS).values()
    tell(
        Report(
            title="Backfill: a cluster a day, and shared clusters",
            setting=(__doc__ or "").split("\n\n", 1)[1].strip(),
            columns=["", "ours", "ours, shared", "stock", "ours / stock", "shared / stock"],
            rows=rows(own, shared, stock),
            targets=[],
            meaning=MEANING,
        )
    )


if __name__ == "__main__":
    main()
