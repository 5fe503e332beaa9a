"""A first look at raw data."""

from __future__ import annotations

import pytest

from aws_jobs.raw_csv import HEAD_BYTES, head_problems

COLUMNS = ["year", "month"]


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (b"", "empty"),
        (b"year,month\n", "no rows"),
        (b"year,month\n\n  \n", "no rows"),
        (b"year,day\n1,2\n", "missing month; unknown day"),
        (b"month,year\n1,2\n", "order differs"),
        (b"\x1f\x8b\x08\x00binary", "not UTF-8"),
        (b"year,month\n1,\x00\n", "zero bytes"),
    ],
)
def test_what_cannot_be_used_is_named(head: bytes, problem: str) -> None:
    assert problem in head_problems(head, COLUMNS)[0]


@pytest.mark.parametrize(
    "head", [b"year,month\n1,2", b'"year","month"\r\n1,2\r\n', b"\xef\xbb\xbfyear,month\n1,2"]
)
def test_what_can_be_used_passes(head: bytes) -> None:
    assert head_problems(head, COLUMNS) == []


def test_a_character_that_is_cut_at_the_end_of_the_head_is_no_problem() -> None:
    head = ("year,month\n" + "1,ää\n" * HEAD_BYTES).encode()[:HEAD_BYTES]
    assert head.endswith(b"\xc3"), "the head must end within a character"

    assert head_problems(head, COLUMNS) == []
