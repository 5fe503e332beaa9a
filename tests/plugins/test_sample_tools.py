"""The tools for the sample table: all or nothing, and no lie between table, Batch and S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aws_jobs.identity import TAG_DEPLOYMENT
from aws_jobs.sample_tools import main
from aws_jobs.samples import Sample, SampleTable, Status, now
from localaws.process import LocalAws
from tests.plugins.harness import QUEUE, bash_job
from tests.plugins.sample_tables import (
    BUCKET,
    add,
    client,
    make_table,
    put_reads,
    put_results,
    read,
)

ROOT = Path(__file__).parents[2]
OWNER = "local/genomics_mapping/run"
Tool = Callable[..., tuple[int, str]]


@pytest.fixture
def table(aws: LocalAws) -> SampleTable:
    return make_table(aws)


@pytest.fixture
def tool(
    aws: LocalAws,
    table: SampleTable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Tool:
    """Run a tool on this test's table; returns its exit code and what it printed."""
    monkeypatch.setattr(
        "aws_jobs.sample_tools.Account.client", lambda self, service: client(aws, service)
    )

    def tool(*arguments: str) -> tuple[int, str]:
        code = main([arguments[0], "--table", table.name, "--queue", QUEUE, *arguments[1:]])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return tool


@pytest.fixture
def sheet(table: SampleTable, tmp_path: Path) -> Callable[..., str]:
    """Write a sheet of samples with the reads that ``put_reads`` uploads."""

    def sheet(*names: str, **reads_of: str) -> str:
        lines = ["sample,r1,r2"]
        for name in names:
            reads = f"source/{table.name}/{reads_of.get(name, name)}"
            lines.append(f"{name},{reads}_1.fastq.gz,{reads}_2.fastq.gz")
        path = tmp_path / "sheet.csv"
        path.write_text("\n".join(lines))
        return str(path)

    return sheet


def names_of(table: SampleTable) -> list[str]:
    return sorted(sample.name for sample in table.all())


def submit(aws: LocalAws, script: str = "sleep 60", **request: Any) -> str:
    """Start a job of our deployment."""
    job = bash_job(script, tags={TAG_DEPLOYMENT: "local"})
    job["parameters"] = {**job["parameters"], **request.pop("parameters", {})}
    return str(client(aws, "batch").submit_job(**{**job, **request})["jobId"])


def state_of(aws: LocalAws, job_id: str) -> dict[str, Any]:
    (job,) = client(aws, "batch").describe_jobs(jobs=[job_id])["jobs"]
    return dict(job)


def is_ended(aws: LocalAws, job_id: str) -> bool:
    job = state_of(aws, job_id)
    return bool(job.get("isTerminated") or job.get("isCancelled") or job["status"] == "FAILED")


def wait_until(aws: LocalAws, job_id: str, state: str) -> None:
    give_up = time.monotonic() + 30
    while state_of(aws, job_id)["status"] != state:
        assert time.monotonic() < give_up, state_of(aws, job_id)
        time.sleep(0.05)


def write_items(aws: LocalAws, table: SampleTable, *names: str, owner: str = OWNER) -> str:
    """Upload a manifest of items, as a run does for its jobs."""
    lines = [json.dumps({"sample": name, "table": table.name, "owner": owner}) for name in names]
    key = f"results/items/{table.name}.jsonl"
    client(aws, "s3").put_object(Bucket=BUCKET, Key=key, Body="\n".join(lines))
    return f"s3://{BUCKET}/{key}"


def place(table: SampleTable, name: str) -> str:
    return f"s3://{BUCKET}/results/{table.name}/graviton/{name}"


# register


def test_a_sheet_is_registered(
    aws: LocalAws, table: SampleTable, tool: Tool, sheet: Callable[..., str]
) -> None:
    put_reads(aws, table, "S1", "S2")

    assert tool("register", sheet("S1", "S2")) == (0, "2 added, 0 replaced, 0 were there\n")
    assert tool("register", sheet("S1", "S2")) == (0, "0 added, 0 replaced, 2 were there\n")

    sample = read(table, "S1")
    assert (sample.status, sample.r1) == (
        Status.TO_DO,
        f"s3://{BUCKET}/source/{table.name}/S1_1.fastq.gz",
    )


def test_a_listing_is_registered(aws: LocalAws, table: SampleTable, tool: Tool) -> None:
    put_reads(aws, table, "S1", "S2")

    code, _ = tool("register", "--listing", f"s3://{BUCKET}/source/{table.name}/")

    assert (code, names_of(table)) == (0, ["S1", "S2"])


def test_nothing_is_written_where_anything_is_wrong(
    aws: LocalAws, table: SampleTable, tool: Tool, sheet: Callable[..., str]
) -> None:
    put_reads(aws, table, "S1", "S3")
    add(table, "S3", r1="source/other_1.fastq.gz", r2="source/other_2.fastq.gz")
    add(table, "S4")
    path = sheet("S1", "S2", "x'; rm -rf /", "S3", "S5", S5="S4")
    Path(path).write_text(Path(path).read_text() + "\nS6,only")

    code, text = tool("register", path)

    assert code == 2
    assert names_of(table) == ["S3", "S4"]
    lines = text.splitlines()
    assert any(line.startswith("line 3: s3://") and "does not exist" in line for line in lines)
    assert any(line.startswith("line 4:") and "is no name" in line for line in lines)
    assert any(line.startswith("line 5: S3 is there already") for line in lines)
    assert any(line.startswith("line 6:") and "is used by S4 too" in line for line in lines)
    assert any(line.startswith("line 7: 2 fields in place of 3") for line in lines)


def test_a_sample_is_replaced_on_request_unless_somebody_works_on_it(
    aws: LocalAws, table: SampleTable, tool: Tool, sheet: Callable[..., str]
) -> None:
    put_reads(aws, table, "N1", "N2")
    add(table, "S1", status=4, outputs="s3://b/m", owner=OWNER)
    add(table, "S2", status=0, owner=OWNER, claimed_at=now())
    path = sheet("S1", "S2", S1="N1", S2="N2")

    code, text = tool("register", "--replace", path)
    assert (code, "line 3: S2 cannot be replaced" in text) == (2, True)
    assert read(table, "S1").status == Status.FINISHED

    code, text = tool("register", "--replace", sheet("S1", S1="N1"))
    assert (code, text) == (0, "0 added, 1 replaced, 0 were there\n")
    sample = read(table, "S1")
    assert (sample.status, sample.owner, sample.outputs) == (Status.TO_DO, None, None)
    assert sample.r1.endswith("N1_1.fastq.gz")


# reset and show


def test_reset_puts_back_to_the_beginning(table: SampleTable, tool: Tool) -> None:
    add(table, "S1", status=-1, owner=OWNER, reason="why", job_id="gone", attempt=3)
    add(table, "T1", status=4)

    assert tool("reset", "S*") == (0, "1 reset\n")

    sample = read(table, "S1")
    assert (sample.status, sample.owner, sample.reason, sample.attempt) == (0, None, None, 3)
    assert read(table, "T1").status == Status.FINISHED
    assert tool("reset", "S1", "nobody")[0] == 2


def test_what_a_run_works_on_is_reset_by_force_only(
    batch: LocalAws, table: SampleTable, tool: Tool
) -> None:
    job_id = submit(batch)
    add(table, "S1", status=1, owner=OWNER, job_id=job_id)
    add(table, "S2", owner=OWNER, claimed_at=now())
    add(table, "S3", status=-1)

    code, text = tool("reset", "S*")
    assert code == 2
    assert f"S1: job {job_id} of {OWNER} is" in text
    assert f"S2: {OWNER} claimed it" in text
    assert read(table, "S3").status == Status.FAILED

    assert tool("reset", "S*", "--force") == (0, "3 reset\n")
    assert is_ended(batch, job_id)


def test_show_prints_words_and_json_all_attributes(table: SampleTable, tool: Tool) -> None:
    add(table, "S1", status=-1, reason="r1 is cut off", attempt=2)
    add(table, "S2", status=3)

    _, text = tool("show")
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines] == ["SAMPLE", "S1", "S2"]
    assert "failed" in text
    assert "BAM in S3" in text
    assert "r1 is cut off" in text

    _, text = tool("show", "--status", "failed", "--json")
    (found,) = json.loads(text)
    assert Sample(**found) == read(table, "S1")
    assert tool("show", "S9")[0] == 2


def test_an_unknown_status_is_a_usage_error(tool: Tool) -> None:
    with pytest.raises(SystemExit) as refused:
        tool("show", "--status", "done")

    assert refused.value.code == 2


# reconcile


def test_a_table_that_tells_the_truth_has_no_drift(
    batch: LocalAws, table: SampleTable, tool: Tool
) -> None:
    job_id = submit(batch, parameters={"manifest": write_items(batch, table, "S2")})
    add(table, "S1", status=4, outputs=put_results(batch, place(table, "S1")))
    add(table, "S2", status=1, owner=OWNER, job_id=job_id)
    add(table, "S3", owner=OWNER, claimed_at=now())
    add(table, "S4")
    add(table, "S5", status=-1, owner=OWNER, reason="why")

    assert tool("reconcile") == (0, "no drift\n")


def test_done_without_output(aws: LocalAws, table: SampleTable, tool: Tool) -> None:
    add(table, "S1", status=4, outputs=f"{place(table, 'S1')}/manifest.json")
    uri = put_results(aws, place(table, "S2"))
    add(table, "S2", status=4, outputs=uri)
    client(aws, "s3").delete_object(
        Bucket=BUCKET, Key=f"results/{table.name}/graviton/S2/S.filtered.bam"
    )

    code, text = tool("reconcile")
    assert code == 1
    assert "S1: done without output: it is finished, but no manifest" in text
    assert "S2: done without output: it is finished, but filtered_bam is missing" in text
    assert text.endswith("2 drifts, 2 left\n")

    assert tool("reconcile", "--repair")[0] == 0
    assert [sample.status for sample in table.all()] == [0, 0]
    assert tool("reconcile") == (0, "no drift\n")


def test_output_without_done(aws: LocalAws, table: SampleTable, tool: Tool) -> None:
    claimed = {"owner": OWNER, "claimed_at": "2026-01-01T09:00:00Z"}
    done = put_results(aws, place(table, "S1"), created_at="2026-01-01T10:00:00Z")
    add(table, "S1", status=3, job_id="gone", **claimed)
    # This one has been reset since it was mapped: its outputs are of no account any more.
    put_results(aws, place(table, "S2"), created_at="2026-01-01T10:00:00Z")
    add(table, "S2", updated_at="2026-01-01T11:00:00Z")

    code, text = tool("reconcile")
    assert (code, text.splitlines()[0].split(":")[:2]) == (1, ["S1", " output without done"])

    assert tool("reconcile", "--repair")[0] == 0
    assert (read(table, "S1").status, read(table, "S1").outputs) == (Status.FINISHED, done)
    assert read(table, "S2").status == Status.TO_DO


def test_a_live_job_of_a_failed_sample(batch: LocalAws, table: SampleTable, tool: Tool) -> None:
    job_id = submit(batch)
    add(table, "S1", status=-1, owner=OWNER, job_id=job_id, reason="why")

    code, text = tool("reconcile")
    assert (code, f"it failed (why), but job {job_id} is" in text) == (1, True)

    assert tool("reconcile", "--repair")[0] == 0
    assert is_ended(batch, job_id)


def test_a_job_that_batch_repeats_is_no_drift(
    batch: LocalAws, table: SampleTable, tool: Tool
) -> None:
    script = 'test "$AWS_BATCH_JOB_ATTEMPT" = 2 && sleep 60; exit 1'
    job_id = submit(batch, script, retryStrategy={"attempts": 2})
    give_up = time.monotonic() + 30
    while not state_of(batch, job_id).get("attempts"):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    failed_at = "2026-01-01T00:00:00Z"
    add(table, "S1", status=-1, owner=OWNER, job_id=job_id, finished_at=failed_at)

    assert tool("reconcile") == (0, "no drift\n")


def test_a_job_of_others_is_shown_and_left_alone(
    batch: LocalAws, table: SampleTable, tool: Tool
) -> None:
    job_id = submit(batch, tags={TAG_DEPLOYMENT: "else"})
    add(table, "S1", status=-1, owner="else/dag/run", job_id=job_id)

    code, text = tool("reconcile", "--repair")

    assert (code, "not this deployment's" in text) == (1, True)
    assert not is_ended(batch, job_id)


def test_a_dead_job(batch: LocalAws, table: SampleTable, tool: Tool) -> None:
    job_id = submit(batch, "exit 3")
    wait_until(batch, job_id, "FAILED")
    add(table, "S1", status=1, owner=OWNER, job_id=job_id)
    add(table, "S2", status=2, owner=OWNER, job_id="gone")

    # For a while its run may say more of it.
    code, text = tool("reconcile")
    assert (code, "S1" in text, "S2: dead job" in text) == (1, False, True)

    assert tool("reconcile", "--repair", "--settled-after", "0")[0] == 0
    assert read(table, "S1").status == read(table, "S2").status == Status.FAILED
    assert f"job {job_id} is FAILED" in (read(table, "S1").reason or "")


def test_orphan_jobs_and_parts_of_array_jobs(
    batch: LocalAws, table: SampleTable, tool: Tool
) -> None:
    items = write_items(batch, table, "S1", "S2", "S3")
    job_id = submit(batch, parameters={"manifest": items}, arrayProperties={"size": 3})
    wait_until(batch, f"{job_id}:2", "RUNNING")
    add(table, "S1", status=1, owner=OWNER, job_id=f"{job_id}:0")
    add(table, "S2", status=0, owner="local/genomics_mapping/later", claimed_at=now())

    code, text = tool("reconcile")
    assert code == 1
    assert "S1" not in text
    assert f"S2: orphan job: job {job_id}:1 maps it for {OWNER}" in text
    assert f"S3: orphan job: job {job_id}:2" in text

    assert tool("reconcile", "--repair")[0] == 0
    assert is_ended(batch, f"{job_id}:1")
    assert is_ended(batch, f"{job_id}:2")
    assert not is_ended(batch, f"{job_id}:0")


def test_an_orphan_job_that_was_given_its_item_itself(
    batch: LocalAws, table: SampleTable, tool: Tool
) -> None:
    item = json.dumps({"sample": "S1", "table": table.name, "owner": OWNER})
    job_id = submit(batch, parameters={"manifest": item})
    wait_until(batch, job_id, "RUNNING")
    add(table, "S1", status=0, owner="local/genomics_mapping/later", claimed_at=now())

    code, text = tool("reconcile")

    assert code == 1
    assert f"S1: orphan job: job {job_id} maps it for {OWNER}" in text


def test_a_stale_claim_is_for_a_person_or_a_run_to_take(table: SampleTable, tool: Tool) -> None:
    long_ago = (datetime.now(UTC) - timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    add(table, "S1", owner=OWNER, claimed_at=long_ago)

    code, text = tool("reconcile", "--repair")

    assert (code, "S1: stale claim" in text) == (1, True)
    assert read(table, "S1").owner == OWNER
    assert tool("reset", "S1")[0] == 0


def test_a_sample_without_a_status_is_brought_back(table: SampleTable, tool: Tool) -> None:
    add(table, "S1", status=None)

    assert tool("reconcile")[0] == 1
    assert tool("reconcile", "--repair")[0] == 0
    assert read(table, "S1").status == Status.TO_DO


def test_the_command_takes_its_place_from_the_settings(aws: LocalAws, table: SampleTable) -> None:
    add(table, "S1")
    settings = json.loads(os.environ["AIRFLOW_VAR_AWS_JOBS"])
    settings["genomics"]["samples_table"] = table.name
    command = [sys.executable, "-m", "aws_jobs.sample_tools", "show", "--json"]
    environment = {
        **os.environ,
        **aws.environment(),
        "PYTHONPATH": str(ROOT / "plugins"),
        "AIRFLOW_VAR_AWS_JOBS": json.dumps(settings),
    }

    done = subprocess.run(command, env=environment, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["name"] == "S1"


def test_without_settings_the_place_must_be_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AIRFLOW_VAR_AWS_JOBS")

    assert main(["show", "--table", "reads"]) == 2
    assert "--table and --bucket are needed" in capsys.readouterr().err
