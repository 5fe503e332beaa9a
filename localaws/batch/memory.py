"""How much memory a job's processes have, from ``/proc``: no control group, no root. Linux only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class ProcessTable:
    """Who descends from whom, and the resident bytes of each process, at one moment."""

    children: dict[int, list[int]] = field(default_factory=dict)
    resident: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls) -> ProcessTable:
        """Look at all processes of this machine, once for all jobs."""
        table = cls()
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            # who has ended meanwhile has no memory
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # the name in parentheses may hold blanks: fields count from the last parenthesis
                fields = file.read().rpartition(b")")[2].split()
                table.children.setdefault(int(fields[1]), []).append(int(name))
                table.resident[int(name)] = int(fields[21]) * PAGE
        return table

    def descendants(self, pid: int) -> Iterator[int]:
        """Yield all that descend from a process, not itself."""
        found = list(self.children.get(pid, []))
        for one in found:
            found.extend(self.children.get(one, []))
        yield from found

    def used_below(self, pid: int) -> int:
        """Return the resident bytes of a process's descendants; shared pages count for each."""
        return sum(self.resident.get(one, 0) for one in self.descendants(pid))

    def exactly_below(self, pid: int) -> int:
        """Return the same with shared pages counted once, as a container's limit does."""
        return sum(proportional(one) for one in self.descendants(pid))


def proportional(pid: int) -> int:
    """Return a process's bytes, its share of the shared ones included (PSS)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0
