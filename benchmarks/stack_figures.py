"""What a whole Airflow has taken so far: CPU by component, database, calls of AWS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from scripts.stack import Stack
from scripts.stack_record import LOCALAWS

POSTGRES = "postgres"
_COUNTERS = ("xact_commit", "tup_fetched", "tup_inserted", "tup_updated", "tup_deleted")


@dataclass(frozen=True)
class StackFigures:
    """Figures since the start, or between two readings.

    :ivar cpu: CPU seconds, user and system, by component; localaws is left out.
    :ivar database: PostgreSQL's counters of the metadata database (``pg_stat_database``).
    :ivar calls: calls of AWS by operation, whatever they were answered.
    """

    cpu: Mapping[str, float]
    database: Mapping[str, float]
    calls: Mapping[str, float]

    @classmethod
    def read(cls, stack: Stack) -> StackFigures:
        """Read what the stack has taken so far."""
        cpu = {
            name: _cpu_of(component.identity.session())
            for name, component in stack.processes.items()
            if name != LOCALAWS
        }
        pid = int((stack.home / "postgres" / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        cpu[POSTGRES] = _cpu_of([postmaster, *postmaster.children(recursive=True)])
        return cls(cpu, _database_counters(stack), _calls(stack))

    def since(self, before: StackFigures) -> StackFigures:
        """Give what was taken since an earlier reading."""
        return StackFigures(
            _difference(self.cpu, before.cpu),
            _difference(self.database, before.database),
            _difference(self.calls, before.calls),
        )


def _difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0) for name, value in after.items()}


def _cpu_of(processes: Iterable[psutil.Process]) -> float:
    """Add up processes and the children that they have waited for."""
    spent = 0.0
    for process in processes:
        try:
            spent += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return spent


def _database_counters(stack: Stack) -> dict[str, float]:
    import sqlalchemy

    engine = sqlalchemy.create_engine(stack.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    query = f"SELECT {', '.join(_COUNTERS)} FROM pg_stat_database WHERE datname = 'postgres'"  # noqa: S608
    with engine.connect() as connection:
        row = connection.execute(sqlalchemy.text(query)).one()
    engine.dispose()
    return dict(zip(_COUNTERS, map(float, row), strict=True))


def _calls(stack: Stack) -> dict[str, float]:
    answer = httpx.get(f"{stack.localaws_url}/localaws/calls", trust_env=False)
    by_service: dict[str, Any] = answer.raise_for_status().json()
    calls: Counter[str] = Counter()
    for operations in by_service.values():
        for operation, by_status in operations.items():
            calls[operation] += sum(by_status.values())
    return dict(calls)
