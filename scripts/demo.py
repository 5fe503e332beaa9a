"""`make demo`: the daily ETL on real flights with real Spark, and the mapping of real genomes.

Starts the local stack with free ports, runs the DAGs through Airflow's scheduler and triggerer,
prints what happened, and leaves nothing running. Ends with 1 if anything was not as it should be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import httpx

from scripts import demo_flights, demo_genomes
from scripts.demo_print import print_calls, say
from scripts.stack import ROOT, Stack

REPORTS = ROOT / ".cache" / "demo"


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description="Run the project's DAGs whole, on this machine.")
    parser.add_argument(
        "--reports", type=Path, default=REPORTS, help="folder for the HTML reports (%(default)s)"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aws-jobs-demo-") as home:
        say(f"starting Airflow, PostgreSQL and localaws below {home}")
        with Stack(ROOT, Path(home), say=say) as stack:
            problems = run(stack, arguments.reports)
    say(f"everything is stopped again, after {time.monotonic() - started:.0f} s")
    for problem in problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    return 1 if problems else 0


def run(stack: Stack, reports: Path) -> list[str]:
    """Run all DAGs on a started stack, print what happened, and return what went wrong."""
    rows = demo_flights.upload(stack)
    demo_genomes.upload(stack)
    stack.rest.wait_for_dags([*demo_flights.DAGS, demo_genomes.DAG])
    httpx.delete(f"{stack.localaws_url}/localaws/calls").raise_for_status()
    # Clusters and triggers wait a good part of their time: the samples are mapped meanwhile.
    demo_genomes.start(stack)
    problems = demo_flights.run(stack, rows)
    problems += demo_genomes.finish(stack, reports)
    print_calls(stack)
    return problems + demo_flights.print_clusters(stack) + demo_genomes.print_jobs(stack)


if __name__ == "__main__":
    sys.exit(main())
