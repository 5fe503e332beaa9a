"""Batch jobs that tasks wait for in one triggerer process: calls, CPU, memory, delay of the event.

What `BatchJobOperator` and `BatchOperator(deferrable=True, poll_interval=10)` leave to a triggerer,
in Airflow's own triggerer processes, one after the other with as many jobs of the same lengths; the
floor are triggers that only sleep. The jobs run when the wait begins and end 55 to 65 s later, at
moments drawn from a seed, lest the distance to the next look follow from the jobs' length.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import sleeping_jobs
from benchmarks.report import Report, Target, at_most, number, quantile, ratio, tell
from benchmarks.triggerer import Trigger, Triggerer, Waited
from localaws.process import LocalAws
from localaws.settings import REGION

SIZES = (200, 1000)
POLL_SECONDS = 10
JOB_SECONDS, SPREAD_SECONDS = 60.0, 5.0
# An event may be late, as those of a process that is overrun are.
TIMEOUT = 600.0
# localaws starts about 40 jobs a second on two cores; all must run before the wait begins.
STARTS_A_SECOND = 15
# The default of the settings.
QUOTA_SHARE = 0.8

MEANING = """\
Stock's triggers ask for one job each, with a client each: calls, CPU and memory grow with every
task that waits. Ours ask for a hundred jobs a call with one client for all, so that a task more
costs little above the floor, which is what Airflow itself takes for a trigger that only sleeps;
most of that little is botocore parsing the answers. Both look every ten seconds, so an event comes
some five seconds after the job's end in either. The first wait of a triggerer imports boto3 and
makes a client; a triggerer that lives for days pays that once, so it stands apart. The supervisor
is the process beside it, which writes the tasks' logs.
"""


@dataclass(frozen=True)
class Figures:
    """What one wait took.

    :ivar first: what the first wait of the process took, for one job: imports, a client.
    :ivar waited: what the wait for all jobs took after that.
    :ivar calls: DescribeJobs.
    :ivar late: seconds from each job's end to its event.
    """

    first: Waited
    waited: Waited
    calls: int
    late: Sequence[float]

    def a_minute(self, amount: float) -> float:
        """Give an amount of the whole wait as that of a minute."""
        return amount * 60 / self.waited.seconds


def ours(job_id: str) -> Trigger:
    """Give what `BatchJobOperator` defers with: its defaults, and those of the settings."""
    return Trigger(
        "aws_jobs.triggers.batch.BatchJobTrigger",
        {
            "job_id": job_id,
            "queued_until": time.time() + 43_200,
            "running_seconds": 86_400.0,
            "stuck_seconds": 900.0,
            "quickest": float(POLL_SECONDS),
            "aws_conn_id": "aws_default",
            "region": REGION,
            "quota_share": QUOTA_SHARE,
            "deadline": time.time() + 129_600,
            "unseen_seconds": 120.0,
            "interval": 30.0,
            "end_on_kill": True,
        },
    )


def stock(job_id: str) -> Trigger:
    """Give what `BatchOperator(deferrable=True, poll_interval=10)` defers with."""
    return Trigger(
        "airflow.providers.amazon.aws.triggers.batch.BatchJobTrigger",
        {
            "job_id": job_id,
            "aws_conn_id": "aws_default",
            "region_name": REGION,
            "waiter_delay": POLL_SECONDS,
            "waiter_max_attempts": 4200,
        },
    )


def run(form: Callable[[str], Trigger], jobs: int, aws: LocalAws) -> Figures:
    """Let jobs run and wait for all of them."""
    batch = aws.client("batch")
    with Triggerer(aws.environment()) as triggerer:
        first = triggerer.wait([form(_submit(batch, time.time() + 5))], TIMEOUT)
        begins = time.time() + 3 + jobs / STARTS_A_SECOND
        ends = [begins + seconds for seconds in job_seconds(jobs)]
        job_ids = [_submit(batch, end) for end in ends]
        _wait_until_all_run(aws, jobs)
        time.sleep(max(0.0, begins - time.time()))
        aws.reset_calls()
        waited = triggerer.wait([form(job_id) for job_id in job_ids], TIMEOUT)
    for failure in waited.failed.values():
        raise SystemExit(f"{len(waited.failed)} triggers failed, such as\n{failure}")
    calls = aws.count("batch", "DescribeJobs")
    ended = _ended(batch, job_ids)
    late = [at - ended[job_ids[place]] for place, at in waited.fired.items()]
    return Figures(first, waited, calls, late)


def job_seconds(jobs: int) -> list[float]:
    """Draw how long after the beginning each job ends; the same for ours and stock."""
    dice = random.Random(jobs)  # noqa: S311 - repeatable on purpose
    return [JOB_SECONDS + dice.uniform(-SPREAD_SECONDS, SPREAD_SECONDS) for _ in range(jobs)]


def floor(jobs: int, aws: LocalAws) -> Waited:
    """Let as many triggers sleep as long, which ask nobody: what Airflow takes for any of them."""

    def asleep(seconds: float) -> Trigger:
        return Trigger("benchmarks.sleep_trigger.SleepTrigger", {"seconds": seconds})

    with Triggerer(aws.environment()) as triggerer:
        triggerer.wait([asleep(1.0)], TIMEOUT)
        return triggerer.wait([asleep(seconds) for seconds in job_seconds(jobs)], TIMEOUT)


def _submit(batch: Any, ends: float) -> str:
    answer = batch.submit_job(
        jobName="sleep",
        jobQueue=sleeping_jobs.QUEUE,
        jobDefinition=sleeping_jobs.SLEEP_UNTIL,
        parameters={"milliseconds": str(int(ends * 1000))},
    )
    return str(answer["jobId"])


def _wait_until_all_run(aws: LocalAws, jobs: int) -> None:
    give_up = time.monotonic() + TIMEOUT
    while (running := len(aws.jobs("RUNNING"))) < jobs:
        if (failed := len(aws.jobs("FAILED"))) or time.monotonic() > give_up:
            raise SystemExit(f"of {jobs} jobs only {running} run, {failed} have failed")
        time.sleep(0.5)


def _ended(batch: Any, job_ids: Sequence[str]) -> dict[str, float]:
    jobs = [
        job
        for start in range(0, len(job_ids), 100)
        for job in batch.describe_jobs(jobs=job_ids[start : start + 100])["jobs"]
    ]
    if failed := [job["jobId"] for job in jobs if job["status"] != "SUCCEEDED"]:
        raise SystemExit(f"{len(failed)} of {len(jobs)} jobs did not succeed, such as {failed[0]}")
    return {job["jobId"]: job["stoppedAt"] / 1000 for job in jobs}


def rows(jobs: int, one: Figures, other: Figures, least: Waited) -> list[list[str]]:
    """Give the table's rows of one size."""

    def row(what: str, a: float, b: float, bottom: float | None = None) -> list[str]:
        under = "" if bottom is None else number(bottom)
        return [f"{jobs:,} jobs: {what}", number(a), number(b), ratio(a, b), under]

    a, b = one.waited, other.waited
    return [
        row("DescribeJobs calls", one.calls, other.calls, 0),
        row("CPU s of the triggers' process", a.cpu, b.cpu, least.cpu),
        row("CPU s of its supervisor", a.supervisor_cpu, b.supervisor_cpu, least.supervisor_cpu),
        row("memory, MB more", a.rss_growth, b.rss_growth, least.rss_growth),
        row("from end to event, median s", quantile(one.late, 0.5), quantile(other.late, 0.5)),
        row("from end to event, p95 s", quantile(one.late, 0.95), quantile(other.late, 0.95)),
        row("events in time", len(a.fired), len(b.fired)),
        row("until the last event, s", a.seconds, b.seconds, least.seconds),
    ]


def first_rows(one: Figures, other: Figures) -> list[list[str]]:
    """Give the rows of what a process pays once."""
    a, b = one.first, other.first
    return [
        ["first wait of a process: CPU s", number(a.cpu), number(b.cpu), ratio(a.cpu, b.cpu), ""],
        [
            "first wait of a process: MB",
            number(a.rss_growth),
            number(b.rss_growth),
            ratio(a.rss_growth, b.rss_growth),
            "",
        ],
    ]


def targets(jobs: int, one: Figures, other: Figures, least: Waited) -> list[Target]:
    """Judge a size."""
    a, b = one.waited, other.waited
    if jobs > 200:
        calls, cpu = one.a_minute(one.calls), one.a_minute(a.cpu)
        bottom = least.cpu * 60 / least.seconds
        return [
            at_most(f"{jobs:,} jobs: at most 85 calls a minute", calls, 85),
            at_most(f"{jobs:,} jobs: at most 3 CPU s a minute", cpu, 3, f"floor {bottom:.2f}"),
        ]
    late, stock_late = quantile(one.late, 0.5), quantile(other.late, 0.5)
    share, memory = a.cpu / b.cpu, a.rss_growth / b.rss_growth
    bottom = least.cpu / b.cpu
    # Both look every ten seconds, so each median is 5 s and a draw: 0.5 s more says nothing.
    return [
        at_most(f"{jobs} jobs: at most 20 DescribeJobs calls", one.calls, 20),
        at_most(f"{jobs} jobs: CPU at most 1/20 of stock's", share, 1 / 20, f"floor {bottom:.3f}"),
        at_most(f"{jobs} jobs: memory at most 1/15 of stock's", memory, 1 / 15),
        at_most(f"{jobs} jobs: median delay no worse than stock's", late, stock_late + 0.5),
    ]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="*", default=SIZES)
    parser.add_argument("--quick", action="store_true", help="20 jobs, to develop with")
    arguments = parser.parse_args()
    table: list[list[str]] = []
    judged: list[Target] = []
    for jobs in [20] if arguments.quick else arguments.jobs:
        with LocalAws(env=sleeping_jobs.ENVIRONMENT, seed=False) as aws:
            sleeping_jobs.prepare(aws.client("batch"), jobs + 1)
            one, other = run(ours, jobs, aws), run(stock, jobs, aws)
            least = floor(jobs, aws)
        table += rows(jobs, one, other, least)
        judged += targets(jobs, one, other, least)
    tell(
        Report(
            title="Waiting for Batch jobs",
            setting=(__doc__ or "").split("\n\n", 1)[1].strip(),
            columns=["", "ours", "stock", "ours / stock", "floor"],
            rows=[*table, *first_rows(one, other)],
            targets=judged,
            meaning=MEANING,
        )
    )


if __name__ == "__main__":
    main()
