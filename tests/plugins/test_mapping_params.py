"""The mapping's form: what it lets through, the mapping job takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.definitions.param import ParamsDict

from aws_jobs.mapping_params import (
    benchmark_params,
    job_parameters,
    mapping_params,
    parameter_problems,
)

ROOT = Path(__file__).parents[2]


def asked(**changes: Any) -> dict[str, Any]:
    """The form's values, validated as Airflow does at a trigger."""
    params = ParamsDict({**mapping_params()})
    for name, value in changes.items():
        params[name] = value
    return params.validate()


def test_the_form_as_it_opens_has_no_problems() -> None:
    params = asked()

    assert parameter_problems(params) == []
    assert job_parameters(params) == {
        "min_identity": "0.95",
        "min_aligned": "0.75",
        "exclude_supplementary": False,
        "methods": ["mean", "trimmed_mean", "covered_fraction", "count", "length"],
        "trim_min": "0.10",
        "trim_max": "0.90",
        "contig_end_exclusion": 75,
    }


def test_the_benchmark_asks_the_same_but_for_what_it_decides_itself() -> None:
    decided = {"architecture", "recompute", "max_failed"}

    assert set(benchmark_params()) == set(mapping_params()) - decided


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"min_identity": 1}, "min_identity: 1 means 1 %"),
        ({"min_aligned": 1.0}, "min_aligned: 1 means 1 %"),
        ({"trim_max": 1}, "trim_max: 1 means 1 %"),
        ({"min_identity": 0, "min_aligned": 0}, "both 0"),
        ({"min_identity": 0.9500000001}, "more than 9 decimals"),
        ({"methods": ["mean"], "trim_min": 0.1}, "trim_min do nothing"),
        ({"methods": ["mean"], "trim_min": 10, "trim_max": 90}, "trim_min and trim_max do nothing"),
        ({"trim_min": 0.9}, "trim_min 0.9 is not below trim_max 0.90"),
        ({"trim_min": 90, "trim_max": 0.5}, "trim_min 90 is not below trim_max 0.5"),
    ],
)
def test_what_means_something_else_or_nothing_is_named(
    changes: dict[str, Any], problem: str
) -> None:
    (found,) = [each for each in parameter_problems(asked(**changes)) if problem in each]

    assert found


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": []},
        {"methods": ["mode"]},
        {"samples": []},
        {"samples_per_job": 0},
        {"samples_per_job": 10_001},
        {"architecture": "sparc"},
        {"min_identity": 101},
        {"table": "reads; drop"},
        {"max_failed": -1},
    ],
)
def test_what_the_form_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        asked(**changes)


@pytest.mark.parametrize(
    ("value", "text"),
    [(95, "95"), (0.95, "0.95"), (100, "100"), (1e-6, "0.000001"), (99.5, "99.5")],
)
def test_shares_go_to_the_job_as_text_without_a_digit_lost(value: float, text: str) -> None:
    assert job_parameters(asked(min_identity=value))["min_identity"] == text


CHANGES: list[dict[str, Any]] = [
    {},
    {"min_identity": 95},
    {"min_identity": 100},
    {"min_identity": 1},
    {"min_identity": 0, "min_aligned": 0},
    {"min_aligned": 0},
    {"min_identity": 0.9500000001},
    {"trim_min": 90, "trim_max": 0.5},
    {"trim_min": 0, "trim_max": 100},
    {"methods": ["mean"]},
    {"contig_end_exclusion": 0},
]


def test_the_mapping_job_refuses_what_the_form_does_and_nothing_else() -> None:
    params = [asked(**changes) for changes in CHANGES]
    script = (
        "import json, sys; from read_mapping.parameters import parse_parameters as parse;"
        "print(json.dumps([parse(each)[1] == [] for each in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([job_parameters(each) for each in params]),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "include" / "genomics",
    )

    assert json.loads(done.stdout) == [parameter_problems(each) == [] for each in params]
