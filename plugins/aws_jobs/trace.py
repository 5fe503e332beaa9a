"""One row for each attempt of each sample: what it asked for, what it used, how it ended."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from aws_jobs.batch_attempts import Attempt
from aws_jobs.costs import job_cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aws_jobs.costs import Prices
    from aws_jobs.sample_results import SampleResult
    from aws_jobs.settings import Architecture

SUCCEEDED = "succeeded"

COLUMNS = (
    "sample",
    "attempt",
    "outcome",
    "failure",
    "exit_code",
    "reason",
    "job_id",
    "queue",
    "submitted",
    "started",
    "stopped",
    "queued_seconds",
    "run_seconds",
    "cpu_seconds",
    "cpu_share",
    "vcpus",
    "memory_mib",
    "peak_memory_mib",
    "memory_share",
    "cost_usd",
    "log_stream",
)
"""The columns before those of the stages, ``<stage>_seconds``.

Times are UTC. ``cpu_share`` and ``memory_share`` are of what the job asked for; CPU and stages are
known for the attempt that wrote the sample's manifest. ``cost_usd`` is an estimate.
"""


@dataclass(frozen=True)
class SampleAttempt(Attempt):
    """One attempt of a sample; the attempts that Batch makes by itself have one job.

    :param number: 1 for the sample's first attempt.
    """

    sample: str = ""
    number: int = 1

    @property
    def succeeded(self) -> bool:
        """Whether it did what it was for."""
        return self.outcome == SUCCEEDED

    @property
    def waited_from(self) -> float | None:
        """When its wait began, in seconds since 1970."""
        end = self.started_at or self.stopped_at
        if end is None or self.queued_seconds is None:
            return self.created_at
        return end - self.queued_seconds

    def cost(self, prices: Prices, architecture: Architecture) -> float:
        """Return the estimate in US dollars."""
        return job_cost(
            prices,
            architecture,
            vcpus=self.vcpus or 0,
            memory_mib=self.memory_mib or 0,
            seconds=self.run_seconds,
        )


_KNOWN = {each.name for each in fields(SampleAttempt)} - {"number"}


def sample_attempts(records: Iterable[Mapping[str, Any]]) -> tuple[SampleAttempt, ...]:
    """Put the attempts in the order in which they were made, and number each sample's.

    :param records: what the operator pushed, one mapping for each attempt.
    """
    counts: Counter[str] = Counter()
    found = []
    for record in sorted(records, key=_when):
        counts[record["sample"]] += 1
        known = {name: value for name, value in record.items() if name in _KNOWN}
        found.append(SampleAttempt(**known, number=counts[record["sample"]]))
    return tuple(found)


def trace_rows(
    attempts: Iterable[SampleAttempt],
    results: Mapping[str, SampleResult],
    prices: Prices,
    architecture: Architecture,
) -> list[dict[str, Any]]:
    """Return a row for each attempt; its keys are :data:`COLUMNS` and the stages' seconds."""
    rows = []
    for attempt in attempts:
        result = results.get(attempt.sample)
        ran = result if result and wrote(attempt, result) else None
        rows.append(
            {
                "sample": attempt.sample,
                "attempt": attempt.number,
                "outcome": attempt.outcome,
                "failure": attempt.failure,
                "exit_code": attempt.exit_code,
                "reason": attempt.reason,
                "job_id": attempt.job_id,
                "queue": attempt.queue,
                "submitted": _iso(attempt.created_at),
                "started": _iso(attempt.started_at),
                "stopped": _iso(attempt.stopped_at),
                "queued_seconds": _rounded(attempt.queued_seconds),
                "run_seconds": _rounded(attempt.run_seconds),
                "cpu_seconds": _rounded(ran.cpu_seconds if ran else None),
                "cpu_share": _share(
                    ran.cpu_seconds if ran else None,
                    (attempt.run_seconds or 0) * (attempt.vcpus or 0),
                ),
                "vcpus": attempt.vcpus,
                "memory_mib": attempt.memory_mib,
                "peak_memory_mib": attempt.peak_memory_mib,
                "memory_share": _share(attempt.peak_memory_mib, attempt.memory_mib),
                "cost_usd": round(attempt.cost(prices, architecture), 6),
                "log_stream": attempt.log_stream,
            }
            | {
                f"{stage.name}_seconds": _rounded(stage.seconds)
                for stage in (ran.stages if ran else ())
                if not stage.skipped
            }
        )
    return rows


def wrote(attempt: SampleAttempt, result: SampleResult) -> bool:
    """Whether this attempt wrote the sample's manifest."""
    return attempt.succeeded and result.job_id in (None, attempt.job_id)


def write_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: TextIO) -> None:
    """Write rows as tab-separated values; what only some rows have comes after ``columns``."""
    more = dict.fromkeys(name for row in rows for name in row if name not in columns)
    # No quotes: a field holds neither tabs nor line breaks, so a line can be split at its tabs.
    writer = csv.writer(
        file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
    )
    names = [*columns, *more]
    writer.writerow(names)
    writer.writerows([_field(row.get(name)) for name in names] for row in rows)


def write_trace(rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    """Write the rows of :func:`trace_rows`."""
    write_table(rows, COLUMNS, file)


def _when(record: Mapping[str, Any]) -> float:
    times = (record.get(name) for name in ("started_at", "stopped_at", "created_at"))
    return float(next(filter(None, times), 0.0))


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _share(part: float | None, whole: float | None) -> float | None:
    return round(part / whole, 4) if part is not None and whole else None


def _field(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())
