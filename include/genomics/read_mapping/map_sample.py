"""`map-sample`: one sample from its reads to its coverage, each stage done once.

What is stored is verified before the table says so; `manifest.json`, written last, is the mark that
everything is there. `mapping.json` is the mark of the BAM: an attempt that finds it, made of the
same inputs with the same parameters and tools, measures the coverage and maps nothing.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from read_mapping import coverage, tools
from read_mapping.exceptions import InputDataError, SupersededError, Terminated
from read_mapping.item import Item, attempt_key, parse_item, read_line
from read_mapping.job import Job, main
from read_mapping.mapping import count_reads, map_reads
from read_mapping.objects import ObjectStore, Stored
from read_mapping.processes import Processes
from read_mapping.reference import Reference, fetch_index, find_reference
from read_mapping.resources import Resources, utc_now
from read_mapping.sample_table import BAM_COMPLETE, BAM_STORED, DONE, SampleTable


def run(manifest: str, job: Job) -> str:
    """Map the sample of this job's line; return a sentence on what came of it."""
    store = ObjectStore()
    content = read_line(store, manifest)
    job.subject = str(content.get("sample"))
    table = _table(content)
    table.start(os.environ.get("AWS_BATCH_JOB_ID"))
    try:
        item = parse_item(content)
        for warning in item.parameters.warnings:
            job.say(warning)
        with tempfile.TemporaryDirectory(prefix="map-sample-", dir=Path.cwd()) as folder:
            qc = _Attempt(item, store, table, job, Path(folder)).run()
    except SupersededError:
        raise
    except (Exception, Terminated) as error:
        # Whatever the table answers, what is told is why the sample failed.
        with contextlib.suppress(Exception):
            table.fail(str(error), quickly=isinstance(error, Terminated))
        raise
    return f"{qc['mapped_share']:.1%} of {qc['reads']:,} reads mapped, {qc['kept_share']:.1%} kept"


class _Attempt:
    """One attempt at a sample."""

    def __init__(
        self, item: Item, store: ObjectStore, table: SampleTable, job: Job, folder: Path
    ) -> None:
        self._item = item
        self._store = store
        self._table = table
        self._job = job
        self._folder = folder
        self._resources = Resources.of_job()
        self._tools = tools.versions()

    def run(self) -> dict[str, Any]:
        """Do what is not done yet; return the counts of reads."""
        mates, reference = self._find_inputs()
        inputs = {"r1": mates[0], "r2": mates[1], "reference": reference.fasta}
        made_of: dict[str, Any] = {
            "inputs": {name: _identity(stored) for name, stored in inputs.items()},
            "index": {suffix: stored.etag for suffix, stored in reference.index.items()},
            "parameters": self._item.parameters.of_filter(),
            "tools": self._tools,
        }
        mapped = self._mapped_before(made_of) or self._map(mates, reference, made_of)
        measured, kept, engine = self._measure(mapped["outputs"]["filtered_bam"])
        reads, primary = mapped["emitted"], kept["primary"]
        qc = {
            "reads": reads["primary"],
            "mapped": reads["primary mapped"],
            "mapped_share": round(reads["primary mapped"] / reads["primary"], 6),
            "kept": primary,
            "kept_share": round(primary / reads["primary"], 6),
        }
        outputs = mapped["outputs"] | measured
        self._finish(made_of["inputs"], outputs, {**self._tools, "coverage": engine}, qc)
        return qc

    def _find_inputs(self) -> tuple[tuple[Stored, Stored], Reference]:
        one, two = self._store.find_all([self._item.r1, self._item.r2])
        if (one.etag, one.size) == (two.etag, two.size):
            raise InputDataError(f"{one.uri} and {two.uri} have the same content")
        return (one, two), find_reference(self._store, self._item.reference)

    def _mapped_before(self, made_of: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give the mark of the BAM if one was made in the same way and is still there, whole."""
        mark: dict[str, Any] | None = self._store.read_json(self._mark_uri)
        if mark is None or mark.get("made_of") != made_of:
            return None
        if not all(self._store.has(output) for output in mark["outputs"].values()):
            return None
        self._job.say("mapped by an earlier attempt")
        for stage in ("reference", "mapping", "storing"):
            with self._job.stages.stage(stage, skipped=True):
                pass
        self._table.progress(BAM_STORED)
        return mark

    def _map(
        self, mates: tuple[Stored, Stored], reference: Reference, made_of: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Map, store and mark the BAM."""
        stages = self._job.stages
        with stages.stage("reference"):
            fetch_index(self._store, reference, self._folder)
        with stages.stage("mapping"):
            files = map_reads(
                self._store, self._item, mates, reference, self._resources, self._folder
            )
        emitted = count_reads(files["emitted_flagstat"])
        self._table.progress(BAM_COMPLETE)
        with stages.stage("storing"):
            mark = {"made_of": made_of, "outputs": self._store_all(files), "emitted": emitted}
            self._store.put_json(self._mark_uri, mark)
        self._table.progress(BAM_STORED)
        return mark

    def _measure(self, stored_bam: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int], str]:
        """Measure the coverage and store it; return outputs, counts of the kept, and the engine."""
        sample, parameters = self._item.sample, self._item.parameters
        names = {
            "coverage": "coverage.tsv",
            "coverage_tidy": "coverage.tidy.tsv",
            "kept_flagstat": "kept.flagstat",
            "kept_stats": "kept.stats",
        }
        files = {what: self._folder / f"{sample}.{name}" for what, name in names.items()}
        with self._job.stages.stage("coverage"):
            bam = self._fetch_bam(stored_bam)
            with Processes(self._folder) as processes:
                for what in ("flagstat", "stats"):
                    # Neither path nor threads: samtools writes its command into the statistics.
                    command = ["samtools", what, bam.name]
                    stdout = files[f"kept_{what}"].open("wb")
                    processes.start(f"samtools {what}", command, stdout=stdout)
                found = coverage.measure(bam, parameters, self._folder, self._resources.vcpus)
                processes.wait()
            coverage.write_dense(found, sample, parameters.methods, files["coverage"])
            end = parameters.contig_end_exclusion
            coverage.write_tidy(found, sample, end, files["coverage_tidy"])
            self._table.confirm(BAM_STORED)
            outputs = self._store_all(files)
        return outputs, count_reads(files["kept_flagstat"]), found.engine

    def _fetch_bam(self, output: Mapping[str, Any]) -> Path:
        bam = self._folder / f"{self._item.sample}.filtered.bam"
        if not bam.exists():
            self._store.fetch({bam: self._store.find_all([output["uri"]])[0]})
        return bam

    def _finish(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        versions: Mapping[str, str],
        qc: Mapping[str, Any],
    ) -> None:
        stages = self._job.stages
        manifest = {
            "sample": self._item.sample,
            "created_at": utc_now(),
            "parameters": self._item.parameters.to_dict(),
            "warnings": list(self._item.parameters.warnings),
            "attempt": self._item.attempt,
            "job_id": os.environ.get("AWS_BATCH_JOB_ID"),
            "inputs": inputs,
            "tools": versions,
            "image": os.environ.get("IMAGE"),
            "architecture": platform.machine(),
            "resources": asdict(self._resources),
            "outputs": outputs,
            "stages": stages.to_list(),
            "peak_rss_mib": stages.peak_rss_mib,
            "qc": qc,
        }
        self._store.put_json(self._item.done_uri, manifest)
        self._table.progress(DONE, outputs=self._item.done_uri, finished_at=utc_now())

    def _store_all(self, files: Mapping[str, Path]) -> dict[str, Any]:
        return {
            what: asdict(self._store.store(path, f"{self._item.output}/{path.name}"))
            for what, path in files.items()
        }

    @property
    def _mark_uri(self) -> str:
        return f"{self._item.output}/mapping.json"


def _table(content: Mapping[str, Any]) -> SampleTable:
    """Give the sample's place in the table, also where the rest of the item is wrong."""
    table, sample, owner = (content.get(name) for name in ("table", "sample", "owner"))
    if not all(isinstance(name, str) and name for name in (table, sample, owner)):
        table = None
    return SampleTable(table, str(sample), str(owner), attempt_key(content.get("attempt")))


def _identity(stored: Stored) -> dict[str, Any]:
    return {"uri": stored.uri, "size": stored.size, "etag": stored.etag}


if __name__ == "__main__":
    sys.exit(main("map-sample", run))
