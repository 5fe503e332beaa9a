"""Reads on their way from S3 into a pipe: inflated, counted, and compared with their mates."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from read_mapping.exceptions import InputDataError, MappingError
from read_mapping.gunzip import inflate
from read_mapping.objects import ObjectStore, Stored

# Text that is looked at before anything starts: some two hundred reads of 150 bases.
HEAD_BYTES = 64 * 1024
# As bwa takes it off before it compares names.
READ_NUMBER = re.compile(rb"/\d$")


class Fastq:
    """One side of a sample's reads, a gzip FASTQ object with four lines a read.

    bwa gets it inflated: it would have to be inflated here as well to count the reads, because bwa
    mem ends in peace when one side is shorter than the other.
    """

    def __init__(self, store: ObjectStore, stored: Stored) -> None:
        self.stored = stored
        self._blocks = inflate(store.read(stored), stored.uri)
        self._head = b""
        while len(self._head) < HEAD_BYTES:
            block = next(self._blocks, None)
            if block is None:
                break
            self._head += block
        self._lines = 0
        self.delivered = True
        if not self._head.startswith(b"@"):
            holds = f"starts with {self._head[:4]!r}" if self._head else "holds no reads"
            raise InputDataError(f"{stored.uri} is no FASTQ: it {holds}")

    def first_reads(self) -> list[tuple[bytes, bytes]]:
        """Give name and sequence of the first reads."""
        lines = self._head[:HEAD_BYTES].split(b"\n")[:-1]
        firsts = (next(iter(line.split(None, 1)), b"") for line in lines[0::4])
        names = [READ_NUMBER.sub(b"", first.removeprefix(b"@")) for first in firsts]
        return list(zip(names, lines[1::4], strict=False))

    @property
    def reads(self) -> int:
        """The number of reads, once all of them were poured."""
        return self._lines // 4

    def pour(self, pipe: int) -> None:
        """Write all reads into a pipe and close it; count on where its reader is gone.

        bwa leaves in the middle of one side when the other one ends, which only the counts tell.

        Raises InputDataError where the file is cut.
        """
        with open(pipe, "wb", buffering=0) as sink:
            last = b"\n"
            for block in self._all():
                self._lines += block.count(b"\n")
                last = block[-1:]
                try:
                    if self.delivered:
                        write_all(sink.fileno(), block)
                except BrokenPipeError:
                    self.delivered = False
        # The last line may lack its end.
        self._lines += last != b"\n"
        if self._lines % 4:
            raise InputDataError(
                f"{self.stored.uri} is cut: its {self._lines:,} lines are no whole number of reads"
            )

    def _all(self) -> Iterator[bytes]:
        yield self._head
        self._head = b""
        yield from self._blocks


def write_all(pipe: int, data: bytes) -> None:
    """Write a block into a pipe, which takes it in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def check_mates(one: Fastq, two: Fastq) -> None:
    """Raise InputDataError unless the first reads of both sides are mates of each other."""
    firsts, seconds = one.first_reads(), two.first_reads()
    both = list(zip(firsts, seconds, strict=False))
    for number, ((name, _), (mate, _)) in enumerate(both, 1):
        if name != mate:
            raise InputDataError(
                f"{one.stored.uri} and {two.stored.uri} are no mates: their read {number} is"
                f" {name.decode(errors='replace')!r} and {mate.decode(errors='replace')!r}"
            )
    if both and all(read == mate for (_, read), (_, mate) in both):
        raise InputDataError(f"{one.stored.uri} and {two.stored.uri} hold the same reads")


def check_counts(one: Fastq, two: Fastq) -> None:
    """Raise InputDataError unless both sides had the same number of reads.

    Raises MappingError where the mapper did not take them all.
    """
    if one.reads != two.reads:
        raise InputDataError(
            f"{one.stored.uri} holds {one.reads:,} reads and {two.stored.uri} {two.reads:,}:"
            " one of them is cut"
        )
    for side in (one, two):
        if not side.delivered:
            raise MappingError(f"bwa mem did not read all of {side.stored.uri}")
