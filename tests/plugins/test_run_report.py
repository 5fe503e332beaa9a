"""The report of a run: one page that needs nothing else, and two tables beside it."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from aws_jobs.run_figures import PLOTTED, chosen, jobs_at_once
from aws_jobs.run_report import (
    FAILURES_LISTED,
    SAMPLES_LISTED,
    RunSummary,
    SampleRun,
    memory_advice,
    render_report,
    write_report,
)
from aws_jobs.s3_uri import split_uri
from aws_jobs.sample_results import SampleResult, mean_depths
from aws_jobs.trace import sample_attempts
from localaws.process import LocalAws
from tests.plugins.mapping_runs import START, failure, manifest, prices, record, store, tidy

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>&amp;"


class Page(HTMLParser):
    """What a browser finds in a page: tags, what it would load, the plots, the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.plots: dict[str, dict[str, Any]] = {}
        self.words = ""
        self._in: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] += 1
        self.loads += [str(given[name]) for name in ("src", "srcset", "data") if name in given]
        self.loads += [str(given["href"])] if tag == "link" else []
        self.handlers += [name for name in given if name.startswith("on")]
        if tag in ("script", "style"):
            self._in.append((tag, str(given.get("id", ""))))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._in.pop()

    def handle_data(self, data: str) -> None:
        if not self._in:
            self.words += f" {' '.join(data.split())}"
        elif self._in[-1][1].startswith("spec-"):
            self.plots[self._in[-1][1].removeprefix("spec-")] = json.loads(data)


def sample(
    name: str = "S1",
    attempts: Iterable[dict[str, Any]] | None = None,
    result: dict[str, Any] | None = None,
    why: str | None = None,
) -> SampleRun:
    records = [record(name)] if attempts is None else attempts
    document = manifest(name) if result is None and why is None else result
    found = SampleResult.from_manifest(document) if document else None
    return SampleRun(name, sample_attempts(records), found, why)


def summary(*samples: SampleRun, **changes: Any) -> RunSummary:
    given = {
        "dag_id": "genomics_mapping",
        "run_id": "manual__1",
        "table": "local-reads",
        "architecture": "graviton",
        "parameters": {"methods": ["mean", "trimmed_mean"]},
        "samples": samples,
        "prices": prices(),
        "made_at": datetime(2026, 11, 21, tzinfo=UTC),
    }
    return RunSummary(**{**given, **changes})


def bars(page: Page, plot: str) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in page.plots[plot]["data"]}


def test_the_page_needs_nothing_from_anywhere():
    html = render_report(summary(sample()))
    page = Page(html)

    assert page.loads == []
    assert "default-src 'none'" in html
    assert html.count("plotly.js v") == 1
    assert "cdn.plot.ly/plotly" not in html
    # Or each plot has a button that uploads its data to cloud.plotly.com.
    assert "showSendToCloud: false" in html


@pytest.mark.parametrize("field", ["name", "reason", "parameter", "tool", "stage", "species"])
def test_what_comes_from_data_stays_text(field):
    document = manifest("S1")
    name = HOSTILE if field == "name" else "S1"
    reason = HOSTILE if field == "reason" else "why"
    if field == "tool":
        document["tools"]["bwa"] = HOSTILE
    if field == "stage":
        document["stages"][0]["name"] = HOSTILE
    done = sample("S1", result=document)
    depths = {HOSTILE if field == "species" else "ecoli": 1.0}
    done = SampleRun(done.sample, done.attempts, done.result, None, depths)
    bad = sample(name, [failure(name, reason=reason)], why=reason)
    parameters = {HOSTILE: [HOSTILE]} if field == "parameter" else {}

    page = Page(render_report(summary(done, bad, parameters=parameters)))

    plain = Page(render_report(summary(sample("S1"), sample("S2", [failure("S2")], why="why"))))
    assert page.tags["script"] == plain.tags["script"]
    assert (page.tags["img"], page.handlers, page.loads) == (0, [], [])
    labels = json.dumps(page.plots)
    assert "<img" not in labels
    assert "<script" not in labels
    shown = page.words + labels.replace("&lt;", "<")
    assert "<img src=x onerror=alert(1)>" in shown


def test_a_complete_run_says_so_and_a_partial_one_names_who_failed_and_why():
    whole = Page(render_report(summary(sample())))
    assert "complete" in whole.words
    assert "partial" not in whole.words

    page = Page(render_report(summary(sample(), sample("S2", [], why="r2 is not there"))))
    assert "partial: 1 failed" in page.words
    assert "S2 r2 is not there not started 0" in " ".join(page.words.split())


def test_the_timeline_shows_each_wait_each_failure_and_each_end():
    first = failure("S1", stopped_at=START + 1860, run_seconds=1800.0)
    second = record("S1", job_id="b", created_at=START + 1900, started_at=START + 2000)
    second |= {"queued_seconds": 100.0, "stopped_at": START + 5600}
    never = failure("S2", "image", started_at=None, run_seconds=None, stopped_at=START + 60)

    page = Page(
        render_report(summary(sample("S1", [first, second]), sample("S2", [never], why="x")))
    )

    found = bars(page, "timeline")
    assert found["waiting"]["y"] == ["S1", "S1", "S2"]
    assert found["waiting"]["x"] == [60_000, 100_000, 60_000]
    assert (found["failed"]["text"], found["failed"]["x"]) == (["1 capacity"], [1_800_000])
    assert (found["succeeded"]["text"], found["succeeded"]["x"]) == (["2"], [3_600_000])
    assert found["succeeded"]["base"] == ["2026-09-21 14:46:40.000"]
    assert found["ended before it started"]["y"] == ["S2"]
    assert found["waiting"]["marker"]["color"] != found["failed"]["marker"]["color"]


def test_stages_are_stacked_and_memory_stands_beside_its_request():
    page = Page(render_report(summary(sample())))

    assert {name: bar["x"] for name, bar in bars(page, "stages").items()} == {
        "mapping": [3000],
        "coverage": [500],
    }
    assert page.plots["stages"]["layout"]["barmode"] == "stack"
    memory = bars(page, "memory")
    assert memory["peak"]["x"] == [pytest.approx(300_000 / 1024)]
    assert memory["request"]["x"] == [pytest.approx(500_000 / 1024)]


def test_money_lost_to_failed_attempts_stands_apart():
    lost = failure("S1", run_seconds=1800.0)
    run = summary(sample("S1", [lost, record("S1", started_at=START + 9000)]))

    page = Page(render_report(run))

    good, bad = run.cost(run.samples)
    assert bad == pytest.approx(good / 2)
    found = bars(page, "cost")
    assert found["succeeded"]["x"] == [pytest.approx(good)]
    assert found["lost to failed attempts"]["x"] == [pytest.approx(bad)]
    assert "$1.62 of it lost to failures" in page.words
    assert "2026-11-21, us-east-1, on demand: r6g.16xlarge $3.2256 an hour" in page.words
    assert "Spot is counted like on demand" in page.words


def test_memory_advice_leaves_headroom_above_the_highest_peak():
    low, high = sample("S1"), sample("S2", result=manifest("S2", peak_rss_mib=320_100))

    advice = memory_advice(summary(low, high), headroom=0.25)

    assert advice is not None
    assert (advice.sample, advice.suggested_mib) == ("S2", 401_000)
    assert advice.used_share == pytest.approx(0.6402)
    assert advice.cpu_share == pytest.approx(160_000 / (3600 * 64))
    # The vCPUs take the whole machine, whatever the memory.
    assert (advice.share_now, advice.share_then) == (1.0, 1.0)


def test_memory_advice_says_when_a_job_needs_more_and_what_a_smaller_one_saves():
    tight = sample("S1", [failure("S1", "memory", peak_memory_mib=500_000)], why="x")
    advice = memory_advice(summary(tight))
    assert advice is not None
    assert (advice.suggested_mib, advice.exhausted) == (625_000, 1)

    small = manifest("S1", peak_rss_mib=10_000)
    page = Page(render_report(summary(sample("S1", [record("S1", vcpus=8)], small))))
    assert "With 25 % of headroom, 13,000 MiB would do." in page.words
    assert "take 12 % of one r6g.16xlarge in place of 95 %" in page.words


def test_a_stand_in_for_aws_and_another_machine_are_named():
    here = sample("S1", result=manifest("S1", architecture="x86_64"))

    page = Page(render_report(summary(here, on_aws=False)))

    assert "a stand-in for AWS: nobody was billed" in page.words
    assert "ran on x86_64, but costs are counted with the price of r6g.16xlarge" in page.words


def test_ten_thousand_samples_make_a_page_of_bounded_size_that_says_what_it_leaves_out():
    def one(number: int) -> SampleRun:
        name = f"S{number}"
        if number % 20:
            return sample(name, [record(name, started_at=START + number)])
        return sample(name, [failure(name, reason="no " * 300)] * 3, why="because " * 100)

    few = len(render_report(summary(*map(one, range(1, 61)))))
    began = time.process_time()
    html = render_report(run := summary(*map(one, range(10_000))))
    assert time.process_time() - began < 5

    page = Page(html)
    assert len(html) < few + 1_000_000
    assert "10,000 samples" in page.words
    assert f"The first {FAILURES_LISTED} of 500" in page.words
    assert f"{SAMPLES_LISTED} of 10,000 samples, failed ones first" in page.words
    assert f"{PLOTTED} of 10,000 samples" in page.words
    assert set(page.plots) == {"timeline", "at-once", "stages", "memory", "cost"}
    # A distribution of all that finished, in place of a row for each.
    assert sum(page.plots["memory"]["data"][0]["y"]) == 9500
    assert {each.failure is not None for each in chosen(run.samples)} == {True}


def test_the_samples_that_get_a_row_are_the_failed_the_retried_and_the_slow():
    def quick(number: int) -> SampleRun:
        return sample(f"Q{number}", [record(f"Q{number}", run_seconds=1.0)])

    slow, bad = sample("SLOW"), sample("BAD", [], why="x")
    twice = sample("TWICE", [failure("TWICE", run_seconds=1.0), record("TWICE", run_seconds=1.0)])

    found = chosen([slow, quick(1), twice, quick(2), bad], limit=3)

    assert [each.sample for each in found] == ["SLOW", "TWICE", "BAD"]


def test_jobs_at_once_counts_who_waits_and_who_runs():
    attempts = sample_attempts(
        [
            record("S1", started_at=START + 10, stopped_at=START + 30, queued_seconds=10.0),
            record("S2", started_at=START + 20, stopped_at=START + 40, queued_seconds=20.0),
        ]
    )

    times, waiting, running = jobs_at_once(attempts, moments=5)

    assert times == [START, START + 10, START + 20, START + 30, START + 40]
    assert (waiting, running) == ([2, 1, 0, 0, 0], [0, 1, 2, 1, 0])


def test_an_empty_run_has_a_page_too():
    page = Page(render_report(summary()))

    assert page.plots == {}
    assert page.tags["script"] == 0


def test_mean_depth_is_one_number_where_contigs_name_no_species_or_too_many():
    rows = [{"contig": str(n), "length": "100", "mean": str(n)} for n in (1, 3)]
    assert mean_depths(rows) == {"": 2.0}

    many = [{"contig": f"sp{n}~1", "length": "100", "mean": "3"} for n in range(20)]
    assert mean_depths(many) == {"": 3.0}

    assert mean_depths([{"contig": "a", "length": "9"}]) == {}


def test_a_report_is_written_from_what_the_jobs_left(aws: LocalAws):
    s3 = aws.client("s3")
    results = "s3://localaws-data/results/reads/graviton"
    manifests = {
        name: store(s3, f"{results}/{name}", manifest(name), tidy(name)) for name in ("S1", "S10")
    }
    manifests["S3"] = f"{results}/S3/manifest.json"

    written = write_report(
        s3,
        dag_id="genomics_mapping",
        run_id="manual__1",
        table="reads",
        architecture="graviton",
        parameters={},
        attempts=[failure("S2", "input", reason="mates differ"), record("S1")],
        manifests=manifests,
        failed={"S2": "mates differ"},
        prices=prices(),
        output_uri=f"{results}/reports/1",
    )

    totals = {name: written[name] for name in ("samples", "failed", "partial", "attempts")}
    assert totals == {"samples": 4, "failed": 2, "partial": True, "attempts": 2}
    assert written["lost_usd"] == pytest.approx(written["cost_usd"] / 2, abs=1e-5)

    bucket, key = split_uri(written["report"])
    answer = s3.get_object(Bucket=bucket, Key=key)
    assert answer["ContentType"] == "text/html; charset=utf-8"
    page = Page(answer["Body"].read().decode())
    assert "partial: 2 failed" in page.words
    assert "its manifest cannot be read" in page.words
    assert "a stand-in for AWS" in page.words

    qc = read_table(s3, written["qc"])
    outcomes = {row["sample"]: row["outcome"] for row in qc}
    assert list(outcomes.items()) == [
        ("S1", "mapped"),
        ("S2", "failed"),
        ("S3", "failed"),
        ("S10", "finished before"),
    ]
    assert (qc[0]["reads"], qc[0]["mapped_share"], qc[0]["mapping_seconds"]) == (
        "80000",
        "0.9",
        "3000.0",
    )
    # 1,000 bases at 2.5 and 3,000 at 0.5; the short contig of the other species is left out.
    assert (qc[0]["mean_depth_ecoli"], qc[0]["mean_depth_saureus"]) == ("1.0", "4.0")
    trace = read_table(s3, written["trace"])
    assert [(row["sample"], row["failure"]) for row in trace] == [("S2", "input"), ("S1", "")]


def read_table(s3: Any, uri: str) -> list[dict[str, str]]:
    bucket, key = split_uri(uri)
    text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))
