"""The audit sees what it is there to see; no Airflow is needed for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aws_jobs.identity import RunKey
from tests.faults.external_jobs import ExternalJob, external_jobs
from tests.faults.strikes import Plan, Strike
from tests.faults.table import Row, page
from tests.faults.world import Audit

GROUP = "Audit"

pytestmark = pytest.mark.quick


def job(
    number: int,
    created: float,
    told: float | None = None,
    ended: float | None = None,
    task: str = "job",
) -> ExternalJob:
    return ExternalJob("job", task, f"j-{number}", "any", "RUNNING", created, told, ended)


def found(job_id: str, name: str, **more: Any) -> dict[str, Any]:
    """What localaws' audit says of a cluster, a step or a job."""
    times = {"created": 1.0, "told": None, "ended": None}
    return {
        **{"id": job_id, "name": name, "state": "RUNNING", "times": times},
        **{"tags": {}, "parent": None, **more},
    }


def audit(*jobs: ExternalJob, **more: Any) -> Audit:
    return Audit("success", list(jobs), more.get("missed", []), {})


@pytest.mark.parametrize(
    ("first", "left"),
    [
        (job(1, 0), True),
        (job(1, 0, told=5), False),
        (job(1, 0, ended=5), False),
    ],
)
def test_what_goes_on_and_was_not_told_to_end_is_leaked(first: ExternalJob, left: bool) -> None:
    assert audit(first).leaked == ([first] if left else [])


@pytest.mark.parametrize(
    ("first", "doubled"),
    [
        (job(1, 0), True),
        (job(1, 0, ended=20), True),
        (job(1, 0, told=11, ended=20), True),
        (job(1, 0, told=9, ended=20), False),
        (job(1, 0, ended=9), False),
        (job(1, 0, task="another"), False),
    ],
)
def test_what_is_made_before_an_earlier_one_is_over_is_made_twice(
    first: ExternalJob, doubled: bool
) -> None:
    second = job(2, 10, ended=30)

    assert audit(first, second).duplicates == ([second] if doubled else [])


def test_three_at_once_are_two_too_many() -> None:
    assert len(audit(job(1, 0), job(2, 1), job(3, 2)).duplicates) == 2


def test_jobs_are_known_by_name_or_by_tag_and_others_are_left_out() -> None:
    tags = RunKey("local", "genomics_mapping", "f1-some-case", "map_samples", 1).tags
    step = found("s1", "f1-some-case--step")
    clusters = [
        found("c1", "f1-some-case--cluster [0123]", steps=[step]),
        found("c2", "f1-some-case-2--cluster", steps=[]),
    ]
    jobs = [
        found("b1", "f1-some-case--array"),
        found("b1:0", "f1-some-case--array", parent="b1"),
        found("b2", "map", tags=tags),
        found("b3", "map", tags={**tags, "aws-jobs:run": "another"}),
    ]

    seen = external_jobs(clusters, jobs, "genomics_mapping", "f1-some-case")

    assert {(each.id, each.kind, each.task) for each in seen} == {
        ("c1", "cluster", "create_cluster"),
        ("s1", "step", "step"),
        ("b1", "array", "array_job"),
        ("b2", "mapping", "map_samples[1]"),
    }


def test_a_strike_that_no_process_came_to_is_missed(tmp_path: Path) -> None:
    strikes = [Strike("resume", "KILL", "job"), Strike("defer", "KILL", "job")]
    plan = Plan(tmp_path / "run", strikes)

    (tmp_path / "run" / "0.json").rename(tmp_path / "run" / "0.struck")

    assert plan.missed() == [strikes[1]]


def test_runs_of_a_case_add_up_in_the_table() -> None:
    leaking = Row.of("Group", "a case", "job", audit(job(1, 0)))
    clean = Row.of("Group", "a case", "job", audit(missed=[Strike("resume", "KILL", "job")]))
    both = clean + leaking

    text = page({clean.key: clean}, {both.key: both})

    assert (
        "| a case | job | 0 | 0 | 0 | 0 | success *(not reached)* | **1** | **1** | 0 | 0 | success"
    ) in text


def test_lost_work_and_an_end_that_was_not_asked_for_show_in_the_table() -> None:
    ended = audit()
    ended.lost["job"] = ["job"]
    wrong = Row.of("Group", "a case", "job", ended, states=("failed",))
    called_done = Row.of("Group", "a case", "job", ended, undone=("job",))

    assert wrong.cells() == ("0", "0", "0", "**1**", "**success**")
    assert called_done.cells() == ("0", "0", "0", "0", "success")
