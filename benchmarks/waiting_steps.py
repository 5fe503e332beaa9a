"""EMR steps that tasks wait for in one triggerer process, under AWS's documented quotas.

150 steps on 15 clusters, ten at once on each, that end 60 to 180 s after the wait began at moments
drawn from a seed. What `EmrStepOperator` and `EmrAddStepsOperator(deferrable=True)`, both by their
defaults (30 s), leave to a triggerer, a task a step, in Airflow's own triggerer processes. Both at
the same time, each on a localaws of its own, which refuses what goes beyond AWS's quotas of calls.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks import sleeping_jobs
from benchmarks.report import Report, at_most, number, quantile, ratio, tell
from benchmarks.small_cluster import bash_step, job_flow
from benchmarks.triggerer import Trigger, Triggerer, Waited
from localaws.process import LocalAws
from localaws.quotas import EMR_QUOTAS
from localaws.settings import REGION

CLUSTERS, STEPS_EACH = 15, 10
SHORTEST, LONGEST = 60.0, 180.0
# Steps are given up that have not been seen to end so long after the wait began.
TIMEOUT = 600.0
# The default of the settings.
QUOTA_SHARE = 0.8
SETTINGS = {"LOCALAWS_EMR_STARTING_SECONDS": "0.5", "LOCALAWS_EMR_BOOTSTRAPPING_SECONDS": "0.2"}

MEANING = """\
ListSteps and DescribeStep are the scarcest of EMR's quotas for who waits: ten calls at once, then
one every two seconds, for the whole account. A step a call every 30 s, as stock's triggers ask,
uses that up with 15 steps; the rest is throttled, asks again all the same, and is seen late. Ours
ask for ten steps of a cluster a call and stay below their share of the quota, so that a round
over 15 clusters takes 15 calls and the others of the account have what is left.
"""


@dataclass(frozen=True)
class Step:
    """A step that runs."""

    cluster_id: str
    step_id: str


@dataclass(frozen=True)
class Figures:
    """What one wait took.

    :ivar answered: calls by operation that AWS answered.
    :ivar throttled: calls that it refused for their number.
    :ivar late: seconds from each step's end to its event, or to giving up.
    """

    waited: Waited
    answered: int
    throttled: int
    late: Sequence[float]
    failures: int


def ours(step: Step) -> Trigger:
    """Give what `EmrStepOperator` defers with, by its defaults."""
    return Trigger(
        "aws_jobs.triggers.emr.EmrStepTrigger",
        {
            "cluster_id": step.cluster_id,
            "step_id": step.step_id,
            "queued_until": time.time() + 86_400,
            "running_seconds": 86_400.0,
            "aws_conn_id": "aws_default",
            "region": REGION,
            "quota_share": QUOTA_SHARE,
            "deadline": time.time() + 172_800,
            "unseen_seconds": 120.0,
            "interval": 30.0,
            "end_on_kill": True,
        },
    )


def stock(step: Step) -> Trigger:
    """Give what `EmrAddStepsOperator(deferrable=True)` defers with, by its defaults."""
    return Trigger(
        "airflow.providers.amazon.aws.triggers.emr.EmrAddStepsTrigger",
        {
            "job_flow_id": step.cluster_id,
            "step_ids": [step.step_id],
            "aws_conn_id": "aws_default",
            "region_name": REGION,
            "waiter_delay": 30,
            "waiter_max_attempts": 60,
        },
    )


def run(form: Callable[[Step], Trigger], clusters: int) -> Figures:
    """Let steps run and wait for all of them."""
    with LocalAws(env=SETTINGS, seed=True) as aws, Triggerer(aws.environment()) as triggerer:
        emr = aws.client("emr")
        cluster_ids = [_cluster(emr, number) for number in range(clusters)]
        begins = time.time() + 10 + clusters
        steps = [
            step
            for number, cluster_id in enumerate(cluster_ids)
            for step in _steps(emr, cluster_id, begins, number)
        ]
        _wait_until_all_run(aws, len(steps))
        time.sleep(max(0.0, begins - time.time()))
        aws.set_faults(EMR_QUOTAS)
        aws.reset_calls()
        waited = triggerer.wait([form(step) for step in steps], TIMEOUT)
        gave_up = time.time()
        calls = aws.calls().get("emr", {})
        aws.clear_faults()
        ended = _ended(emr, cluster_ids)
    late = [
        waited.fired.get(place, gave_up) - ended[step.step_id] for place, step in enumerate(steps)
    ]
    by_status = [each for statuses in calls.values() for each in statuses.items()]
    return Figures(
        waited,
        answered=sum(count for status, count in by_status if status == "200"),
        throttled=sum(count for status, count in by_status if status != "200"),
        late=late,
        failures=len(waited.failed) + sum(map(_is_failure, waited.payloads.values())),
    )


def _cluster(emr: Any, number: int) -> str:
    answer = emr.run_job_flow(**job_flow(f"benchmark-{number}", STEPS_EACH))
    return str(answer["JobFlowId"])


def _steps(emr: Any, cluster_id: str, begins: float, number: int) -> list[Step]:
    """Add the steps of a cluster; the same lengths in ours and stock."""
    dice = random.Random(number)  # noqa: S311 - repeatable on purpose
    ends = [begins + dice.uniform(SHORTEST, LONGEST) for _ in range(STEPS_EACH)]
    steps = [bash_step("sleep", sleeping_jobs.UNTIL_SCRIPT, str(int(end * 1000))) for end in ends]
    answer = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)
    return [Step(cluster_id, step_id) for step_id in answer["StepIds"]]


def _wait_until_all_run(aws: LocalAws, steps: int) -> None:
    give_up = time.monotonic() + 300
    while _running(aws) < steps:
        if time.monotonic() > give_up:
            raise SystemExit(f"of {steps} steps only {_running(aws)} run")
        time.sleep(0.5)


def _running(aws: LocalAws) -> int:
    steps = [step for cluster in aws.clusters() for step in cluster["steps"]]
    return sum(step["state"] == "RUNNING" for step in steps)


def _ended(emr: Any, cluster_ids: Sequence[str]) -> dict[str, float]:
    steps = [
        step for cluster_id in cluster_ids for step in emr.list_steps(ClusterId=cluster_id)["Steps"]
    ]
    if failed := [step["Id"] for step in steps if step["Status"]["State"] != "COMPLETED"]:
        raise SystemExit(f"{len(failed)} of {len(steps)} steps did not complete: {failed[0]}")
    return {step["Id"]: step["Status"]["Timeline"]["EndDateTime"].timestamp() for step in steps}


def _is_failure(payload: dict[str, Any]) -> bool:
    """Whether an event fails the task of a step that completed."""
    return bool(payload.get("status") == "error" or payload.get("outcome", "ended") != "ended")


def rows(one: Figures, other: Figures) -> list[list[str]]:
    """Give the table's rows."""

    def row(what: str, a: float, b: float) -> list[str]:
        return [what, number(a), number(b), ratio(a, b)]

    a, b = one.waited, other.waited
    return [
        row("calls answered", one.answered, other.answered),
        row("calls throttled", one.throttled, other.throttled),
        row("events", len(a.fired), len(b.fired)),
        row("tasks failed though their step completed", one.failures, other.failures),
        row("from end to event, median s", quantile(one.late, 0.5), quantile(other.late, 0.5)),
        row("from end to event, p95 s", quantile(one.late, 0.95), quantile(other.late, 0.95)),
        row("until the last event, s", a.seconds, b.seconds),
        row("CPU s of the triggers' process", a.cpu, b.cpu),
        row("memory, MB more", a.rss_growth, b.rss_growth),
    ]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 steps, to develop with")
    clusters = 3 if parser.parse_args().quick else CLUSTERS
    with ThreadPoolExecutor() as both:
        runs = [both.submit(run, form, clusters) for form in (ours, stock)]
        one, other = (each.result() for each in runs)
    steps = clusters * STEPS_EACH
    late = quantile(one.late, 0.5)
    missed = steps - len(one.waited.fired) + one.failures
    tell(
        Report(
            title="Waiting for EMR steps under AWS's quotas",
            setting=(__doc__ or "").split("\n\n", 1)[1].strip(),
            columns=["", "ours", "stock", "ours / stock"],
            rows=rows(one, other),
            targets=[
                at_most(f"{steps} steps at a share of 0.8: no failure", missed, 0),
                at_most(f"{steps} steps: median delay at most 30 s", late, 30),
            ],
            meaning=MEANING,
        )
    )


if __name__ == "__main__":
    main()
