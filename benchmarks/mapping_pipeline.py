"""The mapping job's one stream beside the published form with its files: CPU, wall, peak disk.

The second form gives what the third gives. All have the same filter (`coverm filter` may be absent)
and `bwa mem -K`, without which the records would depend on the threads. The filtered records and
the coverage are compared; the figures are medians of alternating runs, as ratios to the first form.
Input: a sample of the demo's (.cache/genomes), else one that wgsim draws.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "include" / "genomics"
DEMO = ROOT / ".cache" / "genomes"
TOOLS = ROOT / ".venv-genomics" / "bin"
THREADS = len(os.sched_getaffinity(0))
MEMORY_MIB = 2000
BATCH = "100000000"
# Of the simulated input: contigs of a size, and pairs of reads.
CONTIG, CONTIGS, PAIRS = 400_000, 10, 40_000
FORMS = ("published", "+ counts", "streamed")
FORMS_IN_WORDS = """\
published   bwa mem > SAM; samtools sort > BAM; remove the SAM; filter BAM > BAM
+ counts    the same, and samtools flagstat and stats of the unfiltered BAM
streamed    include/genomics: bwa mem | tee flagstat, stats | filter | samtools sort"""
MEANING = """\
The job's one stream gives what the second form gives, the same records and the same coverage in all
runs, without the files between: so it needs a fraction of the disk, which is what a Batch job's
instance has to be given. No stock operator has a part in it.
"""

sys.path.insert(0, str(PACKAGE))


@dataclass(frozen=True)
class Input:
    """A reference with bwa's index beside it, and both sides of a sample's reads."""

    reference: Path
    reads: tuple[Path, Path]


@dataclass(frozen=True)
class Figures:
    """What one run took: CPU and wall in seconds, disk in MB (inputs not counted)."""

    cpu: float
    wall: float
    disk: float


class Files:
    """Local files in place of S3: the published form reads the same ones."""

    def read(self, stored: Any) -> Iterator[bytes]:
        """Yield a file in pieces as the job gets them."""
        with open(stored.uri, "rb") as file:
            while chunk := file.read(256 * 1024):
                yield chunk


def demo_input() -> Input | None:
    """Take a sample of the demo's, if it was made."""
    found = Input(DEMO / "derep_all.fa", (DEMO / "S1_1.fastq.gz", DEMO / "S1_2.fastq.gz"))
    needed = [*found.reads, found.reference, found.reference.with_name("derep_all.fa.bwt")]
    return found if all(path.exists() for path in needed) else None


def simulated_input(folder: Path) -> Input:
    """Draw a genome and reads of it, some of which the cut-offs drop."""
    dice = random.Random(1)  # noqa: S311 - repeatable on purpose
    reference = folder / "simulated.fa"
    with reference.open("w") as file:
        for number in range(CONTIGS):
            file.write(f">simulated~{number}\n{''.join(dice.choices('ACGT', k=CONTIG))}\n")
    reads = (folder / "1.fastq", folder / "2.fastq")
    draw = ["wgsim", "-S", "1", "-N", str(PAIRS), "-1", "150", "-2", "150", "-r", "0.04"]
    for command in (
        ["bwa", "index", str(reference)],
        [*draw, "-R", "0.2", str(reference), *map(str, reads)],
        ["gzip", "-1", *map(str, reads)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return Input(reference, (folder / "1.fastq.gz", folder / "2.fastq.gz"))


def commands(form: str, given: Input, folder: Path) -> list[str]:
    """Give a form's commands, which leave `f.bam` in the folder."""
    if form == "streamed":
        words = [sys.executable, __file__, "--stream", folder, given.reference, *given.reads]
        return [shlex.join(map(str, words))]
    from read_mapping import sam_filter

    names = shlex.join(map(str, (given.reference, *given.reads)))
    keep = shlex.join(sam_filter.command(_parameters()))
    statistics_of_all = ["samtools flagstat s.bam > s.flagstat", "samtools stats s.bam > s.stats"]
    return [
        f"bwa mem -v 1 -t {THREADS} -K {BATCH} {names} > s.sam 2> bwa.stderr",
        f"samtools sort -@ {THREADS} s.sam -o s.bam 2> sort.stderr",
        "rm s.sam",
        *(statistics_of_all if form == "+ counts" else []),
        f"samtools view -h s.bam | {keep} | samtools view -@ {THREADS} -b -o f.bam -",
        "rm s.bam",
    ]


def stream(folder: Path, given: Input) -> None:
    """Run the mapping job's own stage on local files."""
    from read_mapping.item import Item
    from read_mapping.mapping import map_reads
    from read_mapping.objects import Stored
    from read_mapping.reference import INDEX_SUFFIXES, PREFIX, Reference
    from read_mapping.resources import Resources

    def stored(path: Path) -> Stored:
        return Stored(str(path), path.stat().st_size, "", None)

    index = {suffix: Path(f"{given.reference}{suffix}") for suffix in INDEX_SUFFIXES}
    for suffix, path in index.items():
        (folder / f"{PREFIX}{suffix}").symlink_to(path)
    uris = {"r1": "r1", "r2": "r2", "reference": str(given.reference), "output": "", "done_uri": ""}
    item = Item(sample="S1", **uris, table=None, owner=None, attempt="", parameters=_parameters())
    reference = Reference(
        stored(given.reference), {suffix: stored(path) for suffix, path in index.items()}
    )
    one, two = given.reads
    files: Any = Files()
    mates = (stored(one), stored(two))
    resources = Resources(THREADS, MEMORY_MIB)
    made = map_reads(files, item, mates, reference, resources, folder)
    made["filtered_bam"].rename(folder / "f.bam")


def run(form: str, given: Input, folder: Path) -> Figures:
    """Run a form in an empty folder and measure it."""
    peak = [0]
    ended = threading.Event()
    watcher = threading.Thread(target=_watch_disk, args=(folder, peak, ended))
    watcher.start()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    for command in commands(form, given, folder):
        subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=folder, check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    ended.set()
    watcher.join()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figures(cpu, wall, peak[0] / 1e6)


def outcome(bam: Path) -> tuple[str, list[tuple[str, list[str]]]]:
    """Give the records' digest and the coverage of a filtered BAM."""
    from read_mapping import coverage

    records = subprocess.run(["samtools", "view", bam], check=True, capture_output=True).stdout
    found = coverage.by_depth(bam, _parameters())
    return hashlib.sha256(records).hexdigest(), sorted(found.figures.items())


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description="The mapping job beside the published form.")
    parser.add_argument("--runs", type=int, default=3, help="runs of each form (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one run of each form")
    parser.add_argument("--stream", nargs=4, type=Path, metavar=("DIR", "FASTA", "R1", "R2"))
    arguments = parser.parse_args()
    if arguments.stream:
        folder, reference, one, two = arguments.stream
        stream(folder, Input(reference, (one, two)))
        return
    if arguments.quick:
        arguments.runs = 1
    os.environ["PATH"] = f"{TOOLS}:{os.environ['PATH']}"
    figures: dict[str, list[Figures]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory(prefix="bench-input-") as inputs:
        given = demo_input() or simulated_input(Path(inputs))
        expected = None
        for number in range(arguments.runs):
            # Each form comes first, in the middle and last.
            for form in (*FORMS[number % 3 :], *FORMS[: number % 3]):
                with tempfile.TemporaryDirectory(prefix="bench-run-") as name:
                    figures[form].append(run(form, given, Path(name)))
                    found = outcome(Path(name) / "f.bam")
                expected = expected or found
                if found != expected:
                    raise SystemExit(f"{form} gives other records or another coverage")
    _tell(f"{given.reads[0].name}, {THREADS} threads, {arguments.runs} runs", figures)


def _tell(input_and_runs: str, figures: dict[str, list[Figures]]) -> None:
    # Here, as the stream's child is this file and finds no package.
    from benchmarks.report import Report, tell

    medians = {form: _median(runs) for form, runs in figures.items()}
    tell(
        Report(
            title="The mapping pipeline",
            setting=f"```\n{FORMS_IN_WORDS}\n```\n\n"
            f"{input_and_runs} of each form by turns: medians, and ratios to the first form.",
            columns=["form", "CPU s", "ratio", "wall s", "ratio", "disk MB", "ratio"],
            rows=[_row(form, each, medians[FORMS[0]]) for form, each in medians.items()],
            targets=[],
            meaning=MEANING,
        )
    )


def _row(form: str, figures: Figures, base: Figures) -> list[str]:
    pairs = (
        (figures.cpu, base.cpu),
        (figures.wall, base.wall),
        (figures.disk, base.disk),
    )
    cells = [cell for value, first in pairs for cell in (f"{value:.1f}", f"{value / first:.2f}")]
    return [form, *cells]


def _parameters() -> Any:
    from read_mapping.parameters import parse_parameters

    parameters, _ = parse_parameters({})
    return parameters


def _median(runs: list[Figures]) -> Figures:
    columns = zip(*((each.cpu, each.wall, each.disk) for each in runs), strict=True)
    return Figures(*map(statistics.median, columns))


def _watch_disk(folder: Path, peak: list[int], ended: threading.Event) -> None:
    while not ended.wait(0.05):
        peak[0] = max(peak[0], sum(_blocks(path) for path in folder.rglob("*")))


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
