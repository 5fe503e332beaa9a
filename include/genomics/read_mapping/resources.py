"""What a job has, and what it uses."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup")
PAGE = os.sysconf("SC_PAGE_SIZE")
# Of the memory's size: what lives for less time than that is not seen.
SAMPLE_SECONDS = 0.2
# What bwa holds beside the index: -K's 100 million bases as text, and their alignments; with it
# Python, awk and samtools stats.
BESIDE_INDEX_MIB = 700
SMALLEST_SORT_MIB = 64


@dataclass(frozen=True)
class Resources:
    """Processors and memory that this job may use."""

    vcpus: int
    memory_mib: int

    @classmethod
    def of_job(cls) -> Resources:
        """Take what the submission says, else the container's limits, else the machine's.

        A Batch job is not told of its overrides: who submits it passes them by environment.
        """
        vcpus = os.environ.get("JOB_VCPUS") or _cgroup_vcpus() or len(os.sched_getaffinity(0))
        memory = os.environ.get("JOB_MEMORY_MIB") or _cgroup_memory_mib() or _machine_memory_mib()
        return cls(max(1, int(float(vcpus))), int(float(memory)))

    @property
    def sort_threads(self) -> int:
        """Threads of samtools sort: more than a few wait for each other while it merges."""
        return min(self.vcpus, 8)

    def sort_memory_mib(self, index_mib: int) -> int:
        """Memory for each of the sort's threads beside bwa and its index.

        A fifth is left: what samtools holds is more than it counts.
        """
        free = (self.memory_mib - index_mib - BESIDE_INDEX_MIB) * 4 // 5
        return max(SMALLEST_SORT_MIB, free // self.sort_threads)


@dataclass
class Stage:
    """What one stage took; CPU seconds are those of this process and of all it started."""

    name: str
    started_at: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_mib: int = 0
    skipped: bool = False


class Stages:
    """Watches the process tree while stages run."""

    def __init__(self) -> None:
        self._stages: list[Stage] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Stages:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextlib.contextmanager
    def stage(self, name: str, *, skipped: bool = False) -> Iterator[None]:
        """Measure what runs within."""
        stage = Stage(name, utc_now(), skipped=skipped)
        began, cpu = time.monotonic(), _cpu_seconds()
        self._stages.append(stage)
        try:
            yield
        finally:
            self._note()
            stage.seconds = round(time.monotonic() - began, 3)
            stage.cpu_seconds = round(_cpu_seconds() - cpu, 3)

    def to_list(self) -> list[dict[str, Any]]:
        """Give the stages so far."""
        return [asdict(stage) for stage in self._stages]

    @property
    def peak_rss_mib(self) -> int:
        """The most memory that was seen; at least what any one process has had."""
        largest = max(
            resource.getrusage(who).ru_maxrss
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return max([largest >> 10, *(stage.peak_rss_mib for stage in self._stages)])

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._note()

    def _note(self) -> None:
        if self._stages:
            stage = self._stages[-1]
            stage.peak_rss_mib = max(stage.peak_rss_mib, tree_rss_mib(os.getpid()))


def tree_rss_mib(root: int) -> int:
    """Add up the resident memory of a process and all that descend from it, in MiB."""
    children: dict[int, list[int]] = defaultdict(list)
    pages: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may itself hold spaces and parentheses.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children[int(fields[1])].append(int(entry.name))
                pages[int(entry.name)] = int(fields[21])
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        total += pages.get(process, 0)
        waiting += children[process]
    return total * PAGE >> 20


def oom_kills() -> int:
    """Count the processes of this container that the kernel has killed for its memory limit."""
    words = _words("memory.events") or _words("memory/memory.oom_control") or []
    counts = dict(zip(words[::2], words[1::2], strict=False))
    return int(counts.get("oom_kill", 0))


def utc_now() -> str:
    """Give the time in UTC to the second.

    >>> utc_now()[-1]
    'Z'
    """
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cpu_seconds() -> float:
    uses = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _cgroup_vcpus() -> float | None:
    quota, period = _words("cpu.max") or (None, None)
    if quota is None:
        [quota] = _words("cpu/cpu.cfs_quota_us") or ["max"]
        [period] = _words("cpu/cpu.cfs_period_us") or ["100000"]
    if quota in ("max", "-1") or period is None:
        return None
    return int(quota) / int(period)


def _cgroup_memory_mib() -> int | None:
    [limit] = _words("memory.max") or _words("memory/memory.limit_in_bytes") or ["max"]
    # Version 1 says "no limit" by a number beyond any machine.
    if limit == "max" or int(limit) >= 1 << 60:
        return None
    return int(limit) >> 20


def _words(name: str) -> list[str] | None:
    try:
        return (CGROUP / name).read_text().split()
    except OSError:
        return None


def _machine_memory_mib() -> int:
    return os.sysconf("SC_PHYS_PAGES") * PAGE >> 20
