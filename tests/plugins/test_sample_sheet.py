"""Where samples come from is checked at once, with the place of every problem."""

from __future__ import annotations

import itertools

import pytest

from aws_jobs.sample_sheet import (
    SheetRow,
    list_reads,
    pair_reads,
    parse_sheet,
    row_problems,
    unreadable,
)
from localaws.process import LocalAws
from tests.plugins.sample_tables import BUCKET, READS, client

_prefixes = (f"source/listing-{number}" for number in itertools.count())


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_sheet_is_read_with_its_columns_in_any_order(separator: str) -> None:
    lines = ["r1|sample|r2", "source/a_1.fq.gz|S1|s3://else/a_2.fq.gz", "", " b_1.fq.gz |S2|b_2"]
    text = "\ufeff" + "\r\n".join(lines).replace("|", separator)

    rows, problems = parse_sheet(text, "data")

    assert problems == []
    assert rows == [
        SheetRow("line 2", "S1", "s3://data/source/a_1.fq.gz", "s3://else/a_2.fq.gz"),
        SheetRow("line 4", "S2", "s3://data/b_1.fq.gz", "s3://data/b_2"),
    ]


@pytest.mark.parametrize("text", ["", "S1,a_1.fq.gz,a_2.fq.gz\n", "sample,r1\nS1,a\n"])
def test_a_sheet_without_its_header_is_refused(text: str) -> None:
    rows, (problem,) = parse_sheet(text, "data")

    assert rows == []
    assert problem.startswith("line 1: the columns are")


def test_every_problem_of_a_sheet_comes_with_its_line() -> None:
    text = """sample,r1,r2
S1,a_1.fq.gz,a_2.fq.gz
S1,b_1.fq.gz,b_2.fq.gz
x'; rm -rf /,c_1.fq.gz,c_2.fq.gz
S4,d_1.fq.gz,d_1.fq.gz
S5,,e_2.fastq
S6,a_1.fq.gz,f_2.fq.gz
S7,g_1.fq.gz
"S8","h_1;ls.fq.gz",h_2.fq.gz
"""
    rows, problems = parse_sheet(text, "data")
    problems += row_problems(rows)

    assert [problem.split(":")[0] for problem in problems] == [
        *("line 8", "line 3", "line 4", "line 5", "line 6", "line 6", "line 9"),
        *("line 2", "line 7"),
    ]
    text = "\n".join(problems)
    assert "S1 was on line 2 already" in text
    assert 'rm -rf /" is no name' in text
    assert "r1 and r2 are the same" in text
    assert "line 2: s3://data/a_1.fq.gz is used by line 7 too" in text


def test_a_sheet_with_a_header_only_is_refused() -> None:
    assert parse_sheet("sample,r1,r2\n", "data") == ([], ["the sheet has no rows"])


@pytest.mark.parametrize("form", ["{}_{}.fastq.gz", "{}_R{}.fq.gz", "{}_R{}_001.fastq.gz"])
def test_mates_are_paired_by_the_names_of_sequencers(form: str) -> None:
    uris = [f"s3://b/source/{form.format(name, mate)}" for name in ("S1", "S_2") for mate in "21"]

    rows, problems = pair_reads([*uris, "s3://b/source/README.txt"])

    assert problems == []
    assert [(row.sample, row.r1, row.r2) for row in rows] == [
        ("S1", uris[1], uris[0]),
        ("S_2", uris[3], uris[2]),
    ]


def test_every_problem_of_a_listing_is_named() -> None:
    rows, problems = pair_reads(
        [
            "s3://b/S1_1.fastq.gz",
            "s3://b/S1_2.fastq.gz",
            "s3://b/S2_2.fastq.gz",
            "s3://b/S3.fastq.gz",
            "s3://b/S4_1.fastq",
            "s3://b/x/S1_1.fastq.gz",
        ]
    )

    assert rows == []
    assert sorted(problems) == [
        "s3://b/S1_1.fastq.gz, s3://b/x/S1_1.fastq.gz: are reads of the same name",
        "s3://b/S2_2.fastq.gz: its mate S2_1 is missing",
        "s3://b/S3.fastq.gz: is no <sample>_1.fastq.gz or <sample>_2.fastq.gz",
        "s3://b/S4_1.fastq: is no <sample>_1.fastq.gz or <sample>_2.fastq.gz",
    ]


def test_reads_below_a_place_are_listed(aws: LocalAws) -> None:
    prefix = next(_prefixes)
    for name in ("S1_1.fastq.gz", "S1_2.fastq.gz"):
        client(aws, "s3").put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=READS)

    rows, problems = list_reads(client(aws, "s3"), f"s3://{BUCKET}/{prefix}")

    assert problems == []
    assert [row.r2 for row in rows] == [f"s3://{BUCKET}/{prefix}/S1_2.fastq.gz"]


def test_a_place_without_reads_is_a_problem(aws: LocalAws) -> None:
    _, problems = list_reads(client(aws, "s3"), f"s3://{BUCKET}/source/nothing/")

    assert problems == ["there are no reads"]


def test_reads_are_looked_at_by_their_first_bytes(aws: LocalAws) -> None:
    prefix = next(_prefixes)
    s3 = client(aws, "s3")
    for name, body, storage in (
        ("good", READS, "STANDARD"),
        ("empty", b"", "STANDARD"),
        ("text", b"@r/1\n", "STANDARD"),
        ("archived", READS, "DEEP_ARCHIVE"),
    ):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=body, StorageClass=storage)
    uris = [f"s3://{BUCKET}/{prefix}/{name}" for name in ("good", "empty", "text", "archived")]

    found = unreadable(s3, [*uris, f"{uris[0]}-not", "s3://localaws-no-bucket/key"])

    why = {uri.rsplit("/", 1)[-1]: problem.split(" ", 1)[1] for uri, problem in found.items()}
    assert why == {
        "good-not": "does not exist",
        "empty": "is empty",
        "text": "is not gzipped",
        "archived": "is archived: restore it first",
        "key": "does not exist: there is no such bucket",
    }
    assert unreadable(s3, [uris[2]], gzipped=False) == {}
