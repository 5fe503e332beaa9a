"""The project's mapping DAG on small samples of real genomes: none is lost or mapped twice."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest

from scripts import seed_genomes
from tests.e2e.harness import BUCKET
from tests.e2e.test_genomics_dags import TABLE, first_reads
from tests.faults.strikes import Strike
from tests.faults.world import MAPPING, FaultRun, FaultWorld

GROUP = "Samples of a mapping run"
SAMPLES_EACH = 2
DONE = "4"
STORED = "after state_set:external_job"


@dataclass(frozen=True)
class Case:
    """What is done to the processes of a run.

    :param once: each sample is mapped by one job; else one is ended with its task, and made again.
    """

    words: str
    strikes: tuple[Strike, ...]
    once: bool = True


CASES = {
    "claim": Case(
        "SIGKILL after the samples are claimed", (Strike("return", "KILL", "claim_samples"),)
    ),
    "submission": Case(
        "SIGKILL of one sample's task, loss of the other's host, after the call",
        (
            Strike("after call:SubmitJob", "KILL", "map_samples", map_index=0),
            Strike("after call:SubmitJob", "HOST", "map_samples", map_index=1),
        ),
    ),
    "resume": Case(
        "SIGKILL of one sample's task, loss of the other's host, at the resume",
        (
            Strike("resume", "KILL", "map_samples", map_index=0),
            Strike("resume", "HOST", "map_samples", map_index=1),
        ),
    ),
    "eviction": Case(
        "eviction of both samples' tasks after the id is stored",
        tuple(Strike(STORED, "TERM", "map_samples", nth=2, map_index=n) for n in range(2)),
        once=False,
    ),
    "triggerer": Case("SIGKILL of the triggerer while the samples are mapped", ()),
}


def samples(name: str) -> list[str]:
    number = list(CASES).index(name)
    return [f"F{number}{letter}" for letter in "ab"[:SAMPLES_EACH]]


@pytest.fixture(scope="module")
def runs(world: FaultWorld) -> dict[str, FaultRun]:
    """Those that need nothing but their strikes, under way, each with samples of its own."""
    if not world.is_ours:
        pytest.skip("the stock operators have no such DAG")
    s3, dynamodb = world.stack.client("s3"), world.stack.client("dynamodb")
    seed_genomes.upload(s3, dynamodb, BUCKET, TABLE, seed_genomes.CACHE)
    bodies = {mate: first_reads(f"S1_{mate}.fastq.gz") for mate in ("1", "2")}
    for name in (each for case in CASES for each in samples(case)):
        keys = {mate: f"source/{name}_{mate}.fastq.gz" for mate in bodies}
        for mate, body in bodies.items():
            s3.put_object(Bucket=BUCKET, Key=keys[mate], Body=body)
        reads = {f"r{mate}": {"S": key} for mate, key in keys.items()}
        item = {"sample": {"S": name}, "status": {"N": "0"}, **reads}
        dynamodb.put_item(TableName=TABLE, Item=item)
    world.unpause([world.dag_id([MAPPING])])
    world.group = GROUP
    return {name: begin(world, name) for name in CASES if name != "triggerer"}


def begin(world: FaultWorld, name: str) -> FaultRun:
    case = CASES[name]
    return world.begin(case.words, [MAPPING], strikes=case.strikes, samples=samples(name))


@pytest.mark.parametrize("name", CASES)
def test_no_sample_is_lost_or_mapped_twice(
    world: FaultWorld, runs: dict[str, FaultRun], name: str
) -> None:
    if name == "triggerer":
        run = begin(world, name)
        mapped = [f"map_samples[{index}]" for index in range(SAMPLES_EACH)]
        run.until(lambda: "deferred" in {run.task_states.get(each) for each in mapped}, every=0.3)
        world.kill("triggerer", signal.SIGKILL)
        world.restart("triggerer")
    else:
        run = runs[name]

    once = {f"map_samples[{index}]": 1 for index in range(SAMPLES_EACH)}
    world.judge(run, submissions=once if CASES[name].once else None, timeout=800)

    assert {sample: status_of(world, sample) for sample in samples(name)} == dict.fromkeys(
        samples(name), DONE
    )


def status_of(world: FaultWorld, sample: str) -> str:
    dynamodb = world.stack.client("dynamodb")
    item = dynamodb.get_item(TableName=TABLE, Key={"sample": {"S": sample}})["Item"]
    return str(item["status"]["N"])
