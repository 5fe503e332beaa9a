"""The reference and the index that bwa has made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from read_mapping.exceptions import InputDataError, MissingInputError
from read_mapping.objects import ObjectStore, Stored

INDEX_SUFFIXES = (".amb", ".ann", ".bwt", ".pac", ".sa")
# Under this name in the job's scratch, whatever the object is called.
PREFIX = "reference.fa"


@dataclass(frozen=True)
class Reference:
    """A FASTA object and its five index objects by suffix."""

    fasta: Stored
    index: dict[str, Stored]

    @property
    def index_mib(self) -> int:
        """Memory that bwa needs for the index, which it holds as it is stored, in MiB."""
        return sum(stored.size for stored in self.index.values()) >> 20


def find_reference(store: ObjectStore, uri: str) -> Reference:
    """Look up a reference with its index.

    Raises MissingInputError with the list of what is not there.
    """
    try:
        fasta, *index = store.find_all([uri, *(f"{uri}{suffix}" for suffix in INDEX_SUFFIXES)])
    except MissingInputError as error:
        raise MissingInputError(f"the reference is not whole: {error}") from error
    return Reference(fasta, dict(zip(INDEX_SUFFIXES, index, strict=True)))


def fetch_index(store: ObjectStore, reference: Reference, folder: Path) -> None:
    """Fetch the index; the FASTA itself is not needed: bwa reads the bases from `.pac`.

    Raises InputDataError when its files are not of one and the same index.
    """
    files = {folder / f"{PREFIX}{suffix}": stored for suffix, stored in reference.index.items()}
    store.fetch(files)
    expected = index_sizes(folder / f"{PREFIX}.ann")
    sizes = {suffix: reference.index[suffix].size for suffix in expected}
    if sizes != expected:
        raise InputDataError(
            f"the index of {reference.fasta.uri} does not belong together: bytes are"
            f" {_listing(sizes)} instead of {_listing(expected)}; remove it and index again"
        )


def index_sizes(annotation: Path) -> dict[str, int]:
    """Give the bytes that the index files have, by the number of bases that `.ann` begins with.

    bwa would map with the files of another reference, and say nothing. Sizes as bwtindex.c, bwt.c
    and bntseq.c of bwa 0.7 write them: two bits a base in `.pac`; both strands in `.bwt`, 16 bases
    in a word of four bytes and 32 bytes of counts every 128; a position of eight bytes every 32
    bases in `.sa`.
    """
    with annotation.open("rb") as file:
        first = file.readline().split()
    if not first or not first[0].isdigit():
        raise InputDataError("the index is no bwa index: its .ann begins with no number of bases")
    bases = int(first[0])
    both = 2 * bases
    return {
        ".pac": bases // 4 + 2,
        ".bwt": 40 + 4 * ((both + 15) // 16) + 32 * ((both + 127) // 128 + 1),
        ".sa": 56 + 8 * ((both + 32) // 32 - 1),
    }


def _listing(sizes: dict[str, int]) -> str:
    return ", ".join(f"{suffix} {size:,}" for suffix, size in sizes.items())
