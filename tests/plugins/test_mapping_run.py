"""What the mapping's tasks do: every problem before the first job, and the truth after the last."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from aws_jobs.exceptions import InputError, OutputError, SettingsError
from aws_jobs.mapping_params import mapping_params
from aws_jobs.mapping_run import (
    benchmark_items,
    claim,
    judge,
    matrix_items,
    owner_of,
    preflight,
    preflight_benchmark,
    verify,
)
from aws_jobs.samples import SampleTable, Status
from localaws.process import LocalAws
from tests.plugins.sample_tables import (
    BUCKET,
    READS,
    add,
    client,
    make_table,
    put_reads,
    put_results,
    read,
)

ME = "local/genomics_mapping/me"
REFERENCE = "ref_data/checked.fa"
INDEX = [f"{REFERENCE}{suffix}" for suffix in ("", ".amb", ".ann", ".bwt", ".pac", ".sa")]
# What an earlier mapping with the form's defaults wrote into its manifest.
DEFAULTS = {
    "min_identity": "0.95",
    "min_aligned": "0.75",
    "exclude_supplementary": False,
    "methods": ["mean", "trimmed_mean", "covered_fraction", "count", "length"],
    "trim_min": "0.1",
    "trim_max": "0.9",
    "contig_end_exclusion": 75,
}
Configure = Callable[..., None]


@functools.cache
def make_places(aws: LocalAws) -> None:
    """Make the reference, and queues and job definitions of either architecture, once."""
    for key in INDEX:
        client(aws, "s3").put_object(Bucket=BUCKET, Key=key, Body=b">c\nACGT\n")
    batch = client(aws, "batch")
    for arch, family in (("graviton", "r6g"), ("x86", "r5")):
        name = f"checked-{arch}"
        batch.create_compute_environment(
            computeEnvironmentName=name,
            type="MANAGED",
            state="ENABLED",
            computeResources={
                "type": "EC2",
                "minvCpus": 0,
                "maxvCpus": 128,
                "instanceTypes": [family],
                "subnets": ["subnet-0localaws"],
                "securityGroupIds": ["sg-0localaws"],
                "instanceRole": "arn:aws:iam::123456789012:instance-profile/ecsInstanceRole",
            },
        )
        for queue, state in ((name, "ENABLED"), (f"{name}-off", "DISABLED")):
            batch.create_job_queue(
                jobQueueName=queue,
                state=state,
                priority=1,
                computeEnvironmentOrder=[{"order": 1, "computeEnvironment": name}],
            )
        define(aws, name, "local/mapping@sha256:0")


def define(aws: LocalAws, name: str, image: str) -> None:
    client(aws, "batch").register_job_definition(
        jobDefinitionName=name,
        type="container",
        containerProperties={
            "image": image,
            "command": ["true"],
            "resourceRequirements": [
                {"type": "VCPU", "value": "1"},
                {"type": "MEMORY", "value": "100"},
            ],
        },
    )


@pytest.fixture
def table(aws: LocalAws) -> SampleTable:
    make_places(aws)
    return make_table(aws)


@pytest.fixture(autouse=True)
def configure(table: SampleTable, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Set the settings; a test changes what it needs otherwise."""
    settings = json.loads(os.environ["AIRFLOW_VAR_AWS_JOBS"])
    genomics = {
        "samples_table": table.name,
        "reference": REFERENCE,
        "queues": {"graviton": ["checked-graviton"], "x86": ["checked-x86"]},
        "job_definitions": {"graviton": "checked-graviton", "x86": "checked-x86"},
        "merge_queue": "checked-graviton",
        "merge_job_definition": "checked-graviton",
        "vcpus": 64,
        "memory_mib": 400_000,
        "memory_cap_mib": 500_000,
    }

    def configure(**changes: Any) -> None:
        value = {**settings, "genomics": {**genomics, **changes}}
        monkeypatch.setenv("AIRFLOW_VAR_AWS_JOBS", json.dumps(value))

    configure()
    return configure


def asked(**changes: Any) -> dict[str, Any]:
    return {**{name: param.value for name, param in mapping_params().items()}, **changes}


@pytest.fixture(autouse=True)
def quick(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the same clients in all tests: to make one takes longer than most of them."""
    monkeypatch.setattr(
        "aws_jobs.mapping_clients.aws_client", lambda service, *_: client(aws, service)
    )


def run_state(dag_id: str, run_id: str) -> str | None:
    return {"over": "failed"}.get(run_id, "running")


def problems_of(**changes: Any) -> list[str]:
    with pytest.raises(InputError) as refused:
        preflight(asked(**changes))
    return list(refused.value.problems)


def manifest_of(table: SampleTable, name: str, **changes: Any) -> dict[str, Any]:
    source = f"s3://{BUCKET}/source/{table.name}/{name}"
    inputs = {
        "r1": {"uri": f"{source}_1.fastq.gz"},
        "r2": {"uri": f"{source}_2.fastq.gz"},
        "reference": {"uri": f"s3://{BUCKET}/{REFERENCE}"},
    }
    return {"inputs": inputs, "parameters": {**DEFAULTS, **changes}}


def place(table: SampleTable, name: str, arch: str = "graviton") -> str:
    return f"s3://{BUCKET}/results/{table.name}/{arch}/{name}"


def finished(aws: LocalAws, table: SampleTable, name: str, **changes: Any) -> str:
    """A sample that an earlier run has mapped."""
    uri = put_results(aws, place(table, name), **manifest_of(table, name, **changes))
    add(table, name, status=4, owner="local/genomics_mapping/over", outputs=uri)
    return uri


def claimed_samples(
    aws: LocalAws, table: SampleTable, *names: str, **params: Any
) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Samples that this run has claimed."""
    for name in names:
        add(table, name)
    put_reads(aws, table, *names)
    checked = preflight(asked(**params))
    return checked, claim(checked, asked(**params), owner=ME, dag_run_state=run_state)


def record(name: str, job_id: str, failure: str | None = None, reason: str = "") -> dict[str, Any]:
    outcome = "failed" if failure else "succeeded"
    record = {"sample": name, "job_id": job_id, "outcome": outcome}
    return {**record, "failure": failure, "reason": reason}


# Before the first job


def test_what_is_in_order_passes(aws: LocalAws, table: SampleTable) -> None:
    add(table, "S1")
    add(table, "S2", status=-1)
    put_reads(aws, table, "S1", "S2")
    uri = finished(aws, table, "S3")

    checked = preflight(asked())

    assert checked["table"] == table.name
    assert checked["arch"] == "graviton"
    assert checked["images"] == {"graviton": "local/mapping@sha256:0"}
    assert list(checked["samples"]) == ["S1", "S2"]
    assert checked["samples"]["S1"]["r1"] == f"s3://{BUCKET}/source/{table.name}/S1_1.fastq.gz"
    assert checked["finished"] == {"S3": uri}
    assert checked["refused"] == {}
    assert checked["warnings"] == []


def test_all_problems_come_at_once(aws: LocalAws, table: SampleTable, configure: Configure) -> None:
    configure(
        reference="ref_data/missing.fa",
        queues={"graviton": ["checked-graviton-off", "no-queue"], "x86": ["checked-x86"]},
        job_definitions={"graviton": "no-definition", "x86": "checked-x86"},
    )
    add(table, "x'; rm -rf /")
    add(table, "same", r1="source/same_1.fastq.gz", r2="source/same_1.fastq.gz")
    add(table, "first")
    add(table, "second", r1=f"source/{table.name}/first_1.fastq.gz")
    put_reads(aws, table, "first")
    add(table, "absent")

    problems = "\n".join(problems_of(samples=["*", "nobody"], min_identity=1))

    for problem in (
        "min_identity: 1 means 1 %",
        f"s3://{BUCKET}/ref_data/missing.fa.bwt does not exist",
        "index-reference",
        "there is no job queue no-queue",
        "the job queue checked-graviton-off is disabled",
        "no active job definition no-definition",
        "there is no sample nobody",
        'rm -rf /" is no name',
        "same: r1 and r2 are the same",
        "first: s3://localaws-data/source",
        "is used by first too",
        "absent_1.fastq.gz does not exist",
        "absent_2.fastq.gz does not exist",
    ):
        assert problem in problems


def test_without_the_stack_the_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = json.loads(os.environ["AIRFLOW_VAR_AWS_JOBS"])
    del settings["genomics"]
    monkeypatch.setenv("AIRFLOW_VAR_AWS_JOBS", json.dumps(settings))

    with pytest.raises(SettingsError, match=r"genomics\.yaml"):
        preflight(asked())


def test_a_table_that_is_not_there_is_a_problem() -> None:
    (problem,) = problems_of(table="no-such-table")

    assert problem.startswith("the table no-such-table:")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"memory_cap_mib": 600_000}, "would wait for ever in checked-graviton"),
        ({"vcpus": 96}, "has 64 vCPUs"),
        ({"vcpus": 192}, "checked-graviton has 128 vCPUs at the most"),
        (
            {"queues": {"graviton": ["checked-x86"], "x86": ["checked-x86"]}},
            "(r5) has no graviton instances",
        ),
    ],
)
def test_a_job_that_fits_nowhere_is_refused(
    aws: LocalAws, table: SampleTable, configure: Configure, changes: dict[str, Any], problem: str
) -> None:
    configure(**changes)
    add(table, "S1")
    put_reads(aws, table, "S1")

    (found,) = problems_of()

    assert problem in found


def test_where_ec2_does_not_say_the_fit_is_a_warning(
    aws: LocalAws, table: SampleTable, configure: Configure
) -> None:
    configure(vcpus=4096)
    add(table, "S1")
    put_reads(aws, table, "S1")
    fault = {"service": "ec2", "operation": "DescribeInstanceTypes", "kind": "error"}
    aws.set_faults([{**fault, "code": "UnauthorizedOperation", "status": 403}])

    (warning,) = preflight(asked())["warnings"]

    assert warning.startswith("Whether the jobs fit r6g is not known")


def test_more_tasks_than_airflow_maps_are_refused_with_the_way_out(
    aws: LocalAws, table: SampleTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"S{number}" for number in range(5)]
    for name in names:
        add(table, name)
    put_reads(aws, table, *names)
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")

    (problem,) = problems_of(samples_per_job=2)

    assert "set samples_per_job to 3 or more" in problem
    assert preflight(asked(samples_per_job=3))["samples"].keys() == set(names)


def test_a_finished_sample_of_other_parameters_is_not_passed_off(
    aws: LocalAws, table: SampleTable
) -> None:
    finished(aws, table, "S1", min_identity="0.97", methods=["mean"])
    finished(aws, table, "S2")
    put_reads(aws, table, "S1", "S2")

    (problem,) = problems_of()

    assert problem.startswith("S1: it is finished with others: min_identity was 0.97, not 0.95")
    assert "methods was" in problem
    assert list(preflight(asked(recompute=True))["samples"]) == ["S1", "S2"]
    assert preflight(asked(samples=["S2"], methods=["mean"]))["finished"].keys() == {"S2"}


def test_a_finished_sample_without_outputs_is_a_problem(table: SampleTable) -> None:
    add(table, "S1", status=4, outputs=f"{place(table, 'S1')}/manifest.json")

    (problem,) = problems_of()

    assert problem.startswith("S1: it is finished, but its outputs are gone")


def test_as_many_samples_are_refused_as_may_fail(aws: LocalAws, table: SampleTable) -> None:
    for name in ("S1", "S2", "S3"):
        add(table, name)
    put_reads(aws, table, "S1", "S3")
    client(aws, "s3").put_object(Bucket=BUCKET, Key=f"source/{table.name}/S3_2.fastq.gz", Body=b"")

    assert len(problems_of(max_failed=1)) == 2
    checked = preflight(asked(max_failed=2))

    assert list(checked["samples"]) == ["S1"]
    assert "S2_1.fastq.gz does not exist" in checked["refused"]["S2"]
    assert "S3_2.fastq.gz is empty" in checked["refused"]["S3"]


# The claim


def test_what_is_claimed_comes_as_chunks_ordered_by_name(aws: LocalAws, table: SampleTable) -> None:
    _, chunks = claimed_samples(aws, table, "S3", "S1", "S2", samples_per_job=2)

    assert [[item["sample"] for item in chunk] for chunk in chunks] == [["S1", "S2"], ["S3"]]
    item = chunks[0][0]
    assert item == {
        "sample": "S1",
        "r1": f"s3://{BUCKET}/source/{table.name}/S1_1.fastq.gz",
        "r2": f"s3://{BUCKET}/source/{table.name}/S1_2.fastq.gz",
        "reference": f"s3://{BUCKET}/{REFERENCE}",
        "output": place(table, "S1"),
        "done_uri": f"{place(table, 'S1')}/manifest.json",
        "table": table.name,
        "owner": ME,
        "parameters": {**DEFAULTS, "trim_min": "0.10", "trim_max": "0.90"},
    }
    assert read(table, "S1").owner == ME


def test_a_refused_sample_is_marked_failed_and_the_others_go_on(
    aws: LocalAws, table: SampleTable
) -> None:
    add(table, "S2")

    checked, chunks = claimed_samples(aws, table, "S1", max_failed=1)

    assert [item["sample"] for chunk in chunks for item in chunk] == ["S1"]
    sample = read(table, "S2")
    assert (sample.status, sample.reason) == (Status.FAILED, checked["refused"]["S2"])


def test_what_another_run_has_is_left_to_it_and_fails_this_one(
    aws: LocalAws, table: SampleTable
) -> None:
    add(table, "S1", owner="local/genomics_mapping/other")
    add(table, "S2", owner="local/genomics_mapping/over")
    put_reads(aws, table, "S1", "S2")

    checked, chunks = claimed_samples(aws, table, "S3")
    verified = verify(checked, chunks, [], owner=ME)

    assert [item["sample"] for chunk in chunks for item in chunk] == ["S2", "S3"]
    assert verified["failed"]["S1"] == "local/genomics_mapping/other has it: to do"


# After the last job


def test_what_counts_is_what_lies_in_s3(aws: LocalAws, table: SampleTable) -> None:
    earlier = finished(aws, table, "S0")
    checked, chunks = claimed_samples(aws, table, "S1", "S2", "S3", "S4")
    done = put_results(aws, place(table, "S1"), job_id="j-1")
    put_results(aws, place(table, "S2"), job_id="a:1")
    client(aws, "s3").delete_object(
        Bucket=BUCKET, Key=f"results/{table.name}/graviton/S2/S.filtered.bam"
    )
    attempts = [
        [record("S1", "j-1")],
        [record("S2", "a:1")],
        [
            record("S3", "j-3", "capacity", "Host EC2 (instance i-1) terminated."),
            record("S3", "j-4", "memory", "OutOfMemoryError"),
        ],
        None,
    ]

    verified = verify(checked, chunks, attempts, owner=ME)

    assert verified["complete"] == {"S1": done}
    assert verified["all_complete"] == {"S0": earlier, "S1": done}
    assert verified["failed"]["S2"].startswith("filtered_bam is missing")
    assert verified["failed"]["S3"] == "memory: OutOfMemoryError (attempt 2)"
    assert verified["failed"]["S4"] == "no job was started for it"
    assert (read(table, "S1").status, read(table, "S1").outputs) == (Status.FINISHED, done)
    for name, why in verified["failed"].items():
        assert (read(table, name).status, read(table, name).reason) == (Status.FAILED, why)
    assert verify(checked, chunks, attempts, owner=ME) == verified


def test_an_output_of_another_size_is_not_complete(aws: LocalAws, table: SampleTable) -> None:
    checked, chunks = claimed_samples(aws, table, "S1")
    put_results(aws, place(table, "S1"), job_id="j-1")
    key = f"results/{table.name}/graviton/S1/S.filtered.bam"
    client(aws, "s3").put_object(Bucket=BUCKET, Key=key, Body=b"BA")
    add(table, "S1", status=4, owner=ME, claimed_at="2025-01-01T00:00:00Z")

    verified = verify(checked, chunks, [[record("S1", "j-1")]], owner=ME)

    assert verified["failed"]["S1"].startswith("filtered_bam has 2 bytes, not 3")
    assert read(table, "S1").status == Status.FAILED


def test_a_manifest_of_an_earlier_run_is_not_this_ones(aws: LocalAws, table: SampleTable) -> None:
    finished(aws, table, "S1")
    put_reads(aws, table, "S1")
    params = asked(recompute=True)
    checked = preflight(params)
    chunks = claim(checked, params, owner=ME, dag_run_state=run_state)

    verified = verify(checked, chunks, [[record("S1", "j", "image", "CannotPull")]], owner=ME)

    assert verified["failed"] == {"S1": "image: CannotPull"}


def test_a_job_that_died_after_its_manifest_has_done_its_work(
    aws: LocalAws, table: SampleTable
) -> None:
    checked, chunks = claimed_samples(aws, table, "S1")
    put_results(aws, place(table, "S1"), created_at="2099-01-01T00:00:00Z")

    verified = verify(checked, chunks, [[record("S1", "j", "capacity", "Host EC2")]], owner=ME)

    assert verified["failed"] == {}
    assert read(table, "S1").status == Status.FINISHED


def test_the_jobs_own_words_say_why_it_failed(aws: LocalAws, table: SampleTable) -> None:
    checked, chunks = claimed_samples(aws, table, "S1", "S2")
    add(table, "S1", status=-1, owner=ME, job_id="j-1", reason="r1 is cut off")
    add(table, "S2", status=-1, owner=ME, job_id="j-2", reason="of an earlier attempt")
    attempts = [
        [record("S1", "j-1", "input", "exit 65")],
        [record("S2", "j-2", "memory", "137"), record("S2", "j-3", "image", "CannotPull")],
    ]

    verified = verify(checked, chunks, attempts, owner=ME)

    assert verified["failed"] == {"S1": "r1 is cut off", "S2": "image: CannotPull (attempt 2)"}


def test_a_sample_that_was_taken_over_is_not_written(aws: LocalAws, table: SampleTable) -> None:
    checked, chunks = claimed_samples(aws, table, "S1")
    taken = add(table, "S1", status=1, owner="local/genomics_mapping/other")

    verified = verify(checked, chunks, [[record("S1", "j", "application", "75")]], owner=ME)

    assert verified["failed"] == {"S1": "local/genomics_mapping/other has it now"}
    assert read(table, "S1") == taken


def test_ten_samples_cost_ten_looks_and_no_more_writes_than_needed(
    aws: LocalAws, table: SampleTable
) -> None:
    names = [f"S{number}" for number in range(10)]
    checked, chunks = claimed_samples(aws, table, *names)
    for name in names:
        uri = put_results(aws, place(table, name), job_id=name)
        add(table, name, status=4, owner=ME, outputs=uri)
    aws.reset_calls()

    verify(checked, chunks, [[record(name, name)] for name in names], owner=ME)

    calls = {op: sum(n.values()) for each in aws.calls().values() for op, n in each.items()}
    assert calls == {"BatchGetItem": 1, "GetObject": 10, "ListObjectsV2": 10}


def test_the_matrix_takes_all_that_is_complete_and_says_what_is_missing(
    table: SampleTable,
) -> None:
    verified = {
        "table": table.name,
        "arch": "x86",
        "complete": {},
        "failed": {"S9": "why"},
        "all_complete": {"S2": "s3://b/S2/manifest.json", "S1": "s3://b/S1/manifest.json"},
    }

    (item,) = matrix_items(verified, asked(methods=["count", "mean"]), owner=ME)

    place = f"s3://{BUCKET}/results/{table.name}/x86/matrix/"
    assert item["output"].startswith(place)
    assert len(item["output"].removeprefix(place)) == 16
    assert item["done_uri"] == f"{item['output']}/manifest.json"
    assert [each["sample"] for each in item["samples"]] == ["S1", "S2"]
    assert item["failed"] == {"S9": "why"}
    assert item["methods"] == ["mean", "count"]


def test_a_run_fails_by_name_unless_few_enough_failed() -> None:
    verified = {"failed": {"S2": "memory", "S1": "input"}, "all_complete": {"S3": "s3://b/m"}}

    with pytest.raises(OutputError, match="2 of 3 samples failed") as failed:
        judge(verified, 1)

    assert failed.value.problems == ("S1: input", "S2: memory")
    judge(verified, 2)


def test_a_benchmark_maps_everything_on_both_sides_and_touches_nothing(
    aws: LocalAws, table: SampleTable
) -> None:
    finished(aws, table, "S1")
    add(table, "S2")
    put_reads(aws, table, "S1", "S2")
    before = list(table.all())

    checked = preflight_benchmark(asked())
    sides = {arch: benchmark_items(checked, asked(), arch, owner=ME) for arch in checked["images"]}

    assert checked["images"].keys() == {"graviton", "x86"}
    outputs = [item["output"] for side in sides.values() for (item,) in side]
    assert len(set(outputs)) == 4
    assert all(uri.startswith(f"s3://{BUCKET}/benchmarks/{table.name}/") for uri in outputs)
    assert outputs[2].endswith("/x86/S1")
    assert {(item["table"], item["owner"]) for (item,) in sides["x86"]} == {(None, None)}
    assert list(table.all()) == before


def test_a_benchmark_of_different_images_is_refused(
    aws: LocalAws, table: SampleTable, configure: Configure
) -> None:
    define(aws, "checked-other", "local/mapping@sha256:1")
    configure(job_definitions={"graviton": "checked-graviton", "x86": "checked-other"})
    add(table, "S1")
    put_reads(aws, table, "S1")

    with pytest.raises(InputError, match="the same image must run on all"):
        preflight_benchmark(asked())


def test_a_benchmark_of_an_image_without_its_digest_is_warned_of(
    aws: LocalAws, table: SampleTable, configure: Configure
) -> None:
    define(aws, "checked-tag", "local/mapping:tag")
    configure(job_definitions={"graviton": "checked-tag", "x86": "checked-tag"})
    add(table, "S1")
    put_reads(aws, table, "S1")

    checked = preflight_benchmark(asked())

    assert checked["warnings"] == ["local/mapping:tag is not named by its digest"]


def test_an_owner_names_deployment_dag_and_run() -> None:
    class TaskInstance:
        dag_id, run_id = "genomics_mapping", "manual__2026-01-01"

    assert owner_of(TaskInstance()) == "local/genomics_mapping/manual__2026-01-01"


def test_reads_elsewhere_are_a_warning_because_the_jobs_role_may_not_read_them(
    aws: LocalAws, table: SampleTable
) -> None:
    for mate in "12":
        client(aws, "s3").put_object(Bucket=BUCKET, Key=f"raw/S1_{mate}.fq.gz", Body=READS)
    add(table, "S1", r1="raw/S1_1.fq.gz", r2="raw/S1_2.fq.gz")

    (warning,) = preflight(asked())["warnings"]

    assert warning.startswith("The reads of S1 are not below s3://localaws-data/source/")


def test_names_and_keys_may_hold_all_that_is_harmless(aws: LocalAws, table: SampleTable) -> None:
    client(aws, "s3").put_object(Bucket=BUCKET, Key="source/x+y_1.fq.gz", Body=READS)
    client(aws, "s3").put_object(Bucket=BUCKET, Key="source/x+y_2.fq.gz", Body=READS)
    add(table, "x.y-z_1", r1="source/x+y_1.fq.gz", r2=f"s3://{BUCKET}/source/x+y_2.fq.gz")

    assert list(preflight(asked())["samples"]) == ["x.y-z_1"]
