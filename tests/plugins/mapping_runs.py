"""Attempts, manifests and prices of mapping runs, made up."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from aws_jobs.costs import Prices, read_prices

PRICES_FILE = Path(__file__).resolve().parents[2] / "include" / "genomics" / "prices.yaml"
START = 1_790_000_000.0


def prices() -> Prices:
    return read_prices(PRICES_FILE)


def record(sample: str = "S1", **changes: Any) -> dict[str, Any]:
    """What the operator hands down for one attempt: waited 60 s, ran an hour."""
    given = {
        "sample": sample,
        "job_id": f"job-{sample}",
        "queue": "local-mapping-graviton",
        "outcome": "succeeded",
        "failure": None,
        "reason": "",
        "exit_code": 0,
        "created_at": START,
        "started_at": START + 60,
        "stopped_at": START + 3660,
        "queued_seconds": 60.0,
        "run_seconds": 3600.0,
        "log_stream": f"mapping/default/{sample}",
        "vcpus": 64.0,
        "memory_mib": 500_000,
        "peak_memory_mib": None,
    }
    assert not changes.keys() - given.keys()
    return {**given, **changes}


def failure(sample: str = "S1", kind: str = "capacity", **changes: Any) -> dict[str, Any]:
    reason = "Host EC2 (instance i-0) terminated."
    given = {"outcome": "failed", "failure": kind, "reason": reason, "exit_code": None}
    return record(sample, **{**given, **changes})


def tidy(sample: str = "S1", depth: str = "2.5") -> str:
    """A coverage table of two species and a contig that is too short to be measured."""
    columns = [
        "sample",
        "contig",
        "length",
        "measurable",
        "mean",
        "trimmed_mean",
        "covered_fraction",
        "count",
    ]
    rows = [
        [sample, "ecoli~1", "1000", "1", depth, depth, "0.9", "17"],
        [sample, "ecoli~2", "3000", "1", "0.5", "0.5", "0.4", "10"],
        [sample, "saureus~1", "2000", "1", "4", "4", "1", "50"],
        [sample, "saureus~2", "120", "0", "", "", "", "0"],
    ]
    return "".join("\t".join(row) + "\n" for row in [columns, *rows])


def manifest(sample: str = "S1", *, coverage: str | None = None, **changes: Any) -> dict[str, Any]:
    """What the mapping job writes last."""
    place = f"s3://localaws-data/results/reads/graviton/{sample}"
    table = coverage if coverage is not None else tidy(sample)
    digest = hashlib.sha256(table.encode()).hexdigest()
    return {
        "sample": sample,
        "created_at": "2026-11-21T12:00:00Z",
        "parameters": {"min_identity": "0.95"},
        "attempt": "0000.0000",
        "job_id": f"job-{sample}",
        "inputs": {"r1": {"uri": f"s3://b/{sample}_1.fastq.gz", "size": 1, "etag": "e"}},
        "tools": {"bwa": "0.7.17", "samtools": "1.16.1", "coverage": "coverm 0.7.0"},
        "image": "genomics-mapping@sha256:0",
        "architecture": "aarch64",
        "resources": {"vcpus": 64, "memory_mib": 500_000},
        "outputs": {
            "coverage_tidy": {
                "uri": f"{place}/{sample}.coverage.tidy.tsv",
                "size": len(table),
                "sha256": digest,
            }
        },
        "stages": [
            {"name": "mapping", "seconds": 3000.0, "cpu_seconds": 150_000.0, "skipped": False},
            {"name": "coverage", "seconds": 500.0, "cpu_seconds": 10_000.0, "skipped": False},
        ],
        "peak_rss_mib": 300_000,
        "qc": {
            "reads": 80_000,
            "mapped": 72_000,
            "mapped_share": 0.9,
            "kept": 60_000,
            "kept_share": 0.75,
        },
        **changes,
    }


def store(s3: Any, place: str, document: dict[str, Any], table: str) -> str:
    """Store a manifest and its coverage table below ``place``; return the manifest's address."""
    bucket, prefix = place.removeprefix("s3://").split("/", 1)
    sample = document["sample"]
    uri = f"{place}/{sample}.coverage.tidy.tsv"
    document["outputs"]["coverage_tidy"]["uri"] = uri
    s3.put_object(Bucket=bucket, Key=f"{prefix}/{sample}.coverage.tidy.tsv", Body=table.encode())
    body = json.dumps(document).encode()
    s3.put_object(Bucket=bucket, Key=f"{prefix}/manifest.json", Body=body)
    return f"{place}/manifest.json"
