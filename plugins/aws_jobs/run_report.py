"""A run's report: one HTML page for people, two tables for programs.

``report.html`` shows what happened, ``trace.tsv`` has a row for each attempt, ``qc.tsv`` one for
each sample. The page is bounded, the tables are whole.
"""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aws_jobs.costs import ASSUMPTIONS, Prices, machine_share
from aws_jobs.report_page import render_page
from aws_jobs.run_figures import figures_of, stage_names
from aws_jobs.s3_uri import split_uri
from aws_jobs.sample_results import (
    MACHINES,
    READERS,
    SampleResult,
    coverage_rows,
    mean_depths,
    read_results,
)
from aws_jobs.trace import SampleAttempt, sample_attempts, trace_rows, write_table, write_trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aws_jobs.settings import Architecture

# What the page shows of large runs; the tables have all.
SAMPLES_LISTED = 500
FAILURES_LISTED = 200
_REASON_LENGTH = 400
# A coverage table may have a row for each of a hundred thousand contigs.
DEPTHS_READ = 200

# What a job should have above its highest peak: samples differ.
HEADROOM = 0.25


@dataclass(frozen=True)
class SampleRun:
    """One sample in a run.

    :param attempts: none where an earlier run had finished it.
    :param result: what its manifest says; None where there is none.
    :param failure: why it is not finished; None where it is.
    :param depths: mean depth by species, see :func:`aws_jobs.sample_results.mean_depths`.
    """

    sample: str
    attempts: tuple[SampleAttempt, ...] = ()
    result: SampleResult | None = None
    failure: str | None = None
    depths: Mapping[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """``failed``, ``mapped`` by this run, or ``finished before``."""
        if self.failure is not None:
            return "failed"
        return "mapped" if self.attempts else "finished before"

    @property
    def memory_mib(self) -> float:
        """What the last attempt asked for."""
        if self.attempts:
            return self.attempts[-1].memory_mib or 0
        return (self.result.memory_mib if self.result else None) or 0

    @property
    def peak_memory_mib(self) -> float | None:
        """The highest of all attempts that are known."""
        of_result = self.result.peak_memory_mib if self.result else None
        peaks = [of_result, *(attempt.peak_memory_mib for attempt in self.attempts)]
        return max((peak for peak in peaks if peak is not None), default=None)


@dataclass(frozen=True)
class RunSummary:
    """All that a report says.

    :param parameters: what the run was started with.
    :param on_aws: False where jobs ran on a stand-in, so that nobody was billed.
    """

    dag_id: str
    run_id: str
    table: str
    architecture: Architecture
    parameters: Mapping[str, Any]
    samples: tuple[SampleRun, ...]
    prices: Prices
    made_at: datetime
    on_aws: bool = True

    @property
    def attempts(self) -> tuple[SampleAttempt, ...]:
        """Those of all samples."""
        return tuple(attempt for sample in self.samples for attempt in sample.attempts)

    @property
    def failed(self) -> tuple[SampleRun, ...]:
        """The samples that are not finished."""
        return tuple(sample for sample in self.samples if sample.failure is not None)

    def cost(self, samples: Iterable[SampleRun]) -> tuple[float, float]:
        """Return US dollars for attempts that succeeded, and for those that did not."""
        good = lost = 0.0
        for sample in samples:
            for attempt in sample.attempts:
                dollars = attempt.cost(self.prices, self.architecture)
                good, lost = (good + dollars, lost) if attempt.succeeded else (good, lost + dollars)
        return good, lost


@dataclass(frozen=True)
class MemoryAdvice:
    """What a job should ask for, from what jobs used.

    :param highest_mib: the peak of ``sample``, the highest of all.
    :param suggested_mib: that and the headroom, rounded up.
    :param cpu_share: of the vCPUs asked for, over the whole job; None where it is not known.
    :param share_now: of a machine, as costs count it.
    :param share_then: the same with the suggested memory.
    :param exhausted: attempts that ended because memory ran out.
    """

    request_mib: float
    highest_mib: float
    sample: str
    suggested_mib: float
    headroom: float
    cpu_share: float | None
    share_now: float
    share_then: float
    exhausted: int

    @property
    def used_share(self) -> float:
        """The highest peak as a share of the request."""
        return self.highest_mib / self.request_mib


def memory_advice(run: RunSummary, headroom: float = HEADROOM) -> MemoryAdvice | None:
    """Compare the highest peak with the request; None where no peak is known."""
    known = [each for each in run.samples if each.peak_memory_mib and each.memory_mib]
    if not known:
        return None
    top = max(known, key=lambda each: each.peak_memory_mib or 0)
    highest = top.peak_memory_mib or 0
    step = 100 if highest < 10_000 else 1000
    suggested = -(-highest * (1 + headroom) // step) * step
    request = max(sample.memory_mib for sample in known)
    vcpus = max((attempt.vcpus or 0 for attempt in run.attempts), default=0)
    machine = run.prices.machines[run.architecture]
    return MemoryAdvice(
        request_mib=request,
        highest_mib=highest,
        sample=top.sample,
        suggested_mib=suggested,
        headroom=headroom,
        cpu_share=_cpu_share(run.samples),
        share_now=machine_share(machine, vcpus=vcpus, memory_mib=request),
        share_then=machine_share(machine, vcpus=vcpus, memory_mib=suggested),
        exhausted=sum(attempt.failure == "memory" for attempt in run.attempts),
    )


def render_report(run: RunSummary) -> str:
    """Return the page."""
    good, lost = run.cost(run.samples)
    listed = run.samples
    if len(listed) > SAMPLES_LISTED:
        listed = tuple(sorted(listed, key=lambda each: each.failure is None)[:SAMPLES_LISTED])
    return render_page(
        "run_report.html.j2",
        plots=figures_of(run),
        run=run,
        outcomes=Counter(sample.outcome for sample in run.samples),
        failures=[_failure(sample) for sample in run.failed[:FAILURES_LISTED]],
        classes=Counter(each.failure or "unknown" for each in run.attempts if not each.succeeded),
        wall_seconds=_wall_seconds(run.attempts),
        waited=_median(attempt.queued_seconds for attempt in run.attempts),
        cost=good + lost,
        lost=lost,
        advice=memory_advice(run),
        assumptions=ASSUMPTIONS,
        machine=run.prices.machines[run.architecture],
        elsewhere=_elsewhere(run),
        provenance=_provenance(run.samples),
        listed=[(sample, _stage_totals(sample)) for sample in listed],
        stages=stage_names(run.samples),
        species=_species(run.samples),
        costs={sample.sample: sum(run.cost([sample])) for sample in listed},
    )


def qc_rows(run: RunSummary) -> list[dict[str, Any]]:
    """Return a row for each sample: its reads, depths, stages' seconds and peak memory."""
    rows = []
    for each in run.samples:
        qc = each.result.qc if each.result else {}
        rows.append(
            {
                "sample": each.sample,
                "outcome": each.outcome,
                "attempts": len(each.attempts),
                "reads": qc.get("reads"),
                "mapped": qc.get("mapped"),
                "mapped_share": qc.get("mapped_share"),
                "kept": qc.get("kept"),
                "kept_share": qc.get("kept_share"),
                "peak_memory_mib": each.peak_memory_mib,
                "memory_mib": each.memory_mib,
                "cost_usd": round(sum(run.cost([each])), 6),
                "failure": each.failure,
            }
            | {f"{name}_seconds": round(s, 3) for name, s in _stage_totals(each).items()}
            | {
                "_".join(["mean_depth", *filter(None, [species])]): round(depth, 4)
                for species, depth in each.depths.items()
            }
        )
    return rows


def write_report(
    s3: Any,
    *,
    dag_id: str,
    run_id: str,
    table: str,
    architecture: Architecture,
    parameters: Mapping[str, Any],
    attempts: Iterable[Mapping[str, Any]],
    manifests: Mapping[str, str],
    failed: Mapping[str, str],
    prices: Prices,
    output_uri: str,
) -> dict[str, Any]:
    """Write ``report.html``, ``trace.tsv`` and ``qc.tsv`` below an address in S3.

    :param attempts: the operator's records of all samples, in any order.
    :param manifests: where the manifest of each finished sample is, by sample.
    :param failed: why each unfinished sample is unfinished, by sample.
    :param output_uri: ``s3://...``; what is there is replaced.
    :returns: the three addresses and the run's totals, small enough for XCom.
    """
    results = read_results(s3, manifests)
    numbered = sample_attempts(attempts)
    run = RunSummary(
        dag_id=dag_id,
        run_id=run_id,
        table=table,
        architecture=architecture,
        parameters=parameters,
        samples=_samples(numbered, manifests, results, failed, _depths(s3, results)),
        prices=prices,
        made_at=datetime.now(UTC),
        on_aws=is_aws(s3),
    )
    trace, qc = io.StringIO(), io.StringIO()
    write_trace(trace_rows(numbered, results, prices, architecture), trace)
    write_table(rows := qc_rows(run), list(rows[0]) if rows else ["sample"], qc)
    addresses = {
        "report": put_text(s3, f"{output_uri}/report.html", render_report(run), "text/html"),
        "trace": put_text(s3, f"{output_uri}/trace.tsv", trace.getvalue()),
        "qc": put_text(s3, f"{output_uri}/qc.tsv", qc.getvalue()),
    }
    good, lost = run.cost(run.samples)
    return {
        **addresses,
        "samples": len(run.samples),
        "failed": len(run.failed),
        "partial": bool(run.failed),
        "attempts": len(numbered),
        "cost_usd": round(good + lost, 6),
        "lost_usd": round(lost, 6),
    }


def put_text(s3: Any, uri: str, text: str, content_type: str = "text/tab-separated-values") -> str:
    """Store a text and return its address."""
    from aws_jobs.aws_errors import call_patiently

    bucket, key = split_uri(uri)
    call_patiently(
        lambda: s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=text.encode(),
            ContentType=f"{content_type}; charset=utf-8",
        ),
        budget=120.0,
    )
    return uri


def is_aws(client: Any) -> bool:
    """Whether a client speaks to AWS, and not to a stand-in for it."""
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def _samples(
    attempts: Sequence[SampleAttempt],
    manifests: Mapping[str, str],
    results: Mapping[str, SampleResult],
    failed: Mapping[str, str],
    depths: Mapping[str, Mapping[str, float]],
) -> tuple[SampleRun, ...]:
    made: dict[str, list[SampleAttempt]] = defaultdict(list)
    for attempt in attempts:
        made[attempt.sample].append(attempt)
    unread = {name: "its manifest cannot be read" for name in manifests if name not in results}
    silent = {name: "it has no manifest" for name in made if name not in manifests}
    why = {**silent, **unread, **failed}
    return tuple(
        SampleRun(name, tuple(made[name]), results.get(name), why.get(name), depths.get(name, {}))
        for name in sorted({*made, *manifests, *failed}, key=_in_order)
    )


def _in_order(name: str) -> list[Any]:
    """S2 comes before S10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _depths(s3: Any, results: Mapping[str, SampleResult]) -> dict[str, dict[str, float]]:
    """Read the mean depths of the samples of a small run."""
    from concurrent.futures import ThreadPoolExecutor

    if len(results) > DEPTHS_READ:
        return {}
    tables = {
        name: str(result.outputs["coverage_tidy"]["uri"])
        for name, result in results.items()
        if "coverage_tidy" in result.outputs
    }
    with ThreadPoolExecutor(max_workers=READERS) as readers:
        found = readers.map(lambda uri: mean_depths(coverage_rows(s3, uri)), tables.values())
        return dict(zip(tables, found, strict=True))


def _stage_totals(sample: SampleRun) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for stage in sample.result.stages if sample.result else ():
        if not stage.skipped:
            totals[stage.name] += stage.seconds
    return dict(totals)


def _species(samples: Iterable[SampleRun]) -> list[str]:
    return sorted({species for sample in samples for species in sample.depths})


def _failure(sample: SampleRun) -> dict[str, Any]:
    last = sample.attempts[-1] if sample.attempts else None
    reason = sample.failure or ""
    return {
        "sample": sample.sample,
        "reason": reason if len(reason) <= _REASON_LENGTH else f"{reason[:_REASON_LENGTH]}…",
        "attempts": len(sample.attempts),
        "class": (last.failure or last.outcome) if last else "not started",
        "log_stream": (last.log_stream if last else None) or "",
    }


def _wall_seconds(attempts: Sequence[SampleAttempt]) -> float | None:
    created = [each.created_at for each in attempts if each.created_at is not None]
    stopped = [each.stopped_at for each in attempts if each.stopped_at is not None]
    return max(stopped) - min(created) if created and stopped else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _cpu_share(samples: Iterable[SampleRun]) -> float | None:
    used = asked = 0.0
    for sample in samples:
        last = sample.attempts[-1] if sample.attempts else None
        seconds = sample.result.cpu_seconds if sample.result else None
        if last and last.succeeded and last.run_seconds and seconds is not None:
            used += seconds
            asked += last.run_seconds * (last.vcpus or 0)
    return used / asked if asked else None


def _elsewhere(run: RunSummary) -> list[str]:
    """Return the machines that this run's samples ran on and its prices are not for."""
    machines = {s.result.architecture for s in run.samples if s.result and s.attempts}
    return sorted(machines - {MACHINES[run.architecture], ""})


def _provenance(samples: Iterable[SampleRun]) -> dict[str, list[str]]:
    """Return what made the results; more than one value is worth a look."""
    found: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.result:
            found["image"].add(sample.result.image or "")
            found["machine"].add(sample.result.architecture)
            for tool, version in sample.result.tools.items():
                found[tool].add(str(version))
    return {name: sorted(filter(None, values)) for name, values in found.items() if any(values)}
