"""Make the demo's samples and reference from real genomes, and put them where the jobs expect them.

    python -m scripts.seed_genomes --make .cache/genomes
    python -m scripts.seed_genomes --upload --bucket my-bucket --table my-deployment-reads

The reference is what the assembly of a metagenome gives: contigs of drafts of three species. The
reads come from *other* strains of them, so that the mapping's cut-offs have something to cut, and
some from a species that the reference lacks. The genomes are real (Debian's ragout-examples and
kleborate-examples); reads are drawn from them here, with a sequencer's errors.

The same everywhere and each time: the draws use only what Python promises to keep
(``random.Random.random``), and SHA-256 of the genomes and of all that is made from them is checked.
The compressed files can differ where another zlib compresses otherwise; what is in them can not.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import random
import subprocess
import sys
import tempfile
import zlib
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import debian_packages
from scripts.seeding import SeedError, put

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "genomes"
TOOLS = ROOT / ".venv-genomics" / "bin"

PACKAGES = ["ragout-examples", "kleborate-examples"]
RAGOUT = "usr/share/doc/ragout/examples"
KLEBORATE = "usr/share/doc/kleborate/examples"


@dataclass(frozen=True)
class Assembly:
    """A genome as a package has it: its place there, and SHA-256 of its text."""

    member: str
    sha256: str


# Drafts, whose contigs make the reference.
DRAFTS = {
    "Helicobacter_pylori": Assembly(
        f"{RAGOUT}/H.Pylori/SJM180_contigs.fasta.gz",
        "4b53d0a6cfd81cb7d8f555db43c88657c67869b5f75898fdf2274e3682619fa2",
    ),
    "Staphylococcus_aureus": Assembly(
        f"{RAGOUT}/S.Aureus/usa300_contigs.fasta.gz",
        "991471582510ae951d3fa27a317267508c8f55ad85323c3b0f120fc8c72678a9",
    ),
    "Escherichia_coli": Assembly(
        f"{RAGOUT}/E.Coli/mg1655_contigs.fasta.gz",
        "c8263c263924bb8f2aee0193f97cb2f5edfccc8f57d66938803b49584e1e0bcc",
    ),
}
# Complete genomes of other strains, from which the reads are drawn.
STRAINS = {
    "Helicobacter_pylori": Assembly(
        f"{RAGOUT}/H.Pylori/references/G27.fasta.gz",
        "1c05a57d60701da8fa8a9e7f2af406d4bbf0c188f8082aa982ec2e4f3494f689",
    ),
    "Staphylococcus_aureus": Assembly(
        f"{RAGOUT}/S.Aureus/references/COL.fasta.gz",
        "bb144a111c1ed02f181b17378a3d98d47085b9a09bc12efaee1807fe0e4f8ca3",
    ),
    "Escherichia_coli": Assembly(
        f"{RAGOUT}/E.Coli/references/DH1.fasta.gz",
        "41c1f6c09f979f5c349b1e869fb105b9363e846315cccfadb5880c200c089798",
    ),
    "Klebsiella_pneumoniae": Assembly(
        f"{KLEBORATE}/data/MGH78578.fna.xz",
        "c8b7d63952e9f0e018a9837599dce2771fab29d7a2afe345310dcc6e103f9cdb",
    ),
}
# The share of each species' reads in a sample, in the order of STRAINS.
MIXTURES = {
    "S1": (0.60, 0.25, 0.07, 0.08),
    "S2": (0.12, 0.64, 0.15, 0.09),
    "S3": (0.05, 0.10, 0.80, 0.05),
    "S4": (0.30, 0.30, 0.30, 0.10),
}
PAIRS = 40_000
# Shorter contigs say little: nothing is measured within 75 bases of their ends.
SHORTEST_CONTIG = 1000
READ_LENGTH = 150
# Of a DNA fragment, which the two reads are the ends of: 200 to 500 bases.
SHORTEST_FRAGMENT, SPREAD = 200, 300
# Substitutions: so many reads have one, and each of them so likely one more; 0.5 % of bases.
WITH_ERROR, ANOTHER_ERROR = 0.45, 0.4

REFERENCE = "derep_all.fa"
INDEX = tuple(f"{REFERENCE}.{ending}" for ending in ("amb", "ann", "bwt", "pac", "sa", "fai"))
# SHA-256 of what is made with PAIRS; of the samples' files, of the text that is compressed in them.
MADE = {
    REFERENCE: "8f194c9884a5425001941cbfa79c1bd915acf52d81c9a9a308c39a5024000015",
    "S1_1.fastq.gz": "a792d59fdcf907bb78910419754d014f430108810daf121a5b3c55491607084c",
    "S1_2.fastq.gz": "0ae508d559c880d9d48fddd6849c90ae2a3eb09232b5053dc373f54d18140ab5",
    "S2_1.fastq.gz": "f1a98d84f8a004140f1d27c95bcb6146bd6222633c36103336995a1f566a84a4",
    "S2_2.fastq.gz": "b6b0e382d8f153dc53a33031ffdcb7f483c54389682532a1eaa26bfc810326d4",
    "S3_1.fastq.gz": "b05692078f8cb39ebfaeebb8d06f8fb875576765041ea6e6b6d6ab8bcbd5fbe5",
    "S3_2.fastq.gz": "ff9e515ddd05a56e5aaa5090fbb2c40404830d7bf8f36885fec6d70d6ac3debd",
    "S4_1.fastq.gz": "da7c20a645f2773f807d4f0c07d5a157cd8a1946c15af51a5b5e8a6385d64e24",
    "S4_2.fastq.gz": "60d6eaa1f649331e3aa6e26415f642c0c0005c764d119da58db44e2a87e04326",
}

_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
_OTHERS = {base: b"ACGT".replace(bytes([base]), b"") for base in b"ACGT"}


def main() -> None:
    """Make, upload or both, as the command line says."""
    arguments = _parse(sys.argv[1:])
    try:
        folder = make(arguments.make or CACHE, arguments.pairs)
        if arguments.upload:
            s3, dynamodb = _clients(arguments.endpoint_url)
            new = upload(s3, dynamodb, arguments.bucket, arguments.table, folder)
            print(f"s3://{arguments.bucket}: reference and {len(MIXTURES)} samples are there")
            print(f"table {arguments.table}: {', '.join(new) or 'no sample'} added")
    except (SeedError, debian_packages.DebianError) as error:
        sys.exit(f"seed_genomes: {error}")


def make(folder: Path, pairs: int = PAIRS, tools: Path | None = TOOLS) -> Path:
    """Make the reference, its index and the samples in a folder, once; return the folder.

    :param pairs: pairs of reads of a sample.
    :param tools: where bwa and samtools are; None makes no index.
    :raises SeedError: when something that was fetched or made is not as this file knows it.
    """
    stamp = folder / ".recipe"
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    recipe = f"{code} {pairs} pairs, {'indexed' if tools else 'not indexed'}\n"
    if stamp.exists() and stamp.read_text() == recipe:
        return folder
    texts = read_assemblies(folder / "assemblies")
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        reference = Path(scratch) / REFERENCE
        reference.write_bytes(
            reference_of({species: texts[draft.member] for species, draft in DRAFTS.items()})
        )
        made = {REFERENCE: hashlib.sha256(reference.read_bytes()).hexdigest()}
        genomes = [Genome.of(texts[strain.member]) for strain in STRAINS.values()]
        # bwa's index keeps one core busy as long as the reads do another.
        with _indexing(reference, tools):
            for sample, shares in MIXTURES.items():
                made |= write_sample(Path(scratch), sample, genomes, shares, pairs)
        if pairs == PAIRS:
            _check(made)
        for path in Path(scratch).iterdir():
            path.replace(folder / path.name)
    stamp.write_text(recipe)
    return folder


def read_assemblies(folder: Path) -> dict[str, bytes]:
    """Read the genomes' texts, by their place in the package; fetch what the folder lacks.

    :raises SeedError: when one is not the text that this file knows.
    :raises DebianError: when the packages cannot be had.
    """
    assemblies = [*DRAFTS.values(), *STRAINS.values()]
    if not all((folder / Path(each.member).name).exists() for each in assemblies):
        _fetch(assemblies, folder)
    texts = {each.member: _read(folder / Path(each.member).name) for each in assemblies}
    for each in assemblies:
        if hashlib.sha256(texts[each.member]).hexdigest() != each.sha256:
            raise SeedError(f"{each.member} of Debian is not the genome that this project knows")
    return texts


def _fetch(assemblies: Sequence[Assembly], folder: Path) -> None:
    print(f"genomes: fetching {' and '.join(PACKAGES)} from Debian (24 MB)", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archives = debian_packages.fetch(PACKAGES, with_needs=False)
        debian_packages.unpack(archives, Path(scratch))
        for each in assemblies:
            (Path(scratch) / each.member).replace(folder / Path(each.member).name)


def _read(path: Path) -> bytes:
    unpack = lzma.decompress if path.suffix == ".xz" else gzip.decompress
    return unpack(path.read_bytes())


def contigs(fasta: bytes) -> Iterator[tuple[str, bytes]]:
    r"""Split a FASTA text into names and sequences.

    >>> list(contigs(b">a strain X\nAC\nGT\n>b\nTT\n"))
    [('a', b'ACGT'), ('b', b'TT')]
    """
    for record in fasta.split(b">")[1:]:
        title, _, lines = record.partition(b"\n")
        yield title.split()[0].decode(), lines.replace(b"\n", b"")


def reference_of(drafts: Mapping[str, bytes]) -> bytes:
    """Put the contigs of the drafts together, named ``species~contig``; short ones are left out."""
    return b"".join(
        b">%s~%s\n%s\n" % (species.encode(), name.encode(), sequence)
        for species, fasta in drafts.items()
        for name, sequence in contigs(fasta)
        if len(sequence) >= SHORTEST_CONTIG
    )


@dataclass(frozen=True)
class Genome:
    """A genome to draw fragments from; a chromosome of double length is hit twice as often."""

    sequences: Sequence[bytes]
    ends: Sequence[int]

    @classmethod
    def of(cls, fasta: bytes) -> Genome:
        """Read it from FASTA."""
        sequences = [sequence for _, sequence in contigs(fasta)]
        return cls(sequences, list(accumulate(len(sequence) for sequence in sequences)))

    def fragment(self, draw: Callable[[], float]) -> bytes:
        """Draw a piece of either strand."""
        sequence = self.sequences[bisect(self.ends, draw() * self.ends[-1])]
        length = SHORTEST_FRAGMENT + int(SPREAD * (draw() + draw()) / 2)
        start = int(draw() * (len(sequence) - length))
        piece = sequence[start : start + length]
        return piece if draw() < 0.5 else reverse_complement(piece)


def reverse_complement(sequence: bytes) -> bytes:
    """Read the other strand.

    >>> reverse_complement(b"AACG")
    b'CGTT'
    """
    return sequence.translate(_COMPLEMENT)[::-1]


def write_sample(
    folder: Path, sample: str, genomes: Sequence[Genome], shares: Sequence[float], pairs: int
) -> dict[str, str]:
    """Write both files of a sample; return SHA-256 of their texts by name."""
    print(f"genomes: drawing {pairs} pairs of {sample}", flush=True)
    names = [f"{sample}_{mate}.fastq.gz" for mate in (1, 2)]
    drawn = draw_pairs(sample, genomes, shares, pairs)
    texts = [b"".join(mate) for mate in zip(*drawn, strict=True)]
    for name, text in zip(names, texts, strict=True):
        # Straight from zlib: Python's own gzip headers differ between its versions.
        packer = zlib.compressobj(level=4, wbits=16 + zlib.MAX_WBITS)
        (folder / name).write_bytes(packer.compress(text) + packer.flush())
    return {name: hashlib.sha256(text).hexdigest() for name, text in zip(names, texts, strict=True)}


def draw_pairs(
    sample: str, genomes: Sequence[Genome], shares: Sequence[float], pairs: int
) -> Iterator[tuple[bytes, bytes]]:
    """Draw pairs of reads of a mixture, as FASTQ; the sample's name is the seed."""
    draw = random.Random(sample).random  # noqa: S311 - reads, not secrets
    qualities = [_quality(draw) for _ in range(64)]
    bounds = list(accumulate(shares))
    for number in range(1, pairs + 1):
        genome = genomes[min(bisect(bounds, draw()), len(genomes) - 1)]
        piece = genome.fragment(draw)
        ends = piece[:READ_LENGTH], reverse_complement(piece[-READ_LENGTH:])
        first, second = (_sequenced(end, qualities, draw) for end in ends)
        name = b"@%s.%d" % (sample.encode(), number)
        yield b"%s/1\n%s\n+\n%s\n" % (name, *first), b"%s/2\n%s\n+\n%s\n" % (name, *second)


def _quality(draw: Callable[[], float]) -> bytes:
    """Draw a read's qualities, Phred + 33: high, and falling towards its end."""
    fall = 14 * draw() / READ_LENGTH
    return bytes(33 + 37 - int(fall * at + 3 * draw()) for at in range(READ_LENGTH))


def _sequenced(
    bases: bytes, qualities: Sequence[bytes], draw: Callable[[], float]
) -> tuple[bytes, bytes]:
    """Read bases as a sequencer does: with substitutions, more towards the end, of low quality."""
    quality = qualities[int(draw() * len(qualities))]
    if draw() >= WITH_ERROR:
        return bases, quality
    read, marks = bytearray(bases), bytearray(quality)
    while True:
        at = int(max(draw(), draw()) * len(bases))
        others = _OTHERS.get(read[at], b"ACG")
        read[at], marks[at] = others[int(draw() * 3)], 33 + 12
        if draw() >= ANOTHER_ERROR:
            return bytes(read), bytes(marks)


@contextmanager
def _indexing(reference: Path, tools: Path | None) -> Iterator[None]:
    """Index the reference beside what the block does."""
    if tools is None:
        yield
        return
    if not (tools / "bwa").exists():
        raise SeedError(f"there is no bwa in {tools}; make setup-genomics puts it there")
    print("genomes: indexing the reference", flush=True)
    commands: list[list[str | Path]] = [
        [tools / "bwa", "index", reference],
        [tools / "samtools", "faidx", reference],
    ]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    try:
        yield
        for process in processes:
            said, _ = process.communicate()
            if process.returncode:
                raise SeedError(f"{process.args!r} failed ({process.returncode}):\n{said[-1000:]}")
    finally:
        for process in processes:
            process.kill()  # no longer there unless the block failed
            process.wait()


def _check(made: Mapping[str, str]) -> None:
    differ = [name for name, digest in made.items() if MADE.get(name) != digest]
    if differ:
        raise SeedError(f"made otherwise than this file knows: {', '.join(differ)}")


def upload(
    s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str, folder: Path
) -> list[str]:
    """Put reference, index and samples into the bucket, and the samples to do into the table.

    What the table knows already is left as it is: a sample that is done stays done.

    :returns: the samples that are new in the table.
    :raises SeedError: when an object or an item cannot be written.
    """
    for name in (REFERENCE, *INDEX):
        put(s3, bucket, f"ref_data/{name}", (folder / name).read_bytes())
    reads = {sample: [f"source/{sample}_{mate}.fastq.gz" for mate in (1, 2)] for sample in MIXTURES}
    for key in chain.from_iterable(reads.values()):
        put(s3, bucket, key, (folder / Path(key).name).read_bytes())
    return [sample for sample in reads if _register(dynamodb, table, sample, *reads[sample])]


def _register(dynamodb: DynamoDBClient, table: str, sample: str, r1: str, r2: str) -> bool:
    """Write a sample to do, unless the table knows it; tell whether it is new."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        dynamodb.put_item(
            TableName=table,
            Item={"sample": {"S": sample}, "r1": {"S": r1}, "r2": {"S": r2}, "status": {"N": "0"}},
            # `sample` is a reserved word.
            ConditionExpression="attribute_not_exists(#sample)",
            ExpressionAttributeNames={"#sample": "sample"},
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    except (BotoCoreError, ClientError) as error:
        raise SeedError(f"{sample} cannot be written to table {table}: {error}") from error
    return True


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make the demo's samples and reference, and upload them."
    )
    parser.add_argument("--make", type=Path, metavar="DIR", help=f"make them here ({CACHE})")
    parser.add_argument(
        "--pairs", type=int, default=PAIRS, help="pairs of reads of a sample (%(default)s)"
    )
    parser.add_argument("--upload", action="store_true", help="put them into --bucket and --table")
    parser.add_argument("--bucket", help="the bucket of the storage stack, without s3://")
    parser.add_argument("--table", help="the table of samples of the genomics stack")
    parser.add_argument(
        "--endpoint-url", help="another AWS than AWS's; AWS_ENDPOINT_URL does the same"
    )
    parsed = parser.parse_args(arguments)
    if not (parsed.make or parsed.upload):
        parser.error("give --make, --upload or both")
    if parsed.upload and not (parsed.bucket and parsed.table):
        parser.error("--upload needs --bucket and --table")
    return parsed


def _clients(endpoint_url: str | None) -> tuple[S3Client, DynamoDBClient]:
    import boto3

    s3: S3Client = boto3.client("s3", endpoint_url=endpoint_url)
    dynamodb: DynamoDBClient = boto3.client("dynamodb", endpoint_url=endpoint_url)
    return s3, dynamodb


if __name__ == "__main__":
    main()
