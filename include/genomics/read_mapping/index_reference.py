"""`index-reference`: the index of a reference for bwa, and of its contigs for samtools.

Run once a reference. What is there already is left alone, and must be what was made here.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from read_mapping.exceptions import InputDataError
from read_mapping.job import Job, main
from read_mapping.objects import ObjectStore
from read_mapping.processes import Processes
from read_mapping.reference import INDEX_SUFFIXES, PREFIX

SUFFIXES = (*INDEX_SUFFIXES, ".fai")


def run(uri: str, job: Job) -> str:
    """Make the index files of a FASTA object beside it; return a sentence on what was missing."""
    store = ObjectStore()
    [fasta] = store.find_all([uri])
    there = {suffix: store.find(f"{uri}{suffix}") for suffix in SUFFIXES}
    missing = [suffix for suffix, stored in there.items() if stored is None]
    if not missing:
        return "the index is whole"
    with tempfile.TemporaryDirectory(prefix="index-reference-", dir=Path.cwd()) as name:
        folder = Path(name)
        with job.stages.stage("reference"):
            store.fetch({folder / PREFIX: fasta})
        with job.stages.stage("index"), Processes(folder) as processes:
            processes.start("bwa index", ["bwa", "index", PREFIX])
            processes.start("samtools faidx", ["samtools", "faidx", PREFIX])
            processes.wait()
        made = {suffix: folder / f"{PREFIX}{suffix}" for suffix in SUFFIXES}
        others = [
            f"{uri}{suffix}"
            for suffix, stored in there.items()
            if stored is not None and stored.size != made[suffix].stat().st_size
        ]
        if others:
            raise InputDataError(f"of another reference, or cut: {', '.join(others)}; remove them")
        with job.stages.stage("storing"):
            for suffix in missing:
                store.store(made[suffix], f"{uri}{suffix}")
    return f"made {', '.join(missing)}"


if __name__ == "__main__":
    sys.exit(main("index-reference", run))
