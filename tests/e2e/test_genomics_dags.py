"""Both genomics DAGs on reads of real genomes, with real bwa; and what runs again after that."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from typing import Any

import httpx
import pytest

from aws_jobs.identity import TAG_MAP_INDEX, TAG_RUN, TAG_TASK
from scripts import seed_genomes
from tests.e2e.harness import BUCKET, Case, World

DAG = "genomics_mapping"
BENCHMARK = "genomics_graviton_benchmark"
TABLE = "local-reads"
PAIRS = 500
LINES_OF_A_READ = 4
SAMPLES = ("E1", "E2", "E3")
CUT_OFF = "E3"
FOR_AN_ARRAY = ("E4", "E5")


@pytest.fixture(scope="module")
def genomes(world: World) -> None:
    """The reference, five small samples, and two that cannot be mapped.

    Of a third of those that can, the second mates are cut off.
    """
    s3, dynamodb = world.client("s3"), world.client("dynamodb")
    seed_genomes.upload(s3, dynamodb, BUCKET, TABLE, seed_genomes.CACHE)
    for number, sample in enumerate((*SAMPLES, *FOR_AN_ARRAY)):
        for mate in (1, 2):
            reads = first_reads(f"S{1 + number % 4}_{mate}.fastq.gz")
            cut_off = sample == CUT_OFF and mate == 2
            put_reads(world, sample, mate, reads[: len(reads) // 2] if cut_off else reads)
        register(world, sample, f"source/{sample}_1.fastq.gz", f"source/{sample}_2.fastq.gz")
    register(world, "P1", "source/E1_1.fastq.gz", "source/nowhere.fastq.gz")
    register(world, "P2'; rm -rf /", "source/E2_1.fastq.gz", "source/E2_2.fastq.gz")


@pytest.fixture(scope="module")
def runs(world: World, genomes: None) -> dict[str, Case]:
    """Runs that do not touch each other's samples, all under way."""
    return {
        name: world.begin(name, dag_id, conf)
        for name, dag_id, conf in (
            ("a sample's reads are cut off", DAG, {"samples": list(SAMPLES)}),
            (
                "two samples a job",
                DAG,
                {"samples": ["E4", "E5"], "samples_per_job": 2, "architecture": "x86"},
            ),
            ("two samples that cannot be mapped", DAG, {"samples": ["P*"]}),
            ("both architectures", BENCHMARK, {"samples": ["E1", "E2"]}),
        )
    }


def first_reads(name: str) -> bytes:
    with gzip.open(seed_genomes.CACHE / name) as reads:
        head = b"".join(islice(reads, PAIRS * LINES_OF_A_READ))
    return gzip.compress(head, mtime=0)


def put_reads(world: World, sample: str, mate: int, reads: bytes) -> None:
    world.client("s3").put_object(Bucket=BUCKET, Key=f"source/{sample}_{mate}.fastq.gz", Body=reads)


def register(world: World, sample: str, r1: str, r2: str) -> None:
    world.client("dynamodb").put_item(
        TableName=TABLE,
        Item={"sample": {"S": sample}, "r1": {"S": r1}, "r2": {"S": r2}, "status": {"N": "0"}},
    )


def in_table(world: World, sample: str) -> dict[str, str]:
    item = world.client("dynamodb").get_item(TableName=TABLE, Key={"sample": {"S": sample}})
    return {name: next(iter(value.values())) for name, value in item["Item"].items()}


def jobs(world: World, case: Case, task_id: str) -> list[dict[str, Any]]:
    """Return the jobs that a task of a run has submitted, an array as one."""
    wanted = {TAG_RUN: case.run_id, TAG_TASK: task_id}
    return [
        job
        for job in world.all_jobs()
        if wanted.items() <= job["tags"].items() and not job["parent"]
    ]


def read(world: World, uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bytes(world.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())


@pytest.fixture(scope="module")
def partial(world: World, runs: dict[str, Case]) -> Case:
    """A run over three samples, of which one cannot be mapped."""
    return world.end(runs["a sample's reads are cut off"])


def test_a_sample_that_is_cut_off_fails_alone_and_is_named(world: World, partial: Case) -> None:
    assert partial.state == "failed"
    assert world.rest.task_states(DAG, partial.run_id)["publish"] == "failed"
    log = world.logs(DAG, partial.run_id, "publish")
    assert "1 of 3 samples failed, and 0 may" in log
    assert CUT_OFF in log
    assert {name: in_table(world, name)["status"] for name in SAMPLES} == {
        "E1": "4",
        "E2": "4",
        "E3": "-1",
    }
    assert "gzip" in in_table(world, CUT_OFF)["reason"]
    assert len(jobs(world, partial, "map_samples")) == len(SAMPLES)
    assert world.published_events(DAG, partial.run_id) == []


def test_matrix_and_report_are_made_and_say_what_is_missing(world: World, partial: Case) -> None:
    (request,) = world.rest.xcom(DAG, partial.run_id, "matrix_request")
    matrix = json.loads(read(world, request["done_uri"]))
    report = world.rest.xcom(DAG, partial.run_id, "report")

    assert (matrix["partial"], matrix["samples"]) == (True, ["E1", "E2"])
    assert CUT_OFF in matrix["failed"]
    header = read(world, f"{request['output']}/coverage.mean.tsv").splitlines()[0]
    assert header.split(b"\t")[1:] == [b"E1", b"E2"]
    page = read(world, report["report"]).decode()
    assert "<html" in page
    assert CUT_OFF in page
    link = world.rest.links(DAG, partial.run_id, "report")["Report"]
    assert link
    assert httpx.get(link, trust_env=False).raise_for_status().text == page


def test_running_again_maps_only_what_is_missing(world: World, partial: Case) -> None:
    put_reads(world, CUT_OFF, 2, first_reads("S3_2.fastq.gz"))

    again = world.new_run("run again, the reads mended", DAG, {"samples": list(SAMPLES)})

    assert again.state == "success"
    (job,) = jobs(world, again, "map_samples")
    assert job["state"] == "SUCCEEDED"
    assert in_table(world, CUT_OFF)["status"] == "4"
    (event,) = world.published_events(DAG, again.run_id)
    assert event["extra"]["samples"] == len(SAMPLES)
    (request,) = world.rest.xcom(DAG, again.run_id, "matrix_request")
    assert json.loads(read(world, request["done_uri"]))["partial"] is False


def test_more_than_one_sample_a_job_is_an_array(world: World, runs: dict[str, Case]) -> None:
    case = world.end(runs["two samples a job"])

    assert case.state == "success"
    (array,) = jobs(world, case, "map_samples")
    children = [job for job in world.all_jobs() if job["parent"] == array["id"]]
    assert [job["state"] for job in children] == ["SUCCEEDED", "SUCCEEDED"]
    assert in_table(world, "E4")["arch"] == "x86"


def test_clearing_a_deferred_sample_ends_its_job_and_starts_one(
    world: World, partial: Case
) -> None:
    case = world.begin("a sample cleared while it is mapped", DAG, {"samples": ["S4"]})
    world.wait_until(
        lambda: world.rest.task_states(DAG, case.run_id).get("map_samples[0]") == "deferred"
    )

    world.rest.clear(DAG, case.run_id, ["map_samples"])
    world.end(case)

    first, second = sorted(jobs(world, case, "map_samples"), key=lambda job: job["created"])
    assert case.state == "success"
    assert (first["state"], second["state"]) == ("FAILED", "SUCCEEDED")
    assert first["tags"][TAG_MAP_INDEX] == second["tags"][TAG_MAP_INDEX] == "0"


def test_all_problems_are_named_before_a_job_is_submitted(
    world: World, runs: dict[str, Case]
) -> None:
    case = world.end(runs["two samples that cannot be mapped"])

    assert case.state == "failed"
    assert set(case.ran) == {"preflight"}
    log = world.logs(DAG, case.run_id, "preflight")
    assert "source/nowhere.fastq.gz" in log
    assert "P2'; rm -rf /" in log
    assert jobs(world, case, "map_samples") == []


def test_both_architectures_are_compared_and_nothing_is_concluded_here(
    world: World, runs: dict[str, Case]
) -> None:
    case = world.end(runs["both architectures"])

    assert case.state == "success"
    compared = world.rest.xcom(BENCHMARK, case.run_id, "compare")
    assert (compared["samples"], compared["missing"], compared["saving"]) == (2, 0, None)
    assert compared["no_conclusion"]
    assert b"identical" in read(world, compared["table"])
    assert b"<html" in read(world, compared["report"])
    assert in_table(world, "E1")["arch"] == "graviton"
