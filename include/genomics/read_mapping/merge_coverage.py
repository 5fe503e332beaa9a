"""`merge-coverage`: the coverage of many samples as one table, and one report on their quality.

Samples pass through one after the other, and rows of the matrix as well: memory grows with neither.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from read_mapping.coverage import TIDY
from read_mapping.exceptions import InputDataError, MissingInputError
from read_mapping.item import SAMPLE, read_line
from read_mapping.job import Job, main
from read_mapping.objects import URI, ObjectStore
from read_mapping.parameters import METHODS
from read_mapping.processes import Processes
from read_mapping.resources import utc_now

# Files that are open at once: a process may have 1024.
MOST_OPEN = 200
SCHEMA = pa.schema(
    {
        "sample": pa.string(),
        "contig": pa.string(),
        "length": pa.int64(),
        "measurable": pa.bool_(),
        "mean": pa.float32(),
        "trimmed_mean": pa.float32(),
        "covered_fraction": pa.float32(),
        "count": pa.int64(),
    }
)
QUALITY = ("emitted_flagstat", "emitted_stats", "kept_flagstat", "kept_stats")


@dataclass(frozen=True)
class Request:
    """Which samples to merge, where to, and which have failed and why."""

    samples: dict[str, str]
    failed: dict[str, str]
    output: str
    done_uri: str
    attempt: str | None
    methods: tuple[str, ...]


def run(manifest: str, job: Job) -> str:
    """Merge the samples of a request; return a sentence on what came of it."""
    store = ObjectStore()
    request = parse_request(read_line(store, manifest))
    done = _manifests(store, request)
    with tempfile.TemporaryDirectory(prefix="merge-coverage-", dir=Path.cwd()) as name:
        folder = Path(name)
        with job.stages.stage("matrix"):
            contigs, files = _merge(store, request, done, folder)
        with job.stages.stage("report"):
            files["multiqc_report"] = _report(store, done, folder)
        with job.stages.stage("storing"):
            outputs = {
                what: asdict(store.store(path, f"{request.output}/{path.name}"))
                for what, path in files.items()
            }
    warnings = _warnings(done)
    for warning in warnings:
        job.say(warning)
    content = {
        "samples": list(done),
        "failed": request.failed,
        "partial": bool(request.failed),
        "contigs": contigs,
        "methods": list(request.methods),
        "warnings": warnings,
        "created_at": utc_now(),
        "attempt": request.attempt,
        "job_id": os.environ.get("AWS_BATCH_JOB_ID"),
        "image": os.environ.get("IMAGE"),
        "outputs": outputs,
        "stages": job.stages.to_list(),
        "peak_rss_mib": job.stages.peak_rss_mib,
    }
    store.put_json(request.done_uri, content)
    return f"{len(done):,} samples x {contigs:,} contigs"


def parse_request(content: Mapping[str, Any]) -> Request:
    """Check a request.

    Raises InputDataError with everything that is wrong with it.
    """
    samples = content.get("samples") or []
    problems = []
    if not samples:
        problems.append("samples: there is none to merge")
    for each in samples:
        if not SAMPLE.fullmatch(str(each.get("sample"))):
            problems.append(f"samples: {each.get('sample')!r} is no name of a sample")
        if not URI.fullmatch(str(each.get("done_uri"))):
            problems.append(f"samples: {each.get('done_uri')!r} is no s3:// URI")
    if len({each.get("sample") for each in samples}) < len(samples):
        problems.append("samples: one is named twice")
    for name in ("output", "done_uri"):
        if not URI.fullmatch(str(content.get(name))):
            problems.append(f"{name}: {content.get(name)!r} is no s3:// URI")
    methods = content.get("methods") or []
    unknown = [str(method) for method in methods if method not in METHODS]
    if unknown or not methods:
        problems.append(f"methods: some of {', '.join(METHODS)} are needed, not {unknown}")
    if problems:
        raise InputDataError("; ".join(problems))
    return Request(
        samples={each["sample"]: each["done_uri"] for each in samples},
        failed=dict(content.get("failed") or {}),
        output=content["output"],
        done_uri=content["done_uri"],
        attempt=content.get("attempt"),
        methods=tuple(dict.fromkeys(methods)),
    )


def _manifests(store: ObjectStore, request: Request) -> dict[str, Any]:
    """Read the samples' manifests, sorted by sample.

    Raises MissingInputError with the list of those that have none.
    """
    found = {sample: store.read_json(uri) for sample, uri in sorted(request.samples.items())}
    missing = [sample for sample, manifest in found.items() if manifest is None]
    if missing:
        raise MissingInputError(f"without a manifest: {', '.join(missing)}")
    return found


def _warnings(done: Mapping[str, Any]) -> list[str]:
    """Say so if figures were made in different ways: they stand in one table now."""
    ways: dict[str, list[str]] = {}
    for sample, manifest in done.items():
        parameters = {**manifest["parameters"], "methods": None}
        reference = manifest["inputs"]["reference"]["etag"]
        ways.setdefault(f"{parameters} {reference}", []).append(sample)
    if len(ways) == 1:
        return []
    groups = " / ".join(", ".join(samples) for samples in ways.values())
    return [f"mapped with different parameters or to different references: {groups}"]


def _merge(
    store: ObjectStore, request: Request, done: Mapping[str, Any], folder: Path
) -> tuple[int, dict[str, Path]]:
    """Write the long table and the matrices; return the number of contigs, and the files."""
    parquet = folder / "coverage.parquet"
    parts: dict[str, list[Path]] = {name: [] for name in request.methods}
    samples = list(done)
    contigs = 0
    with pa.parquet.ParquetWriter(parquet, SCHEMA) as writer:
        for first in range(0, len(samples), MOST_OPEN):
            tables = _fetch_tables(store, done, samples[first : first + MOST_OPEN], folder)
            for table in tables.values():
                writer.write_table(_read_table(table))
            targets = {name: folder / f"{name}.{first}.part" for name in request.methods}
            contigs = _write_columns(tables, targets)
            for name, target in targets.items():
                parts[name].append(target)
            for table in tables.values():
                table.unlink()
    matrices = {name: folder / f"coverage.{name}.tsv" for name in request.methods}
    for name, matrix in matrices.items():
        _paste(parts[name], matrix)
    return contigs, {
        "coverage_parquet": parquet,
        **{f"coverage_{name}": matrix for name, matrix in matrices.items()},
    }


def _fetch_tables(
    store: ObjectStore, done: Mapping[str, Any], samples: Sequence[str], folder: Path
) -> dict[str, Path]:
    tables = {sample: folder / f"{sample}.coverage.tidy.tsv" for sample in samples}
    uris = [done[sample]["outputs"]["coverage_tidy"]["uri"] for sample in samples]
    store.fetch(dict(zip(tables.values(), store.find_all(uris), strict=True)))
    return tables


def _read_table(path: Path) -> pa.Table:
    """Read a sample's tidy table, sorted by contig; what is empty is null."""
    table = pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(delimiter="\t"),
        convert_options=pa.csv.ConvertOptions(column_types=SCHEMA, null_values=[""]),
    )
    return table.sort_by("contig")


def _write_columns(tables: Mapping[str, Path], targets: Mapping[str, Path]) -> int:
    """Write a row a contig and a column a sample, for each method; return the number of contigs.

    Raises InputDataError where a sample has other contigs than the first one.
    """
    places = [TIDY.index(name) for name in targets]
    contig = slice(TIDY.index("contig"), TIDY.index("length") + 1)
    with contextlib.ExitStack() as files:
        sources = [_rows(files.enter_context(path.open())) for path in tables.values()]
        sinks = [files.enter_context(path.open("w")) for path in targets.values()]
        count = 0
        for count, rows in enumerate(zip_longest(*sources, fillvalue=[])):
            for sample, row in zip(tables, rows, strict=True):
                if row[contig] != rows[0][contig]:
                    raise InputDataError(
                        f"{sample} and {next(iter(tables))} have other contigs: they were mapped to"
                        " different references"
                    )
            heads = list(tables) if count == 0 else None
            for place, sink in zip(places, sinks, strict=True):
                cells = heads or [row[place] for row in rows]
                sink.write("\t".join([rows[0][contig][0], *cells]) + "\n")
        return count


def _paste(parts: Sequence[Path], target: Path) -> None:
    """Put the columns of parts, which all have the same contigs, beside each other."""
    with contextlib.ExitStack() as files, target.open("w") as sink:
        sources = [_rows(files.enter_context(part.open())) for part in parts]
        for rows in zip_longest(*sources, fillvalue=[""]):
            if any(row[0] != rows[0][0] for row in rows):
                raise InputDataError("the samples were mapped to different references")
            sink.write("\t".join([rows[0][0], *(cell for row in rows for cell in row[1:])]) + "\n")
    for part in parts:
        part.unlink()


def _rows(lines: Iterable[str]) -> Iterator[list[str]]:
    return (line.rstrip("\n").split("\t") for line in lines)


def _report(store: ObjectStore, done: Mapping[str, Any], folder: Path) -> Path:
    """Let MultiQC make one page of the samples' statistics."""
    statistics = folder / "statistics"
    statistics.mkdir()
    uris = [manifest["outputs"][what]["uri"] for manifest in done.values() for what in QUALITY]
    store.fetch({statistics / Path(each.uri).name: each for each in store.find_all(uris)})
    command = [sys.executable, "-m", "multiqc", "--module", "samtools", "--no-data-dir"]
    # It would ask its makers for their newest version, and its page would offer to send data away.
    command += ["--no-version-check", "--no-ai", "--no-megaqc-upload", "--no-ansi"]
    with Processes(folder) as processes:
        processes.start(
            "multiqc",
            [*command, "--filename", "multiqc_report.html", statistics.name],
            # Its fonts' cache and its configuration are looked for at home, which may be nowhere.
            environ={"HOME": str(folder), "MPLCONFIGDIR": str(folder)},
        )
        processes.wait()
    return folder / "multiqc_report.html"


if __name__ == "__main__":
    sys.exit(main("merge-coverage", run))
