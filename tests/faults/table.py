"""The table of the fault suite: a row for each case and kind, ours beside stock.

    python -m tests.faults.table

writes ``docs/faults.md`` from what the last runs of both have recorded below ``.cache/fault-rows``.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.world import Audit

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / ".cache" / "fault-rows"
INTRODUCTION = Path(__file__).with_name("introduction.md")
PAGE = ROOT / "docs" / "faults.md"

_COLUMNS = ("made", "leaked", "twice", "lost", "outcome")
HEADER = ("case", "kind", *(f"{who}: {name}" for who in ("ours", "stock") for name in _COLUMNS))


@dataclass(frozen=True)
class Row:
    """What became of one kind of external job in one case."""

    group: str
    case: str
    kind: str
    leaked: int
    duplicates: int
    outcome: str
    made: int
    reached: bool
    """Whether each strike of the case struck."""
    lost: int = 0
    """Items that nobody worked on to their end, though the run has succeeded."""
    astray: int = 0
    """Runs that ended otherwise than the case asks for."""

    @classmethod
    def of(
        cls,
        group: str,
        case: str,
        kind: str,
        audit: Audit,
        *,
        states: Collection[str] = ("success",),
        undone: Collection[str] = (),
    ) -> Row:
        """Take what concerns a kind from the audit of its run.

        :param states: in which the run may end.
        :param undone: kinds whose work need not be done.
        """
        return cls(
            group,
            case,
            kind,
            sum(job.kind == kind for job in audit.leaked),
            sum(job.kind == kind for job in audit.duplicates),
            audit.state,
            sum(job.kind == kind for job in audit.jobs),
            not audit.missed,
            0 if kind in undone else len(audit.lost.get(kind, ())),
            int(audit.state not in states),
        )

    def __add__(self, other: Row) -> Row:
        """Put another run of the same case beside it."""
        outcomes = dict.fromkeys([*self.outcome.split(", "), other.outcome])
        return replace(
            self,
            leaked=self.leaked + other.leaked,
            duplicates=self.duplicates + other.duplicates,
            outcome=", ".join(outcomes),
            made=self.made + other.made,
            reached=self.reached and other.reached,
            lost=self.lost + other.lost,
            astray=self.astray + other.astray,
        )

    @property
    def key(self) -> tuple[str, str, str]:
        """What the columns have in common."""
        return self.group, self.case, self.kind

    def cells(self, beside: Row | None = None) -> tuple[str, ...]:
        """Give the row's part of the table, what should not be in bold.

        :param beside: ours, than which none should make more.
        """
        wrong = (self.leaked, self.duplicates, self.lost)
        outcome = f"**{self.outcome}**" if self.astray else self.outcome
        return (
            f"**{self.made}**" if beside and self.made > beside.made else str(self.made),
            *(f"**{number}**" if number else "0" for number in wrong),
            outcome if self.reached else f"{outcome} *(not reached)*",
        )


Rows = dict[tuple[str, str, str], Row]


def read_rows(operators: str) -> Rows:
    """Return what was recorded, in the order of the cases."""
    file = RECORDS / f"{operators}.json"
    rows = [Row(**row) for row in json.loads(file.read_text())] if file.exists() else []
    return {row.key: row for row in rows}


def write_rows(operators: str, rows: Rows) -> None:
    """Add rows to the record; those of the same case and kind replace the earlier ones."""
    all_rows = read_rows(operators) | rows
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{operators}.json").write_text(
        json.dumps([asdict(row) for row in all_rows.values()], indent=1)
    )


def page(ours: Rows, stock: Rows) -> str:
    """Return the document."""
    keys = list(ours | stock)
    columns = {
        "ours": ours,
        "ours, of what stock was put to": {key: ours[key] for key in ours if key in stock},
        "stock": stock,
    }
    parts = [INTRODUCTION.read_text(), _summary(columns), _circumstances()]
    for group in dict.fromkeys(key[0] for key in keys):
        lines = [_line(key, ours, stock) for key in keys if key[0] == group]
        parts.append(
            "\n".join([f"## {group}\n", _cells(HEADER), _cells(["---"] * len(HEADER)), *lines, ""])
        )
    return "\n".join(parts)


def _summary(columns: dict[str, Rows]) -> str:
    head = ("", "rows", "made", "leaked", "twice", "lost", "rows that ended otherwise", "stuck")
    lines = [
        (
            operators,
            str(len(rows)),
            str(sum(row.made for row in rows.values())),
            str(sum(row.leaked for row in rows.values())),
            str(sum(row.duplicates for row in rows.values())),
            str(sum(row.lost for row in rows.values())),
            str(sum(bool(row.astray) for row in rows.values())),
            str(sum("stuck" in row.outcome for row in rows.values())),
        )
        for operators, rows in columns.items()
    ]
    return "\n".join(["## In all\n", *map(_cells, [head, ["---"] * len(head), *lines]), ""])


def _circumstances() -> str:
    packages = ("apache-airflow-core", "apache-airflow-providers-amazon", "boto3")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}.\n"
    )


def _line(
    key: tuple[str, str, str],
    ours: Rows,
    stock: Rows,
) -> str:
    _, case, kind = key
    columns = [
        rows[key].cells(ours.get(key)) if key in rows else ["-"] * len(_COLUMNS)
        for rows in (ours, stock)
    ]
    return _cells([case, kind, *columns[0], *columns[1]])


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(read_rows("ours"), read_rows("stock")))
    print(f"written: {PAGE}")
