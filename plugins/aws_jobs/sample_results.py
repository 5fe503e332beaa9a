"""What the mapping job left for a sample: its manifest, and the depths in its coverage table."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently
from aws_jobs.s3_uri import split_uri
from aws_jobs.sample_outputs import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: What ``platform.machine()`` says on the machines of each architecture.
MACHINES: dict[str, str] = {"graviton": "aarch64", "x86": "x86_64"}

# Between a contig's species and its own name.
SPECIES_MARK = "~"
# References of more species than this are taken as one.
_SPECIES_APART = 8

_BUDGET = 120.0
# Ten thousand manifests one after the other take minutes; a client has ten connections.
READERS = 8


@dataclass(frozen=True)
class Stage:
    """One stage of a mapping job.

    :param seconds: by the clock.
    :param cpu_seconds: of all its processes.
    :param skipped: an earlier attempt had done it.
    """

    name: str
    seconds: float
    cpu_seconds: float | None = None
    skipped: bool = False


@dataclass(frozen=True)
class SampleResult:
    """A manifest's content, as far as reports need it.

    :param architecture: of the machine that it ran on, ``aarch64`` or ``x86_64``.
    :param job_id: the Batch job that wrote it.
    :param peak_memory_mib: resident memory of all processes together, at most.
    :param qc: ``reads``, ``mapped``, ``mapped_share``, ``kept``, ``kept_share``; reads are primary.
    :param outputs: ``uri``, ``size`` and ``sha256`` by name.
    """

    sample: str
    architecture: str = ""
    job_id: str | None = None
    image: str | None = None
    vcpus: float | None = None
    memory_mib: float | None = None
    peak_memory_mib: float | None = None
    stages: tuple[Stage, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    qc: Mapping[str, float] = field(default_factory=dict)

    @property
    def cpu_seconds(self) -> float | None:
        """CPU seconds of the stages that ran, or None where one is not known."""
        counted = [stage.cpu_seconds for stage in self.stages if not stage.skipped]
        known = [seconds for seconds in counted if seconds is not None]
        return sum(known) if counted and len(known) == len(counted) else None

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> SampleResult:
        """Take what reports need from a manifest."""
        resources = manifest.get("resources") or {}
        return cls(
            sample=str(manifest["sample"]),
            architecture=str(manifest.get("architecture") or ""),
            job_id=manifest.get("job_id"),
            image=manifest.get("image"),
            vcpus=resources.get("vcpus"),
            memory_mib=resources.get("memory_mib"),
            peak_memory_mib=manifest.get("peak_rss_mib"),
            stages=tuple(
                Stage(
                    name=str(stage["name"]),
                    seconds=float(stage["seconds"]),
                    cpu_seconds=stage.get("cpu_seconds"),
                    skipped=bool(stage.get("skipped")),
                )
                for stage in manifest.get("stages") or ()
            ),
            tools=manifest.get("tools") or {},
            parameters=manifest.get("parameters") or {},
            inputs=manifest.get("inputs") or {},
            outputs=manifest.get("outputs") or {},
            qc=manifest.get("qc") or {},
        )


def read_results(s3: Any, uris: Mapping[str, str]) -> dict[str, SampleResult]:
    """Read the manifests of samples; a sample without a usable one is left out.

    :param uris: where each sample's manifest is, ``s3://...``, by sample.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=READERS) as readers:
        manifests = readers.map(lambda uri: read_manifest(s3, uri), uris.values())
        return {
            sample: SampleResult.from_manifest(manifest)
            for sample, manifest in zip(uris, manifests, strict=True)
            if manifest is not None
        }


def coverage_rows(s3: Any, uri: str) -> Iterator[dict[str, str]]:
    """Read a tidy coverage table row by row."""
    bucket, key = split_uri(uri)
    body = call_patiently(lambda: s3.get_object(Bucket=bucket, Key=key), budget=_BUDGET)["Body"]
    lines = (line.decode() for line in body.iter_lines())
    yield from csv.DictReader(lines, delimiter="\t")


def mean_depths(rows: Iterable[Mapping[str, str]]) -> dict[str, float]:
    """Return the mean depth of each species; of all by ``""``, where there are many or none named.

    Contigs count by their length; those too short to be measured are left out.

    >>> mean_depths([{"contig": "hp~1", "length": "1000", "mean": "3"},
    ...              {"contig": "hp~2", "length": "3000", "mean": "1"},
    ...              {"contig": "hp~3", "length": "120", "mean": ""}])
    {'hp': 1.5}
    """
    bases: dict[str, float] = defaultdict(float)
    lengths: dict[str, float] = defaultdict(float)
    for row in rows:
        if not row.get("mean"):
            continue
        name, mark, _ = row["contig"].partition(SPECIES_MARK)
        species = name if mark else ""
        bases[species] += float(row["mean"]) * float(row["length"])
        lengths[species] += float(row["length"])
    if len(lengths) > _SPECIES_APART:
        return {"": sum(bases.values()) / sum(lengths.values())}
    return {species: bases[species] / lengths[species] for species in lengths}
