"""200 mapped Batch jobs through a whole Airflow: time, CPU, metadata database, calls of AWS.

`BatchJobOperator` and `BatchOperator(deferrable=True, poll_interval=10)`, one mapped task each, the
same jobs of 55 to 65 s, in one stack, one after the other; a small run of each goes before, lest
one pay for both. Scheduler with LocalExecutor (6 workers), triggerer, api-server, dag processor and
PostgreSQL as `make up` has them.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks import sleeping_jobs
from benchmarks.report import Report, at_most, number, ratio, tell
from benchmarks.stack_figures import POSTGRES, StackFigures
from benchmarks.stock_environment import stock_environment
from scripts.local_env import read_env_file
from scripts.stack import ROOT, Stack

SAMPLES = 200
SHORTEST, LONGEST = 55.0, 65.0
POLL_SECONDS = 10
# What one run cannot tell from equal: the scheduler's rounds are a second apart.
EQUAL = 1.05
OURS, STOCK = "mapped_samples_ours", "mapped_samples_stock"

MEANING = """\
SubmitJob is the one call that a sample of ours costs by itself; its waiting is a share of the
sweeps that all make together. Stock asks for the job once more before it waits, at each look, and
again at its end. What is written to the metadata database is mostly Airflow's own bookkeeping of
a task that starts, defers and resumes, which both pay; ours also keeps in the task state store
what a retry needs to find the job. That, and what a task looks up before it submits, make its own
process dearer; the triggerer gives it back.
"""


@dataclass(frozen=True)
class Figures:
    """What one run took; ``wall`` is the run's duration in seconds."""

    wall: float
    took: StackFigures

    @property
    def cpu(self) -> float:
        """All CPU seconds, PostgreSQL's too."""
        return sum(self.took.cpu.values())

    @property
    def own_calls(self) -> float:
        """Calls but for the sweeps."""
        calls = self.took.calls
        return sum(calls.values()) - calls.get("DescribeJobs", 0)


def run(stack: Stack, dag_id: str, seconds: Sequence[float]) -> Figures:
    """Run a DAG once, a job for each length."""
    before = StackFigures.read(stack)
    run_id = stack.rest.trigger(dag_id, conf={"seconds": list(seconds)})
    ended = stack.rest.wait_for_run(dag_id, run_id, timeout=1200)
    took = StackFigures.read(stack).since(before)
    if ended["state"] != "success":
        raise SystemExit(f"the run of {dag_id} ended as {ended['state']}")
    start, end = (datetime.fromisoformat(ended[key]) for key in ("start_date", "end_date"))
    return Figures((end - start).total_seconds(), took)


def lengths(samples: int) -> list[float]:
    """Draw the jobs' lengths in seconds; the same for both."""
    dice = random.Random(samples)  # noqa: S311 - repeatable on purpose
    return [round(dice.uniform(SHORTEST, LONGEST), 1) for _ in range(samples)]


def rows(samples: int, one: Figures, other: Figures) -> list[list[str]]:
    """Give the table's rows."""

    def row(what: str, a: float, b: float) -> list[str]:
        return [what, number(a), number(b), ratio(a, b)]

    def both(what: str, kind: str, *names: str) -> list[str]:
        a, b = (
            sum(getattr(each.took, kind).get(name, 0) for name in names) for each in (one, other)
        )
        return row(what, a, b)

    operations = sorted(one.took.calls.keys() | other.took.calls.keys())
    made = [name for name in operations if one.took.calls.get(name) or other.took.calls.get(name)]
    return [
        row("run, s", one.wall, other.wall),
        row("beyond the longest job, s", one.wall - LONGEST, other.wall - LONGEST),
        row("CPU s of all", one.cpu, other.cpu),
        both("CPU s of the scheduler and its tasks", "cpu", "scheduler"),
        both("CPU s of the triggerer", "cpu", "triggerer"),
        both("CPU s of the api-server", "cpu", "api-server"),
        both("CPU s of the dag processor", "cpu", "dag-processor"),
        both("CPU s of PostgreSQL", "cpu", POSTGRES),
        both("database: transactions", "database", "xact_commit"),
        both("database: rows read by key", "database", "tup_fetched"),
        both("database: rows written", "database", "tup_inserted", "tup_updated", "tup_deleted"),
        *(both(f"calls: {name}", "calls", name) for name in made),
        row(
            "calls a sample",
            sum(one.took.calls.values()) / samples,
            sum(other.took.calls.values()) / samples,
        ),
        row(
            "calls a sample but for DescribeJobs",
            one.own_calls / samples,
            other.own_calls / samples,
        ),
    ]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 samples, to develop with")
    samples = 10 if parser.parse_args().quick else SAMPLES
    settings = json.loads(read_env_file(ROOT / "airflow.env")["AIRFLOW_VAR_AWS_JOBS"])
    settings["batch_poll_seconds"] = POLL_SECONDS
    # The DAG file names the jobs of this package.
    path = f"{stock_environment()['PYTHONPATH']}:{ROOT}"
    with (
        tempfile.TemporaryDirectory(prefix="airflow-bench-") as home,
        Stack(
            ROOT,
            Path(home),
            dags_folders=[Path(__file__).parent / "dags"],
            environ={"AIRFLOW_VAR_AWS_JOBS": json.dumps(settings), "PYTHONPATH": path},
            localaws_environ=sleeping_jobs.ENVIRONMENT,
        ) as stack,
    ):
        sleeping_jobs.prepare(stack.client("batch"), samples)
        stack.rest.wait_for_dags([OURS, STOCK])
        for dag_id in (OURS, STOCK):
            stack.rest.set_paused(dag_id, False)
            run(stack, dag_id, [1.0] * 4)
        one, other = (run(stack, dag_id, lengths(samples)) for dag_id in (OURS, STOCK))
    beyond = (one.wall - LONGEST) / (other.wall - LONGEST)
    tell(
        Report(
            title="Fan-out: mapped samples through a whole Airflow",
            setting=(__doc__ or "").split("\n\n", 1)[1].strip(),
            columns=["", "ours", "stock", "ours / stock"],
            rows=rows(samples, one, other),
            targets=[
                at_most(
                    "at most 1.2 calls a sample beyond the shared sweeps",
                    one.own_calls / samples,
                    1.2,
                ),
                at_most("wall beyond the jobs' own no worse than stock's", beyond, EQUAL),
                at_most("CPU no worse than stock's", one.cpu / other.cpu, EQUAL),
            ],
            meaning=MEANING,
        )
    )


if __name__ == "__main__":
    main()
