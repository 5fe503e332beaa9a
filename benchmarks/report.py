"""What a benchmark tells: one table, the targets, and what they mean; as text and as Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# `python -m benchmarks` finds in this file what a benchmark has told.
REPORT_FILE = "BENCHMARK_REPORT"


@dataclass(frozen=True)
class Target:
    """What was promised, and whether it was kept."""

    promise: str
    measured: str
    met: bool

    def sentence(self) -> str:
        """Say it in one line."""
        return f"{self.promise}: {self.measured}, {'met' if self.met else 'MISSED'}"


@dataclass(frozen=True)
class Report:
    """A benchmark's outcome.

    :ivar setting: what was run, in words.
    :ivar columns: the titles; the first is that of the rows' names.
    :ivar meaning: what the figures say to who has to choose.
    """

    title: str
    setting: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    targets: Sequence[Target]
    meaning: str

    def text(self) -> str:
        """Give the table and the targets for a terminal."""
        cells = [self.columns, *self.rows]
        widths = [max(len(row[place]) for row in cells) for place in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        return "\n".join([self.setting, *lines, *(each.sentence() for each in self.targets)])

    def markdown(self) -> str:
        """Give a section of docs/benchmarks.md."""
        rule = ["---", *("--:" for _ in self.columns[1:])]
        table = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        targets = "\n".join(f"- {each.sentence()}" for each in self.targets)
        parts = [f"## {self.title}", self.setting, "\n".join(table)]
        parts += [f"Targets:\n\n{targets}"] if targets else []
        return "\n\n".join([*parts, self.meaning])

    @classmethod
    def of(cls, said: dict[str, Any]) -> Report:
        """Take what :func:`tell` has written."""
        return cls(**said | {"targets": [Target(**each) for each in said["targets"]]})


def tell(report: Report) -> None:
    """Print a report, and keep it for `python -m benchmarks`."""
    print(report.text())
    if path := os.environ.get(REPORT_FILE):
        Path(path).write_text(json.dumps(asdict(report)))


def ratio(ours: float, stock: float) -> str:
    """Give ours / stock; a dash where stock has nothing to compare with."""
    return f"{ours / stock:.3g}" if stock else "-"


def number(value: float) -> str:
    """Give a figure with the digits that say something."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def at_most(promise: str, measured: float, limit: float, beside: str = "") -> Target:
    """Judge what should not be more than a limit; ``beside`` says what it can be compared with."""
    said = f"{number(measured)}{f' ({beside})' if beside else ''}"
    return Target(promise, said, measured <= limit)


def quantile(values: Sequence[float], share: float) -> float:
    """Give the value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
