"""`map-sample` and `index-reference` whole: real bwa and samtools, S3 and DynamoDB of localaws."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.include.mapping_cases import (
    BUCKET,
    OWNER,
    PACKAGE,
    REFERENCE,
    TABLE,
    Mapping,
    path,
    python,
    run_tool,
    simulate,
    zipped,
)
from tests.include.test_read_mapping_rules import asked, keeps

READS = simulate()
OUTPUTS = ["S1.coverage.tidy.tsv", "S1.coverage.tsv", "S1.emitted.flagstat", "S1.emitted.stats"]
OUTPUTS += ["S1.filtered.bam", "S1.filtered.bam.bai", "S1.kept.flagstat", "S1.kept.stats"]


def results(mapping: Mapping) -> dict[str, bytes]:
    keys = mapping.keys("results/")
    return {Path(key).name: mapping.get(f"s3://{BUCKET}/{key}") for key in keys}


def manifest(mapping: Mapping, item) -> dict:
    return json.loads(mapping.get(item["done_uri"]))


def skipped(mapping: Mapping, item) -> dict[str, bool]:
    return {stage["name"]: stage["skipped"] for stage in manifest(mapping, item)["stages"]}


def tool(folder: Path, name: str, script: str) -> str:
    """A tool of the given name before the real one; return the PATH that finds it."""
    (folder / "tools").mkdir(exist_ok=True)
    program = folder / "tools" / name
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    return f"{folder / 'tools'}:{path()}"


def bwa_that(folder: Path, does: str) -> str:
    """A bwa that tells its version as the real one does and does something else with reads."""
    real = run_tool("bash", "-c", "command -v bwa").strip()
    return tool(folder, "bwa", f'if [ "$1" = mem ]; then {does}\nelse exec {real} "$@"; fi')


def records(bam: bytes) -> list[str]:
    done = subprocess.run(
        ["samtools", "view", "-"],
        env={**os.environ, "PATH": path()},
        input=bam,
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().splitlines()


def wait_for(what, seconds: float = 30.0):
    give_up = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < give_up, "it did not come"
        time.sleep(0.02)
    return found


def test_a_sample_ends_as_the_published_form_on_disk_would(mapping, tiny_index, tmp_path):
    item = mapping.item("S1", READS.gzips)

    done = mapping.map(item)

    assert done.code == 0, done.stderr
    assert "map-sample: S1: " in done.last_line
    for side, reads in (("1", READS.one), ("2", READS.two)):
        (tmp_path / f"{side}.fastq").write_text("".join(reads))
    mapped = ["bwa", "mem", "-K", "100000000", tiny_index, tmp_path / "1.fastq"]
    sam = run_tool(*mapped, tmp_path / "2.fastq").splitlines(keepends=True)
    kept = [line for line in sam if line.startswith("@") or keeps(in_order(line), asked())]
    (tmp_path / "kept.sam").write_text("".join(kept))
    expected = run_tool("samtools", "sort", "-O", "sam", tmp_path / "kept.sam").splitlines()
    found = records(results(mapping)["S1.filtered.bam"])
    assert found == [line for line in expected if not line.startswith("@")]
    assert 300 < len(found) < len(sam)
    assert any(int(record.split("\t")[1]) & 0x800 for record in found)


def in_order(line: str) -> str:
    """The fields that the rule is written for: the edit distance last."""
    fields = line.rstrip("\n").split("\t")
    [distance] = [field for field in fields[11:] if field.startswith("NM:i:")] or ["NM:i:0"]
    return "\t".join([*fields[:11], distance])


def test_the_manifest_says_what_was_made_of_what_and_everything_is_as_it_says(mapping):
    item = mapping.item("S1", READS.gzips, table=TABLE, owner=OWNER, attempt="0001.0002")
    mapping.claim("S1")

    done = mapping.map(item, AWS_BATCH_JOB_ID="job-1", IMAGE="acme/mapping@sha256:1")

    assert done.code == 0, done.stderr
    found, stored = manifest(mapping, item), results(mapping)
    assert sorted(stored) == sorted([*OUTPUTS, "manifest.json", "mapping.json"])
    assert sorted(Path(each["uri"]).name for each in found["outputs"].values()) == OUTPUTS
    for output in found["outputs"].values():
        assert len(mapping.get(output["uri"])) == output["size"]
    assert found["tools"]["bwa"].startswith("0.7.")
    assert (found["job_id"], found["attempt"]) == ("job-1", "0001.0002")
    assert found["image"] == "acme/mapping@sha256:1"
    assert found["resources"] == {"vcpus": 2, "memory_mib": 1500}
    assert found["inputs"]["r1"]["size"] == len(READS.gzips[0])
    names = [stage["name"] for stage in found["stages"]]
    assert names == ["reference", "mapping", "storing", "coverage"]
    assert found["peak_rss_mib"] >= max(stage["peak_rss_mib"] for stage in found["stages"]) > 30
    assert f"peak memory {found['peak_rss_mib']} MiB" in done.stderr
    qc = found["qc"]
    assert qc["reads"] == 800
    assert qc["mapped_share"] == round(qc["mapped"] / 800, 6)
    primary = [each for each in records(stored["S1.filtered.bam"]) if not flag(each) & 0x800]
    assert qc["kept"] == len(primary)
    row = mapping.row("S1")
    assert (row["status"], row["attempt"], row["attempt_key"]) == ("4", "1", "0001.0002.01")
    assert (row["job_id"], row["outputs"]) == ("job-1", item["done_uri"])
    assert "reason" not in row


def flag(record: str) -> int:
    return int(record.split("\t")[1])


def test_coverage_has_a_row_for_each_contig_and_none_of_what_cannot_be_measured(mapping):
    done = mapping.map(mapping.item("S1", READS.gzips))

    assert done.code == 0, done.stderr
    stored = results(mapping)
    head, *dense = [line.split("\t") for line in stored["S1.coverage.tsv"].decode().splitlines()]
    titles = ["Mean", "Trimmed Mean", "Covered Fraction", "Read Count", "Length"]
    assert head == ["Contig", *(f"S1 {title}" for title in titles)]
    assert dense[2:] == [
        ["tiny~absent", "0", "0", "0", "0", "900"],
        ["tiny~short", "0", "0", dense[3][3], dense[3][4], "150"],
    ]
    tidy = [line.split("\t") for line in stored["S1.coverage.tidy.tsv"].decode().splitlines()]
    assert tidy[0][:4] == ["sample", "contig", "length", "measurable"]
    assert tidy[1] == ["S1", "tiny~a", "6000", "true", *dense[0][1:5]]
    assert tidy[4] == ["S1", "tiny~short", "150", "false", "", "", *dense[3][3:5]]


def test_threads_and_memory_change_not_one_byte(mapping):
    many = simulate(pairs=1500)
    stored = []
    for vcpus in ("1", "4"):
        item = mapping.item("S1", many.gzips)
        item["output"] = f"s3://{BUCKET}/results/{vcpus}"
        item["done_uri"] = f"{item['output']}/manifest.json"
        done = mapping.map(item, JOB_VCPUS=vcpus, JOB_MEMORY_MIB=str(1000 * int(vcpus)))
        assert done.code == 0, done.stderr
        stored.append([mapping.get(f"{item['output']}/{name}") for name in OUTPUTS])

    assert stored[0] == stored[1]


def test_a_second_attempt_maps_only_if_something_has_changed(mapping):
    item = mapping.item("S1", READS.gzips, table=TABLE, owner=OWNER)
    mapping.claim("S1")
    assert mapping.map(item).code == 0
    before = results(mapping)

    again = mapping.map(item | {"attempt": "0000.0001"})

    assert "mapped by an earlier attempt" in again.stderr
    assert skipped(mapping, item) == {
        "reference": True,
        "mapping": True,
        "storing": True,
        "coverage": False,
    }
    assert {name: results(mapping)[name] for name in OUTPUTS} == {n: before[n] for n in OUTPUTS}
    assert mapping.row("S1")["attempt"] == "2"

    other = item | {"parameters": {"min_identity": "0.99"}, "attempt": "0000.0002"}
    assert mapping.map(other).code == 0
    assert not skipped(mapping, item)["mapping"]
    assert results(mapping)["S1.filtered.bam"] != before["S1.filtered.bam"]

    mapping.put(item["r1"], zipped([read.replace("I", "H") for read in READS.one]))
    assert mapping.map(other | {"attempt": "0000.0003"}).code == 0
    assert not skipped(mapping, item)["mapping"]

    mapping.put(f"{item['output']}/S1.filtered.bam", b"something else")
    assert mapping.map(other | {"attempt": "0000.0004"}).code == 0
    assert not skipped(mapping, item)["mapping"]


def test_after_a_failed_coverage_the_reads_are_not_mapped_again(mapping, tmp_path):
    item = mapping.item("S1", READS.gzips, table=TABLE, owner=OWNER)
    mapping.claim("S1")
    broken = tool(tmp_path, "coverm", "echo 'coverm: no such luck' >&2; exit 3")

    failed = mapping.map(item, PATH=broken)

    assert failed.code == 70
    assert failed.last_line == "map-sample: S1: coverm ended with 3: coverm: no such luck"
    assert mapping.row("S1")["status"] == "-1"
    assert mapping.row("S1")["reason"] == "coverm ended with 3: coverm: no such luck"
    assert not any(key.endswith("manifest.json") for key in mapping.keys("results/"))
    assert mapping.map(item, AWS_BATCH_JOB_ATTEMPT="2").code == 0
    assert skipped(mapping, item)["mapping"]
    assert mapping.row("S1")["status"] == "4"


def test_a_coverm_on_path_measures_and_the_table_has_the_samples_name(mapping, tmp_path):
    titles = "".join(f"\\tS1.filtered {title}" for title in ("Trimmed Mean", "Mean", "Length"))
    script = f"""[ "$1" = --version ] && echo 'coverm 0.7.0' && exit
echo "$@" > {tmp_path}/asked
printf 'Contig{titles}\\ntiny~a\\t1.5\\t1.25\\t6000\\n'"""
    asked_for = {"methods": ["trimmed_mean", "mean"], "trim_min": "20", "trim_max": 100}
    item = mapping.item("S1", READS.gzips, parameters=asked_for)

    done = mapping.map(item, PATH=tool(tmp_path, "coverm", script))

    assert done.code == 0, done.stderr
    table = b"Contig\tS1 Trimmed Mean\tS1 Mean\ntiny~a\t1.5\t1.25\n"
    assert results(mapping)["S1.coverage.tsv"] == table
    assert manifest(mapping, item)["tools"]["coverage"] == "coverm 0.7.0"
    options = (tmp_path / "asked").read_text()
    # 1 would mean 1 % to it.
    assert "--contig-end-exclusion 75 --trim-min 0.2 --trim-max 100" in options
    assert options.endswith("--methods trimmed_mean mean length\n")


def cut_at_a_member(reads: list[str]) -> bytes:
    whole = zipped(reads, members=4)
    return whole[: whole.rindex(b"\x1f\x8b\x08\x00")]


def renamed_far_in(reads: list[str]) -> list[str]:
    return [*reads[:-1], reads[-1].replace("@r", "@x")]


MANY = simulate(pairs=600)
BAD_READS = {
    "cut in the middle": ((READS.gzips[0], READS.gzips[1][:-100]), "is cut"),
    "cut at a member's border": ((cut_at_a_member(READS.one), READS.gzips[1]), "one of them"),
    # More than fits into the pipes: bwa leaves in the middle, and ends well.
    "much more of one side": ((zipped(READS.one * 30), READS.gzips[1]), "one of them is cut"),
    "not gzip": ((READS.gzips[0], "".join(READS.two).encode()), "is not gzip"),
    "the same content twice": ((READS.gzips[0], READS.gzips[0]), "the same content"),
    "other mates far in": (
        (zipped(MANY.one), zipped(renamed_far_in(MANY.two))),
        "paired reads have different names",
    ),
}


@pytest.mark.parametrize(("reads", "why"), BAD_READS.values(), ids=BAD_READS.keys())
def test_bad_reads_end_the_job_with_the_reason_and_leave_nothing(mapping, reads, why):
    item = mapping.item("S1", reads, table=TABLE, owner=OWNER)
    mapping.claim("S1")

    done = mapping.map(item)

    assert (done.code, why in done.last_line) == (65, True), done.stderr
    assert mapping.keys("results/") == []
    row = mapping.row("S1")
    assert row["status"] == "-1"
    assert done.last_line == f"map-sample: S1: {row['reason']}"


def test_what_is_missing_is_listed(mapping):
    item = mapping.item("S1", (READS.gzips[0],))

    mate = mapping.map(item)
    assert (mate.code, item["r2"] in mate.last_line) == (66, True), mate.stderr

    mapping.put(item["r2"], READS.gzips[1])
    for suffix in (".bwt", ".sa"):
        mapping.s3.delete_object(Bucket=BUCKET, Key=f"ref_data/tiny.fa{suffix}")
    index = mapping.map(item)
    assert index.code == 66
    assert index.last_line == (
        "map-sample: S1: the reference is not whole: not there, or not readable:"
        f" {REFERENCE}.bwt, {REFERENCE}.sa"
    )


def test_an_index_of_another_reference_is_refused(mapping):
    pac = mapping.get(f"{REFERENCE}.pac")
    mapping.put(f"{REFERENCE}.pac", pac[:-10])

    done = mapping.map(mapping.item("S1", READS.gzips))

    assert (done.code, "does not belong together" in done.last_line) == (65, True), done.stderr


def test_an_index_that_bwa_cannot_use_fails_with_its_last_words(mapping):
    size = len(mapping.get(f"{REFERENCE}.sa"))
    mapping.put(f"{REFERENCE}.sa", b"\0" * size)

    done = mapping.map(mapping.item("S1", READS.gzips))

    assert done.code == 70
    assert "SA-BWT inconsistency" in done.last_line, done.stderr


def test_a_killed_bwa_fails_the_job_and_nothing_is_stored(mapping, tmp_path):
    killed = bwa_that(tmp_path, "kill -KILL $$")

    done = mapping.map(mapping.item("S1", READS.gzips), PATH=killed)

    assert done.code == 70
    assert done.last_line == "map-sample: S1: bwa mem was killed by SIGKILL"
    assert mapping.keys("results/") == []
    assert list(tmp_path.glob("map-sample-*")) == []


def test_a_bwa_that_swallows_reads_in_silence_is_noticed(mapping, tmp_path):
    real = run_tool("bash", "-c", "command -v bwa").strip()
    losing = bwa_that(tmp_path, f'{real} "$@" | head -n 100')

    done = mapping.map(mapping.item("S1", READS.gzips), PATH=losing)

    assert done.code == 70, done.stderr
    assert mapping.keys("results/") == []


def test_a_sorter_that_ends_early_stops_everything_before_it(mapping, tmp_path):
    real = run_tool("bash", "-c", "command -v samtools").strip()
    script = f'[ "$1" = sort ] && echo "no space left" >&2 && exit 1; exec {real} "$@"'

    done = mapping.map(
        mapping.item("S1", simulate(pairs=3000).gzips), PATH=tool(tmp_path, "samtools", script)
    )

    assert done.code == 70
    assert done.last_line == "map-sample: S1: samtools sort ended with 1: no space left"


def test_a_name_that_is_none_and_bad_parameters_are_told_together(mapping):
    item = mapping.item("S1", READS.gzips)
    item |= {"sample": "x'; rm -rf /", "parameters": {"min_identity": 1}}

    done = mapping.map(item)

    assert done.code == 65
    assert """"x'; rm -rf /" is no name""" in done.last_line
    assert "1 means 1 %" in done.last_line
    assert mapping.keys("results/") == []


def test_an_array_child_takes_its_own_line(mapping):
    items = [mapping.item(name, READS.gzips) for name in ("S0", "S1")]
    items[1]["parameters"] = {"methods": ["mean"], "trim_min": "0.2"}

    done = mapping.run("map-sample", *items, AWS_BATCH_JOB_ARRAY_INDEX="1")

    assert done.code == 0, done.stderr
    assert "S1.filtered.bam" in results(mapping)
    assert "S0.filtered.bam" not in results(mapping)
    warning = "no effect of trim_min: trimmed_mean is not among the methods"
    assert f"map-sample: S1: {warning}" in done.stderr
    assert manifest(mapping, items[1])["warnings"] == [warning]
    beyond = mapping.run("map-sample", *items, AWS_BATCH_JOB_ARRAY_INDEX="2")
    assert (beyond.code, "has no line 2" in beyond.last_line) == (66, True)


@pytest.mark.parametrize(
    "row",
    [{"attempt_key": {"S": "0001.0000.01"}}, {"owner": {"S": "acme/genomics_mapping/other"}}],
    ids=["a later attempt", "another owner"],
)
def test_a_sample_that_is_anothers_is_left_alone(mapping, row):
    item = mapping.item("S1", READS.gzips, table=TABLE, owner=OWNER)
    mapping.claim("S1", **row)
    before = mapping.row("S1")

    done = mapping.map(item)

    assert (done.code, "superseded" in done.last_line) == (75, True), done.stderr
    assert mapping.row("S1") == before
    assert mapping.keys("results/") == []


def test_an_attempt_that_is_superseded_while_it_maps_stores_nothing(mapping, tmp_path):
    item = mapping.item("S1", READS.gzips, table=TABLE, owner=OWNER)
    mapping.claim("S1")
    real = run_tool("bash", "-c", "command -v bwa").strip()
    held = bwa_that(tmp_path, f'until [ -e {tmp_path}/go ]; do sleep 0.05; done; {real} "$@"')
    process = mapping.start("map-sample", item, PATH=held)
    wait_for(lambda: mapping.row("S1")["status"] == "1")

    mapping.claim("S1", attempt_key={"S": "0001.0000.01"})
    (tmp_path / "go").touch()
    process.communicate(timeout=60)

    assert process.returncode == 75
    assert mapping.row("S1")["status"] == "0"
    assert mapping.keys("results/") == []


def test_sigterm_ends_all_processes_and_says_so(mapping, tmp_path):
    item = mapping.item("S1", READS.gzips, table=TABLE, owner=OWNER)
    mapping.claim("S1")
    held = bwa_that(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    process = mapping.start("map-sample", item, PATH=held)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    bwa = int((tmp_path / "pid").read_text())

    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 143, stderr
    assert stderr.splitlines()[-1].startswith("map-sample: S1: terminated by SIGTERM")
    assert not Path(f"/proc/{bwa}").exists()
    assert processes_in(tmp_path) == []
    assert list(tmp_path.glob("map-sample-*")) == []
    assert mapping.row("S1")["status"] == "-1"


def processes_in(folder: Path) -> list[str]:
    """The processes that stand in a folder, or below it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(str(folder)):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_sigterm_leaves_no_half_of_an_upload(mapping, tmp_path):
    large = tmp_path / "large.bam"
    large.write_bytes(os.urandom(80 << 20))
    # From the second part on each takes longer than the test.
    slow = {"service": "s3", "operation": "UploadPart", "kind": "delay", "seconds": 2, "skip": 1}
    mapping.aws.set_faults([slow])
    code = (
        "import sys; from pathlib import Path; from functools import partial;"
        "from read_mapping.job import Job; from read_mapping.objects import ObjectStore;"
        "store = lambda job: ObjectStore().store(Path(sys.argv[1]), sys.argv[2]).uri;"
        "sys.exit(Job('store').run(store))"
    )
    environ = {**os.environ, **mapping.aws.environment(), "PYTHONPATH": str(PACKAGE)}
    command = [python(), "-c", code, str(large), f"s3://{BUCKET}/results/large.bam"]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: mapping.aws.faults()[0]["struck"])

    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)

    assert process.returncode == 143, stderr
    assert mapping.keys("results/") == []
    assert "Uploads" not in mapping.s3.list_multipart_uploads(Bucket=BUCKET)


def test_status_writes_survive_throttling_and_lost_answers(mapping):
    item = mapping.item("S1", READS.gzips, table=TABLE, owner=OWNER)
    mapping.claim("S1")
    update = {"service": "dynamodb", "operation": "UpdateItem"}
    mapping.aws.set_faults(
        [
            {**update, "kind": "throttle", "share": 0.5},
            {**update, "kind": "lost_answer", "count": 3},
        ]
    )

    done = mapping.map(item)

    assert done.code == 0, done.stderr
    assert (mapping.row("S1")["status"], mapping.row("S1")["attempt"]) == ("4", "1")


def test_the_index_is_made_once_and_another_references_is_refused(mapping):
    whole = mapping.run("index-reference", uri=REFERENCE)
    assert (whole.code, whole.last_line) == (0, "index-reference: made .fai")
    made = mapping.get(f"{REFERENCE}.bwt")
    mapping.s3.delete_object(Bucket=BUCKET, Key="ref_data/tiny.fa.bwt")

    again = mapping.run("index-reference", uri=REFERENCE)

    assert (again.code, again.last_line) == (0, "index-reference: made .bwt")
    assert mapping.get(f"{REFERENCE}.bwt") == made
    assert mapping.run("index-reference", uri=REFERENCE).last_line.endswith("the index is whole")

    mapping.s3.delete_object(Bucket=BUCKET, Key="ref_data/tiny.fa.bwt")
    mapping.put(f"{REFERENCE}.sa", b"of another")
    refused = mapping.run("index-reference", uri=REFERENCE)
    assert (refused.code, f"{REFERENCE}.sa" in refused.last_line) == (65, True)
