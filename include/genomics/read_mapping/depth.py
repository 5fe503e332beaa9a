"""Depth of contigs, straight from a BAM sorted by position, and what CoverM derives from it.

Depth counts the M, = and X bases of every mapped record that is not secondary: deletions and skips
leave a gap, supplementary records and overlapping mates count, whatever their quality. The BAM is
read in blocks and taken apart column by column, many times as fast as record by record.

The format: https://samtools.github.io/hts-specs/SAMv1.pdf, section 4.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from read_mapping.exceptions import InputDataError
from read_mapping.gunzip import inflate

# Two or three of BGZF's blocks: inflating copies what is left of a chunk after each of them.
CHUNK = 128 * 1024
# Of records that are worked on at once: large enough for numpy, small beside a job's memory.
BLOCK = 4 << 20
UNMAPPED, SECONDARY, SUPPLEMENTARY = 0x4, 0x100, 0x800
# CIGAR operations by number: MIDNSHP=X.
COVERS = np.array([1, 0, 0, 0, 0, 0, 0, 1, 1], dtype=bool)
ADVANCES = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], dtype=bool)

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Contig:
    """A contig's depth.

    `covered` counts its bases with a depth above 0, `reads` its primary records; `inner` counts, by
    depth, the bases between the excluded ends.
    """

    name: str
    length: int
    covered: int
    reads: int
    inner: Array

    def mean(self) -> np.float32:
        """Mean depth between the ends; 0 for a contig that is all ends."""
        return _divide(_total(self.inner), int(self.inner.sum()))

    def covered_fraction(self) -> np.float32:
        """Share of the bases that are covered, the ends included."""
        return _divide(self.covered, self.length)

    def trimmed_mean(self, trim_min: str, trim_max: str) -> np.float32:
        """Mean of the inner depths between two shares of the positions, sorted by depth.

        CoverM takes the ranks from a to b + 1, or as many as a to b where all of them have one
        depth, and divides by b - a. That is one or two too few, and kept: with the right number
        the figures would not be CoverM's.
        """
        length = np.float32(self.inner.sum())
        first = int(np.floor(np.float32(trim_min) * length))
        last = int(np.ceil(np.float32(trim_max) * length))
        ranks = np.cumsum(self.inner)
        lowest = int(np.searchsorted(ranks, first))
        if ranks[lowest] > last:
            return _divide((last - first + 1) * lowest, last - first)
        before = max(first, 1) - 1
        taken = np.diff(np.clip(ranks, before, last + 1), prepend=before)
        return _divide(_total(taken), last - first)


def contigs(bam: Path, end_exclusion: int) -> Iterator[Contig]:
    """Yield every contig of a BAM sorted by position, in the header's order.

    Raises InputDataError where it is not sorted, or cut.
    """
    blocks = inflate(_chunks(bam), bam.name)
    header, rest = _read_header(blocks)
    records = _by_contig(_blocks_of_records(blocks, rest))
    number, part = next(records, (len(header), None))
    for current, (name, length) in enumerate(header):
        depth = _Depth(name, length)
        while number == current and part is not None:
            depth.add(part)
            number, part = next(records, (len(header), None))
        if number <= current:
            raise InputDataError(f"{bam.name} is not sorted by position")
        yield depth.contig(end_exclusion)


@dataclass(frozen=True)
class _Records:
    """Columns of some records: of each its contig and flags, of each covered piece its borders."""

    contig: Array
    flags: Array
    starts: Array
    ends: Array
    pieces: Array

    def cut(self, first: int, last: int) -> _Records:
        """Take the records from first to last, last not included."""
        pieces = np.concatenate(([0], np.cumsum(self.pieces)))
        some = slice(int(pieces[first]), int(pieces[last]))
        rows = slice(first, last)
        return _Records(
            self.contig[rows],
            self.flags[rows],
            self.starts[some],
            self.ends[some],
            self.pieces[rows],
        )


class _Depth:
    """The depth of one contig while its records come."""

    def __init__(self, name: str, length: int) -> None:
        self._name = name
        self._length = length
        self._steps: Array | None = None
        self._reads = 0

    def add(self, records: _Records) -> None:
        """Take in records of this contig."""
        if self._steps is None:
            self._steps = np.zeros(self._length + 1, dtype=np.int32)
        for borders, step in ((records.starts, 1), (records.ends, -1)):
            if len(borders):
                low = int(borders.min())
                counts = np.bincount(borders - low).astype(np.int32)
                self._steps[low : low + len(counts)] += step * counts
        self._reads += int(np.count_nonzero(records.flags & SUPPLEMENTARY == 0))

    def contig(self, end_exclusion: int) -> Contig:
        """Give the depth now that all records are in."""
        size = max(self._length - 2 * end_exclusion, 0)
        if self._steps is None:
            return Contig(self._name, self._length, 0, 0, np.array([size]))
        depth = np.cumsum(self._steps[:-1], dtype=np.int32)
        inner = np.bincount(depth[end_exclusion : end_exclusion + size], minlength=1)
        covered = int(np.count_nonzero(depth))
        return Contig(self._name, self._length, covered, self._reads, inner)


def _chunks(bam: Path) -> Iterator[bytes]:
    with bam.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _read_header(blocks: Iterator[bytes]) -> tuple[list[tuple[str, int]], bytes]:
    """Read names and lengths of the contigs; return them with what was read beyond."""
    data = bytearray()

    def number_at(position: int) -> int:
        while len(data) < position + 4:
            data.extend(next(blocks))
        return int(struct.unpack_from("<i", data, position)[0])

    header = []
    position = 8 + number_at(4)
    count = number_at(position)
    position += 4
    for _ in range(count):
        name = position + 4
        position = name + number_at(position)
        length = number_at(position)
        header.append((data[name : position - 1].decode(), length))
        position += 4
    return header, bytes(data[position:])


def _blocks_of_records(blocks: Iterator[bytes], rest: bytes) -> Iterator[_Records]:
    """Yield the records block by block."""
    for block in _joined(blocks):
        data = rest + block
        starts, position = [], 0
        while position + 4 <= len(data):
            end = position + 4 + struct.unpack_from("<i", data, position)[0]
            if end > len(data):
                break
            starts.append(position)
            position = end
        rest = data[position:]
        if starts:
            yield _columns(np.frombuffer(data, dtype=np.uint8), np.array(starts))
    if rest:
        raise InputDataError("the BAM ends in the middle of a record")


def _joined(blocks: Iterator[bytes]) -> Iterator[bytes]:
    parts, size = [], 0
    for block in blocks:
        parts.append(block)
        size += len(block)
        if size >= BLOCK:
            yield b"".join(parts)
            parts, size = [], 0
    # Also when there is nothing left: what the header's reading took may hold records.
    yield b"".join(parts)


def _columns(data: Array, records: Array) -> _Records:
    """Take the records that begin at the given places apart."""

    def field(name_offset: int, kind: str) -> Array:
        return _gather(data, records + name_offset, kind)

    counted = field(18, "<u2") & (UNMAPPED | SECONDARY) == 0
    records = records[counted]
    operations = field(16, "<u2").astype(np.int64)
    first = np.cumsum(operations) - operations
    # Which of its record's operations each one is, and then where it stands.
    ordinal = np.arange(int(operations.sum())) - np.repeat(first, operations)
    cigars = records + 36 + data[records + 12]
    cigar = _gather(data, np.repeat(cigars, operations) + 4 * ordinal, "<u4")
    lengths, kinds = (cigar >> 4).astype(np.int64), cigar & 15
    advance = np.where(ADVANCES[kinds], lengths, 0)
    passed = np.cumsum(advance) - advance
    starts = passed + np.repeat(field(8, "<i4") - passed[first], operations)
    covers = COVERS[kinds]
    pieces = np.add.reduceat(covers, first, dtype=np.int64) if len(records) else first
    return _Records(
        contig=field(4, "<i4"),
        flags=field(18, "<u2"),
        starts=starts[covers],
        ends=(starts + lengths)[covers],
        pieces=pieces,
    )


def _gather(data: Array, places: Array, kind: str) -> Array:
    """Read a number at each of the places, which lie anyhow."""
    size = np.dtype(kind).itemsize
    found: Array = data[places[:, None] + np.arange(size)].view(kind)
    return found[:, 0]


def _by_contig(blocks: Iterator[_Records]) -> Iterator[tuple[int, _Records]]:
    """Cut blocks where the contig changes."""
    for records in blocks:
        changes = np.flatnonzero(np.diff(records.contig)) + 1
        borders = [0, *changes.tolist(), len(records.contig)]
        for first, last in pairwise(borders):
            if last > first:
                yield int(records.contig[first]), records.cut(first, last)


def _total(counts: Array) -> int:
    return int(counts @ np.arange(len(counts)))


def _divide(total: int, count: int) -> np.float32:
    # Both are rounded before they are divided, as CoverM does it.
    return np.float32(total) / np.float32(count) if count else np.float32(0)
