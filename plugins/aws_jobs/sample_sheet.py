"""Where samples come from: a sheet, or a listing of the reads, with every problem at once."""

from __future__ import annotations

import csv
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently, error_code, error_message, is_passing
from aws_jobs.s3_uri import split_uri
from aws_jobs.samples import name_problem, reads_uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

COLUMNS = ("sample", "r1", "r2")

_BUDGET = 120.0
_THREADS = 8
_GZIP = b"\x1f\x8b"
# The characters that need no quoting in a URI, as the mapping job takes them.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_READS = re.compile(
    r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/"
    r"[A-Za-z0-9][A-Za-z0-9!_.*'()/=+@:,~-]{0,900}\.(fastq|fq)\.gz"
)
# As sequencers' software names mates: S1_1.fastq.gz, S1_R1.fastq.gz, S1_R1_001.fastq.gz.
_MATE = re.compile(r"(?P<sample>.+?)_R?(?P<mate>[12])(_001)?\.(fastq|fq)\.gz")
_FASTQ = re.compile(r".*\.(fastq|fq)(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True)
class SheetRow:
    """A sample as somebody wants it registered.

    :param place: where it was said, as ``line 3``.
    """

    place: str
    sample: str
    r1: str
    r2: str


def parse_sheet(text: str, bucket: str) -> tuple[list[SheetRow], list[str]]:
    r"""Read a sheet with the columns sample, r1 and r2, separated by commas or tabs.

    Reads are addresses in S3, or keys of the bucket.

    :returns: the rows, and every problem with its line.

    >>> parse_sheet("sample,r1,r2\nS1,a_1.fq.gz,a_2.fq.gz\n", "data")[1]
    []
    """
    lines = text.removeprefix("\ufeff").splitlines()
    separator = "\t" if lines and "\t" in lines[0] else ","
    reader = csv.reader(lines, delimiter=separator)
    header = [name.strip() for name in next(reader, [])]
    if sorted(header) != sorted(COLUMNS):
        return [], [f"line 1: the columns are {', '.join(header) or 'missing'}, not sample, r1, r2"]
    rows, problems = [], []
    for fields in reader:
        place = f"line {reader.line_num}"
        values = [field.strip() for field in fields]
        if not any(values):
            continue
        if len(values) != len(header):
            problems.append(f"{place}: {len(values)} fields in place of {len(header)}")
            continue
        named = dict(zip(header, values, strict=True))
        r1, r2 = (reads_uri(named[column], bucket) for column in ("r1", "r2"))
        rows.append(SheetRow(place, named["sample"], r1, r2))
    if not rows and not problems:
        problems.append("the sheet has no rows")
    return rows, problems


def list_reads(s3: Any, prefix_uri: str) -> tuple[list[SheetRow], list[str]]:
    """Pair the reads below a place by their names, ``<sample>_1.fastq.gz`` with ``_2``.

    :param prefix_uri: ``s3://bucket/source/``.
    :returns: a row for each sample, and every object that does not fit.
    """
    bucket, prefix = split_uri(f"{prefix_uri.rstrip('/')}/")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = call_patiently(
        lambda: [entry["Key"] for page in pages for entry in page.get("Contents", [])],
        budget=_BUDGET,
    )
    return pair_reads([f"s3://{bucket}/{key}" for key in keys])


def pair_reads(uris: Iterable[str]) -> tuple[list[SheetRow], list[str]]:
    """Pair reads by the names of their files.

    >>> pair_reads(["s3://b/S1_1.fastq.gz"])[1]
    ['s3://b/S1_1.fastq.gz: its mate S1_2 is missing']
    """
    mates: dict[str, dict[str, list[str]]] = {}
    problems = []
    for uri in sorted(uris):
        name = uri.rsplit("/", 1)[-1]
        if match := _MATE.fullmatch(name):
            mates.setdefault(match["sample"], {}).setdefault(match["mate"], []).append(uri)
        elif _FASTQ.fullmatch(name):
            problems.append(f"{uri}: is no <sample>_1.fastq.gz or <sample>_2.fastq.gz")
    rows = []
    for sample, found in mates.items():
        twice = [uris for uris in found.values() if len(uris) > 1]
        problems += [f"{', '.join(uris)}: are reads of the same name" for uris in twice]
        for mate, other in (("1", "2"), ("2", "1")):
            if mate in found and other not in found:
                problems.append(f"{found[mate][0]}: its mate {sample}_{other} is missing")
        if not twice and len(found) == 2:
            rows.append(SheetRow(found["1"][0], sample, found["1"][0], found["2"][0]))
    if not rows and not problems:
        problems.append("there are no reads")
    return rows, problems


def row_problems(rows: Sequence[SheetRow]) -> list[str]:
    """Say what is wrong with the rows as they are written, each with its place."""
    problems = []
    seen: dict[str, SheetRow] = {}
    for row in rows:
        why = [problem for problem in (name_problem(row.sample),) if problem]
        if row.sample in seen:
            why.append(f"{row.sample} was on {seen[row.sample].place} already")
        seen.setdefault(row.sample, row)
        problems += [f"{row.place}: {each}" for each in [*why, *pair_problems(row.r1, row.r2)]]
    by_place = {row.place: (row.r1, row.r2) for row in rows}
    problems += [f"{place}: {why}" for place, why in shared_reads(by_place).items()]
    return problems


def pair_problems(r1: str, r2: str) -> list[str]:
    """Say what is wrong with the addresses of a pair of reads."""
    problems = [
        f"{name} is missing" if not uri else f"{name} is no address of gzipped FASTQ: {uri!r}"
        for name, uri in (("r1", r1), ("r2", r2))
        if not _READS.fullmatch(uri)
    ]
    if r1 and r1 == r2:
        problems.append(f"r1 and r2 are the same: {r1}")
    return problems


def shared_reads(pairs: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Say who uses reads that somebody else uses too."""
    users: dict[str, list[str]] = {}
    for name, pair in pairs.items():
        for uri in set(pair) - {""}:
            users.setdefault(uri, []).append(name)
    problems: dict[str, list[str]] = {}
    for uri, names in sorted(users.items()):
        for name in names if len(names) > 1 else ():
            others = ", ".join(other for other in names if other != name)
            problems.setdefault(name, []).append(f"{uri} is used by {others} too")
    return {name: "; ".join(why) for name, why in problems.items()}


def unreadable(s3: Any, uris: Iterable[str], *, gzipped: bool = True) -> dict[str, str]:
    """Look at the first bytes of objects, and say which cannot be used and why."""
    wanted = sorted(set(uris))
    with ThreadPoolExecutor(_THREADS) as pool:
        why = pool.map(lambda uri: _object_problem(s3, uri, gzipped=gzipped), wanted)
        return {uri: problem for uri, problem in zip(wanted, why, strict=True) if problem}


def _object_problem(s3: Any, uri: str, *, gzipped: bool) -> str | None:
    """One call: the answer to a range says whether it exists, is empty, archived, and gzipped."""
    bucket, key = split_uri(uri)
    try:
        answer = call_patiently(
            partial(s3.get_object, Bucket=bucket, Key=key, Range="bytes=0-1"), budget=_BUDGET
        )
        head = answer["Body"].read()
    except Exception as error:
        if problem := _PROBLEMS.get(error_code(error)):
            return f"{uri} {problem}"
        if error_code(error) and not is_passing(error):
            return f"{uri} cannot be read: {error_message(error)}"
        raise
    return f"{uri} is not gzipped" if gzipped and head != _GZIP else None


# By S3's error code.
_PROBLEMS = {
    "NoSuchKey": "does not exist",
    "NoSuchBucket": "does not exist: there is no such bucket",
    "InvalidRange": "is empty",
    "InvalidObjectState": "is archived: restore it first",
}
