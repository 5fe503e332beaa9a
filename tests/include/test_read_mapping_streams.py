"""Objects and gzip as streams: broken connections, changed objects, every kind of cut."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import zlib

import pytest
from botocore.exceptions import ClientError, IncompleteReadError
from botocore.response import StreamingBody

from tests.include.mapping_cases import load

exceptions, fastq, gunzip, objects, resources = (
    load(name) for name in ("exceptions", "fastq", "gunzip", "objects", "resources")
)
URI = "s3://acme-genomes/source/S1_1.fastq.gz"
CONTENT = bytes(range(256)) * 5000


class Breaking:
    """S3 whose answers break off: each after so many bytes as the next of the list says."""

    def __init__(self, *breaks: int, etag: str = '"1"') -> None:
        self.breaks = list(breaks)
        self.etag = etag
        self.asked: list[str | None] = []

    def get_object(self, *, IfMatch, Range=None, **_):
        self.asked.append(Range)
        if IfMatch != self.etag:
            raise failure(412)
        start = int(Range.removeprefix("bytes=").removesuffix("-")) if Range else 0
        rest = CONTENT[start:]
        if self.breaks and self.breaks[0] is None:
            self.breaks.pop(0)
            raise failure(503)
        sent = rest[: self.breaks.pop(0)] if self.breaks else rest
        # The body that boto3 gives: it notices an end before the announced length.
        return {"Body": StreamingBody(io.BytesIO(sent), len(rest))}


def failure(status: int) -> ClientError:
    answer = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(objects.time, "sleep", lambda _: None)


def read(client) -> bytes:
    stored = objects.Stored(URI, len(CONTENT), '"1"', None)
    return b"".join(objects.ObjectStore(client).read(stored))


def test_a_read_goes_on_where_the_connection_broke():
    s3 = Breaking(300_000, None, 700_000)

    assert read(s3) == CONTENT
    assert s3.asked == [None, "bytes=300000-", "bytes=300000-", "bytes=1000000-"]


def test_a_read_that_gets_no_further_is_given_up():
    s3 = Breaking(1000, *[0] * 20)

    with pytest.raises(exceptions.MappingError, match="beyond byte 1,000"):
        read(s3)

    assert len(s3.asked) == objects.READ_TRIES


def test_an_object_that_changes_under_the_read_is_noticed():
    s3 = Breaking(1000)
    chunks = objects.ObjectStore(s3).read(objects.Stored(URI, len(CONTENT), '"1"', None))
    next(chunks)
    s3.etag = '"2"'

    with pytest.raises(exceptions.InputDataError, match="replaced while it was read"):
        list(chunks)


def test_botocore_tells_a_short_body():
    """What the read relies on."""
    with pytest.raises(IncompleteReadError):
        list(StreamingBody(io.BytesIO(b"12"), 3).iter_chunks())


def pieces(data: bytes, size: int):
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_many_members_and_padding_are_one_text(size):
    data = gzip.compress(b"ACGT" * 99) + gzip.compress(b"") + gzip.compress(b"TTT") + b"\0" * 512

    assert b"".join(gunzip.inflate(pieces(data, size), "x")) == b"ACGT" * 99 + b"TTT"


def test_a_cut_anywhere_in_a_member_is_noticed():
    data = gzip.compress(b"ACGT" * 9)
    for cut in range(1, len(data)):
        with pytest.raises(exceptions.InputDataError, match="is cut"):
            list(gunzip.inflate([data[:cut]], "x"))


def test_what_is_damaged_or_follows_the_gzip_is_noticed():
    data = bytearray(gzip.compress(os.urandom(999)))
    data[500] ^= 1
    with pytest.raises(exceptions.InputDataError, match="damaged"):
        list(gunzip.inflate([bytes(data)], "x"))

    with pytest.raises(exceptions.InputDataError, match="not gzip"):
        list(gunzip.inflate([gzip.compress(b"x") + b"garbage"], "x"))


def fastq_of(text: bytes, monkeypatch):
    content = zlib.compress(text, wbits=31)
    monkeypatch.setattr(objects.ObjectStore, "read", lambda *_: iter([content]))
    return fastq.Fastq(
        objects.ObjectStore(Breaking()), objects.Stored(URI, len(content), '"1"', None)
    )


ONE = b"".join(b"@r%d/1\nACGT\n+\nIIII\n" % number for number in range(50))
TWO = ONE.replace(b"/1", b"/2").replace(b"ACGT", b"GGGG")


@pytest.mark.parametrize(
    ("text", "why"),
    [(b">r0\nACGT\n", "starts with b'>r0"), (b"", "holds no reads"), (b"\n\n", "no FASTQ")],
)
def test_what_is_no_fastq_is_told_before_anything_starts(monkeypatch, text, why):
    with pytest.raises(exceptions.InputDataError, match=why):
        fastq_of(text, monkeypatch)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (ONE, "hold the same reads"),
        (TWO.replace(b"@r30/", b"@x30/"), "are no mates: their read 31 is 'r30' and 'x30'"),
        (TWO.replace(b"@r0/2", b"  "), "are no mates"),
    ],
)
def test_the_first_reads_of_both_sides_must_be_mates(monkeypatch, other, why):
    one, two = fastq_of(ONE, monkeypatch), fastq_of(TWO, monkeypatch)
    fastq.check_mates(one, two)

    with pytest.raises(exceptions.InputDataError, match=why):
        fastq.check_mates(one, fastq_of(b"@" + other[1:], monkeypatch))


def test_a_cut_within_a_read_is_noticed_though_its_gzip_is_whole(monkeypatch):
    reads = fastq_of(ONE[:-8], monkeypatch)

    with pytest.raises(exceptions.InputDataError, match="no whole number of reads"):
        poured(reads)


def poured(reads) -> bytes:
    read, write = os.pipe()
    reads.pour(write)
    with open(read, "rb") as file:
        return file.read()


@pytest.mark.parametrize("end", [b"\n", b""])
def test_reads_are_counted_with_or_without_the_last_lines_end(monkeypatch, end):
    text = b"@r0/1 first\nACGT\n+\nIIII\n@r1/1\nTTTT\n+\nIIII" + end
    reads = fastq_of(text, monkeypatch)

    assert reads.first_reads() == [(b"r0", b"ACGT"), (b"r1", b"TTTT")]
    assert poured(reads) == text
    assert reads.reads == 2


def test_the_most_memory_is_that_of_a_tree_of_processes():
    hold = "x = b'1' * (80 << 20); print(flush=True); input()"
    before = resources.tree_rss_mib(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        during = resources.tree_rss_mib(os.getpid())
        child.stdin.close()

    assert 75 < during - before < 150


@pytest.mark.parametrize(
    ("files", "vcpus", "memory"),
    [
        ({"cpu.max": "200000 100000", "memory.max": "1073741824"}, 2, 1024),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ({}, None, None),
    ],
)
def test_a_job_takes_its_containers_limits_else_the_machines(
    tmp_path, monkeypatch, files, vcpus, memory
):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    monkeypatch.delenv("JOB_VCPUS", raising=False)
    monkeypatch.delenv("JOB_MEMORY_MIB", raising=False)

    found = resources.Resources.of_job()

    assert found.vcpus == (vcpus or len(os.sched_getaffinity(0)))
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert found.memory_mib == (memory or machine)


def test_what_the_submission_says_counts_more(tmp_path, monkeypatch):
    monkeypatch.setenv("JOB_VCPUS", "64")
    monkeypatch.setenv("JOB_MEMORY_MIB", "500000")

    found = resources.Resources.of_job()

    assert (found.vcpus, found.memory_mib, found.sort_threads) == (64, 500000, 8)
    # All of the sort together, beside an index of 300 GiB.
    assert found.sort_memory_mib(307200) * 8 < 500000 - 307200
    assert found.sort_memory_mib(10**6) == resources.SMALLEST_SORT_MIB


def test_a_tool_that_the_kernel_killed_for_memory_ends_the_job_as_if_killed_itself(
    tmp_path, monkeypatch
):
    processes = load("processes")
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 0\noom_kill 0\n")

    with processes.Processes(tmp_path) as stage:
        stage.start("bwa mem", ["sh", "-c", f"echo oom_kill 1 > {events}; kill -KILL $$"])
        with pytest.raises(exceptions.OutOfMemoryError) as error:
            stage.wait()

    assert error.value.exit_code == 137
    assert str(error.value) == "bwa mem was killed by SIGKILL: the job is out of memory"
