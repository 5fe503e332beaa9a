"""The table of the fault suite: a row for each case and kind, ours beside stock.

    python -m tests.faults.table

writes ``docs/faults.md`` from what the last runs of both have recorded below ``.cache/faults``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.world import Audit

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / ".cache" / "faults"


@dataclass(frozen=True)
class Row:
    """What became of one kind of external job in one case."""

    group: str
    case: str
    kind: str
    leaked: int
    duplicates: int
    outcome: str

    @classmethod
    def of(cls, group: str, case: str, kind: str, operators: str, audit: Audit) -> Row:
        """Take what concerns a kind from the audit of its run."""
        return cls(
            group,
            case,
            kind,
            sum(job.kind == kind for job in audit.leaked),
            sum(job.kind == kind for job in audit.duplicates),
            audit.state,
        )


def write_rows(operators: str, rows: Iterable[Row]) -> None:
    """Add rows to the record; those of the same case and kind replace the earlier ones."""
    file = RECORDS / f"{operators}.json"
    before = json.loads(file.read_text()) if file.exists() else []
    kept = {_key(row): row for row in before} | {_key(asdict(row)): asdict(row) for row in rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(list(kept.values()), indent=1))


def _key(row: dict[str, object]) -> tuple[object, ...]:
    return row["group"], row["case"], row["kind"]
