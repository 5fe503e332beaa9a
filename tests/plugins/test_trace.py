"""A row for each attempt, which any program can read."""

from __future__ import annotations

import csv
import io

import pytest

from aws_jobs.sample_results import SampleResult
from aws_jobs.trace import COLUMNS, sample_attempts, trace_rows, write_trace
from tests.plugins.mapping_runs import START, failure, manifest, prices, record


def text_of(records, manifests=()):
    results = {each["sample"]: SampleResult.from_manifest(each) for each in manifests}
    file = io.StringIO()
    write_trace(trace_rows(sample_attempts(records), results, prices(), "graviton"), file)
    return file.getvalue()


def table_of(records, manifests=()):
    return list(csv.DictReader(io.StringIO(text_of(records, manifests)), delimiter="\t"))


def test_attempts_are_numbered_as_they_were_made():
    # Two attempts of one job have the same submission, and XComs come in any order.
    later = record(job_id="b", created_at=START + 9000, started_at=START + 9100)
    second = failure(job_id="a", started_at=START + 500)
    first = failure(job_id="a", started_at=START + 100)

    found = sample_attempts([later, second, record("S2"), first])

    assert [(each.sample, each.number, each.started_at) for each in found] == [
        ("S2", 1, START + 60),
        ("S1", 1, START + 100),
        ("S1", 2, START + 500),
        ("S1", 3, START + 9100),
    ]


def test_the_wait_of_a_second_attempt_begins_where_the_first_one_ended():
    (again,) = sample_attempts([record(started_at=START + 5000, queued_seconds=20.0)])

    assert again.waited_from == START + 4980


def test_an_attempt_is_a_row_with_what_it_used_of_what_it_asked_for():
    (row,) = table_of([record(peak_memory_mib=250_000)], [manifest()])

    assert tuple(row)[: len(COLUMNS)] == COLUMNS
    assert (row["attempt"], row["outcome"], row["exit_code"]) == ("1", "succeeded", "0")
    assert row["started"] == "2026-09-21T14:14:20.000+00:00"
    assert (row["memory_share"], row["cpu_seconds"]) == ("0.5", "160000.0")
    assert float(row["cpu_share"]) == pytest.approx(160_000 / (3600 * 64), abs=1e-4)
    assert float(row["cost_usd"]) == pytest.approx(3.2475, abs=1e-4)
    assert (row["mapping_seconds"], row["coverage_seconds"]) == ("3000.0", "500.0")


def test_what_the_manifest_says_belongs_to_the_attempt_that_wrote_it():
    rows = table_of([failure(), record(job_id="job-S1", started_at=START + 9000)], [manifest()])

    assert [row["mapping_seconds"] for row in rows] == ["", "3000.0"]
    assert [row["cpu_seconds"] for row in rows] == ["", "160000.0"]


def test_a_stage_that_was_skipped_took_no_time():
    document = manifest()
    document["stages"][0]["skipped"] = True

    (row,) = table_of([record()], [document])

    assert "mapping_seconds" not in row
    assert (row["coverage_seconds"], row["cpu_seconds"]) == ("500.0", "10000.0")


def test_a_reason_of_several_lines_stays_one_field():
    text = text_of([failure(reason='said "no"\tthen\nstopped')])

    header, line = text.splitlines()
    assert line.split("\t")[header.split("\t").index("reason")] == 'said "no" then stopped'
    assert header.count("\t") == line.count("\t")


def test_a_job_that_nobody_knows_any_more_is_a_row_too():
    unknown = dict.fromkeys(["created_at", "started_at", "stopped_at", "queued_seconds"])
    gone = failure(kind="lost", run_seconds=None, vcpus=None, memory_mib=None, **unknown)

    (row,) = table_of([gone])

    assert (row["failure"], row["started"], row["cost_usd"]) == ("lost", "", "0.0")
