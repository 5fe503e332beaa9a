"""What the genomics DAGs ask for in the UI's form, and what of it makes no sense."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from aws_jobs.batch_job import LARGEST_ARRAY
from aws_jobs.sample_outputs import share
from aws_jobs.settings import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Mapping

# CoverM's methods, in the order of the tables' columns.
METHODS = ("mean", "trimmed_mean", "covered_fraction", "count", "length")
# The share of positions that trimmed_mean leaves out at the bottom, and where the top begins.
TRIM_MIN, TRIM_MAX = "0.10", "0.90"

_SHARES = ("min_identity", "min_aligned", "trim_min", "trim_max")
# As many as the mapping job compares exactly.
_MOST_DECIMALS = 9
_SHARE: dict[str, Any] = {"minimum": 0, "maximum": 100}
_NOTATION = "A fraction below 1, or percent up to 100; not 1, which is 1 % to CoverM."


def mapping_params() -> dict[str, Param]:
    """Return the parameters of a run that maps samples."""
    return {
        **_samples(),
        "architecture": Param(
            "graviton",
            type="string",
            enum=list(ARCHITECTURES),
            title="Architecture",
            description="What the jobs run on. Results of the two are kept apart.",
        ),
        "samples_per_job": _samples_per_job(),
        **_thresholds(),
        "recompute": Param(
            False,
            type="boolean",
            title="Recompute",
            description="Map samples again that an earlier run has finished.",
        ),
        "max_failed": Param(
            0,
            type="integer",
            minimum=0,
            title="Failed samples allowed",
            description="How many samples may fail in a run that succeeds.",
        ),
    }


def benchmark_params() -> dict[str, Param]:
    """Return the parameters of a run that maps the same samples on both architectures."""
    return {**_samples(), "samples_per_job": _samples_per_job(), **_thresholds()}


def parameter_problems(params: Mapping[str, Any]) -> list[str]:
    """Say which parameters contradict each other, do nothing, or mean something else to CoverM.

    The mapping job would refuse them too, or warn where nobody looks.
    """
    problems = []
    for name in _SHARES:
        value = params.get(name)
        if value is None:
            continue
        if Decimal(str(value)) == 1:
            problems.append(f"{name}: 1 means 1 % to CoverM; write 100 for all, or 0.01")
        elif -int(share(value).normalize().as_tuple().exponent) > _MOST_DECIMALS:
            problems.append(f"{name}: {value} has more than {_MOST_DECIMALS} decimals")
    if not share(params["min_identity"]) and not share(params["min_aligned"]):
        problems.append(
            "min_identity and min_aligned are both 0: without a cut-off CoverM drops every read "
            "that is not of a proper pair; 0.000001 keeps all"
        )
    methods = params["methods"]
    if not methods or not set(methods) <= set(METHODS):
        problems.append(f"methods: some of {', '.join(METHODS)} are needed")
    given = [name for name in ("trim_min", "trim_max") if params.get(name) is not None]
    if given and "trimmed_mean" not in methods:
        problems.append(f"{' and '.join(given)} do nothing: trimmed_mean is not asked for")
    low, high = _trim(params)
    if share(low) >= share(high):
        problems.append(f"trim_min {low} is not below trim_max {high}: no position would be left")
    return problems


def job_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a job is told of the parameters; shares as text, so that no digit is lost."""
    parameters: dict[str, Any] = {
        "min_identity": _text(params["min_identity"]),
        "min_aligned": _text(params["min_aligned"]),
        "exclude_supplementary": params["exclude_supplementary"],
        "methods": [method for method in METHODS if method in params["methods"]],
        "contig_end_exclusion": params["contig_end_exclusion"],
    }
    if "trimmed_mean" in params["methods"]:
        parameters["trim_min"], parameters["trim_max"] = _trim(params)
    return parameters


def _samples() -> dict[str, Param]:
    return {
        "table": Param(
            None,
            type=["null", "string"],
            pattern=r"^[A-Za-z0-9_.-]{3,255}$(?!\n)",
            title="Table",
            description="The samples' DynamoDB table. Empty: the one of the settings.",
        ),
        "samples": Param(
            ["*"],
            type="array",
            items={"type": "string", "minLength": 1, "maxLength": 255},
            minItems=1,
            title="Samples",
            description="Names or patterns such as S*, one a line. Finished ones are not mapped "
            "again, but take part in the matrix.",
        ),
    }


def _samples_per_job() -> Param:
    return Param(
        1,
        type="integer",
        minimum=1,
        maximum=LARGEST_ARRAY,
        title="Samples per job",
        description="1: a Batch job and a place in the grid for each sample. More: array jobs, "
        "for more samples than Airflow maps tasks.",
    )


def _thresholds() -> dict[str, Param]:
    return {
        "methods": Param(
            list(METHODS),
            type="array",
            items={"type": "string", "enum": list(METHODS)},
            minItems=1,
            uniqueItems=True,
            examples=list(METHODS),
            title="Coverage",
            description="What is computed of each contig.",
        ),
        "min_identity": Param(
            0.95,
            type="number",
            **_SHARE,
            title="Identity",
            description=f"Of an alignment that is kept, at least. {_NOTATION}",
        ),
        "min_aligned": Param(
            0.75,
            type="number",
            **_SHARE,
            title="Aligned share",
            description=f"Of a read that is kept, at least. {_NOTATION}",
        ),
        "exclude_supplementary": Param(
            False,
            type="boolean",
            title="Drop supplementary alignments",
            description="They are kept as published: the second piece of a split read adds to "
            "the coverage of its contig.",
        ),
        "trim_min": Param(
            None,
            type=["null", "number"],
            **_SHARE,
            title="Trim from",
            description="trimmed_mean leaves out the positions of least depth up to this share. "
            f"Empty: {TRIM_MIN}. {_NOTATION}",
        ),
        "trim_max": Param(
            None,
            type=["null", "number"],
            **_SHARE,
            title="Trim to",
            description="trimmed_mean leaves out the positions of most depth above this share. "
            f"Empty: {TRIM_MAX}. {_NOTATION}",
        ),
        "contig_end_exclusion": Param(
            75,
            type="integer",
            minimum=0,
            maximum=10_000,
            title="Contig ends",
            description="Bases at each end of a contig that the means leave out. A contig that "
            "is not longer than both ends cannot be measured.",
        ),
    }


def _trim(params: Mapping[str, Any]) -> tuple[str, str]:
    low, high = params.get("trim_min"), params.get("trim_max")
    return (
        TRIM_MIN if low is None else _text(low),
        TRIM_MAX if high is None else _text(high),
    )


def _text(number: Any) -> str:
    return f"{Decimal(str(number)).normalize():f}"
