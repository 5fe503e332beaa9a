"""Graviton against x86: the numbers, and when they are no result."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

import pytest

from aws_jobs.architecture_comparison import (
    Comparison,
    CoverageCheck,
    Pair,
    Side,
    compare_coverage,
    comparison_rows,
    mean_with_interval,
    price_saving,
    render_comparison,
    total_saving,
    write_comparison,
)
from aws_jobs.s3_uri import split_uri
from aws_jobs.sample_results import SampleResult
from localaws.process import LocalAws
from tests.plugins.mapping_runs import failure, manifest, prices, record, store, tidy

IDENTICAL = CoverageCheck(identical=True)


def side(seconds: float, machine: str, **changes: Any) -> Side:
    return Side(seconds, SampleResult.from_manifest(manifest(architecture=machine, **changes)))


def pair(
    graviton: float, x86: float, sample: str = "S1", coverage: CoverageCheck = IDENTICAL
) -> Pair:
    return Pair(sample, side(graviton, "aarch64"), side(x86, "x86_64"), coverage)


def comparison(*pairs: Pair, **changes: Any) -> Comparison:
    given = {
        "dag_id": "genomics_graviton_benchmark",
        "run_id": "manual__1",
        "table": "reads",
        "pairs": pairs,
        "missing": {},
        "prices": prices(),
        "made_at": datetime(2026, 11, 21, tzinfo=UTC),
    }
    return Comparison(**{**given, **changes})


def test_the_published_numbers_give_the_published_saving():
    found = comparison(pair(graviton=84, x86=100))

    assert found.time_saving.value == pytest.approx(0.16)
    assert price_saving(prices()) == pytest.approx(0.20)
    assert total_saving(0.16, 0.20) == pytest.approx(0.328)
    assert found.saving.value == pytest.approx(0.328)
    assert found.doubts == []


def test_a_slower_machine_loses_what_its_price_saves_at_the_break_even_price():
    found = comparison(pair(graviton=110, x86=100))

    assert found.time_saving.value == pytest.approx(-0.1)
    assert found.break_even_usd == pytest.approx(4.032 / 1.1)
    assert total_saving(-0.1, 1 - found.break_even_usd / 4.032) == pytest.approx(0)


def test_savings_are_taken_by_sample_and_then_their_mean():
    found = comparison(pair(50, 100, "S1"), pair(300, 300, "S2"))

    assert found.time_saving.value == pytest.approx(0.25)
    rows = comparison_rows(found)
    assert [row["time_saving"] for row in rows] == [0.5, 0.0]
    assert [row["saving"] for row in rows] == [pytest.approx(0.6), pytest.approx(0.2)]
    assert [row["volume_saving"] for row in rows] == [0.5, 0.0]


def test_the_interval_is_the_same_each_time_and_holds_the_mean():
    values = [0.10, 0.15, 0.16, 0.17, 0.30]

    first, second = mean_with_interval(values), mean_with_interval(values)

    assert first == second
    assert first.value == pytest.approx(fmean(values))
    assert first.low is not None
    assert first.high is not None
    assert 0.10 < first.low < first.value < first.high < 0.30
    assert mean_with_interval([0.2, 0.2, 0.2]).low == pytest.approx(0.2)


def test_one_sample_has_no_interval():
    assert mean_with_interval([0.16]).low is None
    assert "one sample: no interval" in render_comparison(comparison(pair(84, 100)))


def test_stages_are_compared_one_by_one():
    arm = side(100, "aarch64", stages=[{"name": "mapping", "seconds": 60, "cpu_seconds": 1}])
    x86 = side(
        100,
        "x86_64",
        stages=[
            {"name": "mapping", "seconds": 80, "cpu_seconds": 1},
            {"name": "coverage", "seconds": 5, "cpu_seconds": 1, "skipped": True},
        ],
    )

    found = comparison(Pair("S1", arm, x86, IDENTICAL))

    assert found.stage_ratios == {"mapping": 0.75}
    assert comparison_rows(found)[0]["mapping_ratio"] == 0.75


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


@pytest.mark.parametrize(
    ("other", "largest", "where"),
    [
        (tidy(depth="2.5"), 0.0, ""),
        (tidy(depth="2.5000001"), 4e-8, "mean of ecoli~1 is 2.5 and 2.5000001"),
        (tidy(depth="2.0"), 0.2, "mean of ecoli~1 is 2.5 and 2.0"),
        (tidy(depth=""), float("inf"), "mean of ecoli~1 is 2.5 and "),
        (tidy().replace("ecoli~2", "ecoli~9"), float("inf"), "the tables list different contigs"),
        ("".join(tidy().splitlines(True)[:-1]), float("inf"), "the tables list different contigs"),
        (tidy().replace("count", "reads"), float("inf"), "the tables have different columns"),
    ],
    ids=["equal", "rounding", "other", "not measured", "other contig", "shorter", "other columns"],
)
def test_coverage_tables_are_compared_number_by_number(other, largest, where):
    found = compare_coverage(rows_of(tidy()), rows_of(other))

    assert found.largest == pytest.approx(largest, rel=1e-6)
    assert found.where == where
    assert found.within(1e-6) == (largest < 1e-6)


def test_no_conclusion_where_both_sides_ran_on_one_kind_of_machine():
    here = Pair("S1", side(84, "x86_64"), side(100, "x86_64"), IDENTICAL)

    found = comparison(here)

    assert found.doubts == ["both sides ran on x86_64"]
    page = render_comparison(found)
    assert "no conclusion" in page
    assert "both sides ran on x86_64" in page
    assert "less for machines" not in page
    assert ">Saving<" not in page
    assert ">Saving<" in render_comparison(comparison(pair(84, 100)))


@pytest.mark.parametrize(
    ("found", "doubt"),
    [
        (comparison(pair(84, 100), on_aws=False), "the jobs ran on a stand-in for AWS"),
        (comparison(), "no sample was mapped on both architectures"),
        (
            comparison(pair(84, 100, coverage=CoverageCheck(False, 0.1, "mean of c1 is 1 and 2"))),
            "1 of 1 samples have another coverage on each side, such as S1: mean of c1 is 1 and 2",
        ),
        (
            comparison(Pair("S1", side(84, "x86_64"), side(100, "aarch64"), IDENTICAL)),
            "Graviton's side ran on x86_64, that of x86 on aarch64",
        ),
    ],
    ids=["stand-in", "nothing", "coverage", "swapped"],
)
def test_no_conclusion_without_a_fair_comparison(found, doubt):
    assert found.doubts == [doubt]
    assert "no conclusion" in render_comparison(found)


def test_names_and_reasons_stay_text():
    hostile = "<script>alert(1)</script>"
    found = comparison(
        pair(84, 100, hostile), missing={hostile: hostile}, table=hostile, run_id=hostile
    )

    assert hostile not in render_comparison(found)


def written(
    aws: LocalAws, x86_changes: dict[str, Any], x86_table: str
) -> tuple[Any, dict[str, Any]]:
    """Two sides in S3: S1 on both, S2 on Graviton only."""
    s3 = aws.client("s3")
    place = "s3://localaws-data/benchmarks/reads/1"
    arm = {
        name: store(s3, f"{place}/graviton/{name}", manifest(name), tidy(name))
        for name in ("S1", "S2")
    }
    document = manifest("S1", coverage=x86_table, architecture="x86_64", **x86_changes)
    x86 = {"S1": store(s3, f"{place}/x86/S1", document, x86_table)}
    found = write_comparison(
        s3,
        dag_id="genomics_graviton_benchmark",
        run_id="manual__1",
        table="reads",
        attempts={
            "graviton": [record("S1", run_seconds=84.0), record("S2")],
            # The attempt that failed counts for nothing, however long it ran.
            "x86": [
                failure("S1", run_seconds=9000.0, job_id="a"),
                record("S1", run_seconds=100.0, started_at=1_790_009_000.0),
                failure("S2"),
            ],
        },
        manifests={"graviton": arm, "x86": x86},
        prices=prices(),
        output_uri=f"{place}/comparison",
    )
    return s3, found


def read(s3: Any, uri: str) -> str:
    bucket, key = split_uri(uri)
    return str(s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode())


def test_a_comparison_is_written_from_what_both_sides_left(aws: LocalAws):
    s3, found = written(aws, {}, tidy())

    assert (found["samples"], found["missing"]) == (1, 1)
    assert found["no_conclusion"] == ["the jobs ran on a stand-in for AWS"]
    assert found["saving"] is None
    (row,) = rows_of(read(s3, found["table"]))
    assert (row["time_saving"], row["saving"], row["coverage"]) == ("0.16", "0.328", "identical")
    assert "S2: not finished on x86" in read(s3, found["report"])


def test_another_coverage_or_treatment_is_found_in_what_both_sides_left(aws: LocalAws):
    changes = {
        "resources": {"vcpus": 32, "memory_mib": 500_000},
        "tools": {"bwa": "0.7.17", "samtools": "1.16.1", "coverage": "pycoverm 0.6.2"},
    }

    s3, found = written(aws, changes, tidy(depth="2.6"))

    assert found["no_conclusion"][1:] == [
        "1 of 1 samples were not mapped alike, such as S1: another number of vCPUs: 64 and 32; "
        "other tools: coverage",
        "1 of 1 samples have another coverage on each side, such as S1: mean of ecoli~1 is 2.5 "
        "and 2.6",
    ]
    (row,) = rows_of(read(s3, found["table"]))
    assert row["coverage"] == "different"
    assert float(row["largest_difference"]) == pytest.approx(0.1 / 2.6)
