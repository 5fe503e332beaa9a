"""Reads to a filtered BAM, in one stream: no SAM and no unfiltered BAM on any disk.

S3 -> inflate, count -.                    .-> samtools flagstat
                       > bwa mem -> tee ---+-> samtools stats
S3 -> inflate, count -'                    '-> filter -> samtools sort -> BAM and its index
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from read_mapping import sam_filter
from read_mapping.exceptions import InputDataError, MappingError
from read_mapping.fastq import Fastq, check_counts, check_mates
from read_mapping.item import Item
from read_mapping.objects import ObjectStore, Stored
from read_mapping.processes import Processes, pipe
from read_mapping.reference import PREFIX, Reference
from read_mapping.resources import Resources

# Bases in a batch. By default ten million a thread: the records would depend on the threads.
BATCH = "100000000"


def map_reads(
    store: ObjectStore,
    item: Item,
    mates: tuple[Stored, Stored],
    reference: Reference,
    resources: Resources,
    folder: Path,
) -> dict[str, Path]:
    """Map a sample; return the BAM, its index, and what bwa emitted in figures.

    The folder holds the reference's index. Raises InputDataError where the reads are cut or no
    mates, MappingError where a process fails.
    """
    one, two = (Fastq(store, stored) for stored in mates)
    check_mates(one, two)
    files = {
        "filtered_bam": folder / f"{item.sample}.filtered.bam",
        "filtered_bai": folder / f"{item.sample}.filtered.bam.bai",
        "emitted_flagstat": folder / f"{item.sample}.emitted.flagstat",
        "emitted_stats": folder / f"{item.sample}.emitted.stats",
    }
    with Processes(folder) as processes:
        _start(processes, item, reference, resources, files, (one, two))
        try:
            processes.wait()
        except MappingError as error:
            # bwa compares the names of all mates; here only those of the first are.
            if "paired reads have different names" in str(error):
                raise InputDataError(f"{item.r1} and {item.r2} are no mates: {error}") from error
            raise
    check_counts(one, two)
    emitted = count_reads(files["emitted_flagstat"])
    reads = one.reads + two.reads
    if emitted["primary"] != reads:
        raise MappingError(f"bwa emitted {emitted['primary']:,} of {reads:,} reads in silence")
    return files


def count_reads(flagstat: Path) -> dict[str, int]:
    """Read the counts of samtools flagstat.

    >>> count_reads(Path("S1.emitted.flagstat"))["primary mapped"]
    73623
    """
    lines = re.findall(r"^(\d+) \+ \d+ (.*?)(?: \(.*)?$", flagstat.read_text(), re.MULTILINE)
    return {what: int(count) for count, what in lines}


def _start(
    processes: Processes,
    item: Item,
    reference: Reference,
    resources: Resources,
    files: dict[str, Path],
    mates: tuple[Fastq, Fastq],
) -> None:
    feeds = [pipe(), pipe()]
    (sam, to_tee), (flagstat, to_flagstat), (stats, to_stats) = pipe(), pipe(), pipe()
    (every, to_filter), (kept, to_sort) = pipe(), pipe()
    bwa = ["bwa", "mem", "-v", "1", "-K", BATCH]
    ends = [read for read, _ in feeds]
    processes.start(
        "bwa mem",
        [*bwa, "-t", str(resources.vcpus), PREFIX, *(f"/dev/fd/{read}" for read in ends)],
        stdout=to_tee,
        pass_fds=ends,
    )
    copies = [to_flagstat, to_stats]
    processes.start(
        "tee",
        ["tee", *(f"/dev/fd/{copy}" for copy in copies)],
        stdin=sam,
        stdout=to_filter,
        pass_fds=copies,
    )
    for what, read in (("flagstat", flagstat), ("stats", stats)):
        processes.start(
            f"samtools {what}",
            ["samtools", what, "-"],
            stdin=read,
            stdout=files[f"emitted_{what}"].open("wb"),
        )
    names = (Path(uri).name for uri in (item.reference, item.r1, item.r2))
    processes.start(
        "filter",
        sam_filter.command(item.parameters),
        stdin=every,
        stdout=to_sort,
        environ=sam_filter.environment(item.parameters, " ".join(["bwa mem -K", BATCH, *names])),
    )
    memory = resources.sort_memory_mib(reference.index_mib)
    sort = ["samtools", "sort", "--no-PG", "-@", str(resources.sort_threads), "-m", f"{memory}M"]
    # The BAM's index is written beside it as it grows.
    target = f"{files['filtered_bam']}##idx##{files['filtered_bai']}"
    processes.start(
        "samtools sort", [*sort, "-T", "sort", "--write-index", "-o", target, "-"], stdin=kept
    )
    for mate, (_, write) in zip(mates, feeds, strict=True):
        processes.feed(mate.stored.uri, partial(mate.pour, write))
