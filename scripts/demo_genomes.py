"""The demo's second part: four samples of reads, mapped to real genomes by real bwa."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx

from scripts import seed_genomes
from scripts.demo_print import print_failures, print_table, print_tasks, say
from scripts.stack import Stack

DAG = "genomics_mapping"
RUN_ID = "demo"
BUCKET = "localaws-data"
TABLE = "local-reads"
DONE = 4
# One after the other on a busy core, the samples take two minutes.
RUN_SECONDS = 600
ENDED = ("SUCCEEDED", "FAILED")


def upload(stack: Stack) -> None:
    """Upload the reference and the samples, and list them in the table."""
    s3, dynamodb = stack.client("s3"), stack.client("dynamodb")
    folder = seed_genomes.make(seed_genomes.CACHE)
    samples = seed_genomes.upload(s3, dynamodb, BUCKET, TABLE, folder)
    say(f"uploaded the reference and the reads of {', '.join(samples)}; {TABLE} lists them")


def start(stack: Stack) -> None:
    """Start the mapping of all samples of the table."""
    stack.rest.set_paused(DAG, False)
    stack.rest.trigger(DAG, conf={"architecture": "graviton"}, run_id=RUN_ID)
    say(f"{DAG}: run {RUN_ID} is under way ({stack.airflow_url})")


def finish(stack: Stack, reports: Path) -> list[str]:
    """Wait for the mapping, print what it found, and return what went wrong.

    :param reports: folder that the HTML reports are copied to.
    """
    state = stack.rest.wait_for_run(DAG, RUN_ID, timeout=RUN_SECONDS)["state"]
    print_tasks(stack, DAG, RUN_ID)
    if state != "success":
        print_failures(stack, DAG, RUN_ID)
        return [f"{DAG} ended as {state}"]
    s3 = stack.client("s3")
    done = {sample: json.loads(read(s3, uri)) for sample, uri in outputs(stack.client("dynamodb"))}
    print_samples(s3, done)
    print_stages(done)
    return check_reads(done) + print_reports(s3, reports)


def check_reads(done: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a problem for each sample that is not done, or not with all of its reads."""
    expected = 2 * seed_genomes.PAIRS
    reads = {sample: done[sample]["qc"]["reads"] for sample in done}
    return [
        f"{sample}: {reads.get(sample, 'none')} of {expected} reads went through"
        for sample in seed_genomes.MIXTURES
        if reads.get(sample) != expected
    ]


def outputs(dynamodb: Any) -> Iterable[tuple[str, str]]:
    """Give the samples that the table has as done, each with the address of its manifest."""
    items = dynamodb.scan(TableName=TABLE)["Items"]
    for item in sorted(items, key=lambda item: item["sample"]["S"]):
        if int(item["status"]["N"]) == DONE:
            yield item["sample"]["S"], item["outputs"]["S"]


def read(s3: Any, uri: str) -> str:
    """Read an object by its ``s3://`` address."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return str(s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode())


def print_samples(s3: Any, done: Mapping[str, Mapping[str, Any]]) -> None:
    """Print of each sample what became of its reads, and how deep they cover each species."""
    species = list(seed_genomes.DRAFTS)
    rows = []
    for sample, manifest in done.items():
        qc = manifest["qc"]
        depths = mean_depths(read(s3, manifest["outputs"]["coverage_tidy"]["uri"]))
        counts = (f"{qc['reads']:,}", f"{qc['mapped_share']:.1%}", f"{qc['kept_share']:.1%}")
        rows.append((sample, *counts, *(f"{depths[name]:.2f}" for name in species)))
    header = ("sample", "reads", "mapped", "kept", *(name.replace("_", " ") for name in species))
    print_table("samples: reads, and mean depth of each species", header, rows)


def mean_depths(tidy: str) -> dict[str, float]:
    """Give the mean depth of each species from a tidy coverage table, by its contigs' lengths."""
    bases: Counter[str] = Counter()
    depth: defaultdict[str, float] = defaultdict(float)
    for contig in csv.DictReader(io.StringIO(tidy), delimiter="\t"):
        if contig["mean"]:  # empty where the contig is too short to be measured
            species = contig["contig"].partition("~")[0]
            bases[species] += int(contig["length"])
            depth[species] += int(contig["length"]) * float(contig["mean"])
    return {species: depth[species] / bases[species] for species in bases}


def print_stages(done: Mapping[str, Mapping[str, Any]]) -> None:
    """Print how long each stage of each sample took and how much memory the job had at most."""
    every = [stage["name"] for manifest in done.values() for stage in manifest["stages"]]
    names = list(dict.fromkeys(every))
    rows = []
    for sample, manifest in done.items():
        seconds = {stage["name"]: stage["seconds"] for stage in manifest["stages"]}
        took = [f"{seconds[name]:.1f} s" if name in seconds else "-" for name in names]
        rows.append((sample, *took, f"{manifest['peak_rss_mib']:.0f} MiB"))
    print_table("samples: stages", ("sample", *names, "peak memory"), rows)


def print_reports(s3: Any, folder: Path) -> list[str]:
    """Copy the run's HTML pages to a folder and print where; return a problem if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = [
        entry["Key"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="results/")
        for entry in page.get("Contents", [])
        if entry["Key"].endswith(".html")
    ]
    for key in pages:
        copy = folder / Path(key).name
        copy.write_text(read(s3, f"s3://{BUCKET}/{key}"))
        print(f"\nreport: {copy}\n  of s3://{BUCKET}/{key}")
    return [] if pages else [f"{DAG} wrote no report"]


def print_jobs(stack: Stack) -> list[str]:
    """Print every Batch job that was started; return a problem for each that is alive."""
    jobs = httpx.get(f"{stack.localaws_url}/localaws/batch/jobs").json()
    rows = [(job["id"], job["name"], job["queue"], job["state"]) for job in jobs]
    print_table("Batch jobs", ("id", "name", "queue", "state"), rows)
    left = [job["id"] for job in jobs if job["state"] not in ENDED]
    print(f"\njobs left running: {len(left)}")
    return [f"job {job_id} is left running" for job_id in left]
