"""A tiny genome, reads of it, and the mapping commands run as Batch runs them: as processes."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from localaws.process import LocalAws

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "include" / "genomics"
ENV = Path(os.environ.get("GENOMICS_ENV", ROOT / ".venv-genomics"))
BUCKET = "acme-genomes"
REFERENCE = f"s3://{BUCKET}/ref_data/tiny.fa"
SUFFIXES = (".amb", ".ann", ".bwt", ".pac", ".sa")
TABLE = "acme-reads"
OWNER = "acme/genomics_mapping/manual__1"
# The last one is all ends, and is covered; the one before it never is.
CONTIGS = {"tiny~a": 6000, "tiny~b": 3500, "tiny~absent": 900, "tiny~short": 150}
READ = 100


def load(name: str) -> ModuleType:
    """A module of the package, which ships alone and is on nobody's path."""
    if str(PACKAGE) not in sys.path:
        sys.path.append(str(PACKAGE))
    return importlib.import_module(f"read_mapping.{name}")


def path() -> str:
    """PATH with the environment's own tools first."""
    return os.pathsep.join([str(ENV / "bin"), os.environ["PATH"]])


def python() -> str:
    found = ENV / "bin" / "python"
    assert found.exists(), f"{ENV} is not there: run `make setup-genomics`"
    return str(found)


def run_tool(*argv: str | Path, stdin: str = "", cwd: Path | None = None, **environ: str) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, "PATH": path(), **environ},
        input=stdin.encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode()


def genome(seed: int = 1) -> dict[str, str]:
    """The same bases at every call, whichever Python runs it."""
    dice = random.Random(seed)
    return {
        name: "".join(dice.choice("ACGT") for _ in range(size)) for name, size in CONTIGS.items()
    }


def fasta(contigs: dict[str, str]) -> str:
    return "".join(f">{name}\n{bases}\n" for name, bases in contigs.items())


@dataclass
class Reads:
    """Two sides of FASTQ as text, and the gzip files that are made of them."""

    one: list[str] = field(default_factory=list)
    two: list[str] = field(default_factory=list)

    @property
    def gzips(self) -> tuple[bytes, bytes]:
        return zipped(self.one), zipped(self.two)


def zipped(records: list[str], members: int = 1) -> bytes:
    """Compress records, in several gzip members if so told, the same bytes at every call."""
    size = -(-len(records) // members)
    parts = ("".join(records[at : at + size]) for at in range(0, len(records), size))
    return b"".join(gzip.compress(part.encode(), compresslevel=1, mtime=0) for part in parts)


def simulate(pairs: int = 400, seed: int = 7) -> Reads:
    """Draw pairs with every kind of record: cut-offs bite, chimeras, indels, orphans, unmapped."""
    dice, contigs, reads = random.Random(seed), genome(), Reads()
    sources = [name for name in CONTIGS if name != "tiny~absent"]
    weights = [CONTIGS[name] for name in sources]
    for number in range(pairs):
        name = dice.choices(sources, weights)[0]
        size = min(dice.randrange(180, 320), CONTIGS[name])
        start = dice.randrange(CONTIGS[name] - size + 1)
        fragment = contigs[name][start : start + size]
        ends = [fragment[:READ], complement(fragment[-READ:])]
        kind = dice.random()
        if kind < 0.1:
            ends[0] = noise(dice)
        elif kind < 0.15:
            ends = [noise(dice), noise(dice)]
        elif kind < 0.3:
            other = contigs["tiny~b"]
            place = dice.randrange(len(other) - READ)
            cut = dice.randrange(35, READ - 35)
            ends[0] = ends[0][:cut] + other[place + cut : place + READ]
        for side, bases in zip((reads.one, reads.two), ends, strict=True):
            mutated = mutate(bases, dice, dice.choice([0, 0.02, 0.05, 0.08]))
            side.append(
                f"@r{number}/{1 + (side is reads.two)}\n{mutated}\n+\n{'I' * len(mutated)}\n"
            )
    return reads


def noise(dice: random.Random) -> str:
    return "".join(dice.choice("ACGT") for _ in range(READ))


def mutate(bases: str, dice: random.Random, rate: float) -> str:
    """Replace bases at a rate; sometimes take some out or put some in."""
    changed = "".join(dice.choice("ACGT") if dice.random() < rate else base for base in bases)
    place = dice.randrange(30, len(changed) - 30)
    match dice.randrange(8):
        case 0:
            return changed[:place] + changed[place + dice.randrange(1, 6) :]
        case 1:
            return changed[:place] + noise(dice)[: dice.randrange(1, 6)] + changed[place:]
        case _:
            return changed


def complement(bases: str) -> str:
    return bases[::-1].translate(str.maketrans("ACGT", "TGCA"))


@dataclass
class Done:
    """How a command ended."""

    code: int
    stderr: str

    @property
    def last_line(self) -> str:
        return self.stderr.strip().splitlines()[-1]


class Mapping:
    """What tests do with the commands, in short words."""

    def __init__(self, aws: LocalAws, scratch: Path) -> None:
        self.aws = aws
        self.s3 = aws.client("s3")
        self.dynamodb = aws.client("dynamodb")
        self.scratch = scratch

    def put(self, uri: str, content: bytes) -> str:
        bucket, key = uri.removeprefix("s3://").split("/", 1)
        self.s3.put_object(Bucket=bucket, Key=key, Body=content)
        return uri

    def get(self, uri: str) -> bytes:
        bucket, key = uri.removeprefix("s3://").split("/", 1)
        return bytes(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def keys(self, prefix: str) -> list[str]:
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [each["Key"] for each in listed.get("Contents", [])]

    def item(self, sample: str, reads: tuple[bytes, bytes] | None = None, **changes: Any) -> Any:
        """An item whose reads are in the bucket."""
        uris = [f"s3://{BUCKET}/source/{sample}_{side}.fastq.gz" for side in (1, 2)]
        for uri, content in zip(uris, reads or (), strict=False):
            self.put(uri, content)
        output = f"s3://{BUCKET}/results/reads/x86/{sample}"
        item = {
            "sample": sample,
            "r1": uris[0],
            "r2": uris[1],
            "reference": REFERENCE,
            "output": output,
            "done_uri": f"{output}/manifest.json",
            "table": None,
            "owner": None,
            "attempt": "0000.0000",
            "parameters": {},
        }
        return item | changes

    def claim(self, sample: str, **attributes: Any) -> None:
        """Put a claimed sample into the table."""
        item = {"sample": {"S": sample}, "status": {"N": "0"}, "owner": {"S": OWNER}}
        self.dynamodb.put_item(TableName=TABLE, Item=item | attributes)

    def row(self, sample: str) -> dict[str, Any]:
        found = self.dynamodb.get_item(TableName=TABLE, Key={"sample": {"S": sample}})
        return {name: next(iter(value.values())) for name, value in found["Item"].items()}

    def start(
        self, command: str, *lines: Any, uri: str = "", **environ: str
    ) -> subprocess.Popen[str]:
        """Start a command on a manifest of the given lines."""
        if not uri:
            uri = f"s3://{BUCKET}/manifests/{random.randrange(1 << 40):x}.jsonl"
            self.put(uri, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        return subprocess.Popen(
            [python(), "-P", "-m", f"read_mapping.{command.replace('-', '_')}", uri],
            cwd=self.scratch,
            env={
                **os.environ,
                **self.aws.environment(),
                "PATH": path(),
                "PYTHONPATH": str(PACKAGE),
                "JOB_VCPUS": "2",
                "JOB_MEMORY_MIB": "1500",
                **environ,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, *lines: Any, uri: str = "", **environ: str) -> Done:
        process = self.start(command, *lines, uri=uri, **environ)
        _, stderr = process.communicate(timeout=120)
        return Done(process.returncode, stderr)

    def map(self, item: Any, **environ: str) -> Done:
        return self.run("map-sample", item, **environ)


@pytest.fixture(scope="session")
def localaws_of_mapping() -> Iterator[LocalAws]:
    """A localaws with a bucket, a table, and a tiny reference with its index."""
    with LocalAws(seed=False) as aws:
        aws.client("s3").create_bucket(Bucket=BUCKET)
        aws.client("dynamodb").create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "sample", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "sample", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield aws


@pytest.fixture(scope="session")
def tiny_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reference with bwa's index beside it."""
    path = tmp_path_factory.mktemp("reference") / "tiny.fa"
    path.write_text(fasta(genome()))
    run_tool("bwa", "index", path)
    return path


@pytest.fixture
def mapping(localaws_of_mapping: LocalAws, tiny_index: Path, tmp_path: Path) -> Iterator[Mapping]:
    """Short words for a test, which finds the reference in the bucket, and nothing else."""
    mapping = Mapping(localaws_of_mapping, tmp_path)
    for key in mapping.keys(""):
        mapping.s3.delete_object(Bucket=BUCKET, Key=key)
    for suffix in ("", *SUFFIXES):
        mapping.put(REFERENCE + suffix, Path(f"{tiny_index}{suffix}").read_bytes())
    yield mapping
    localaws_of_mapping.clear_faults()
