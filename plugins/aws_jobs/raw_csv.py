"""A first look at a raw CSV object, before a cluster is paid for."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Enough for a header and the first rows.
HEAD_BYTES = 65_536


def head_problems(head: bytes, columns: Sequence[str]) -> list[str]:
    r"""Say what is wrong with the beginning of a CSV object.

    :param head: its first bytes, as many as there are up to ``HEAD_BYTES``.
    :param columns: the header that it must have.

    >>> head_problems(b"a,b\n1,2\n", ["a", "b"])
    []
    """
    if not head:
        return ["it is empty"]
    try:
        # The last character may be cut in two.
        text = head.decode("utf-8-sig") if len(head) < HEAD_BYTES else _whole_lines(head)
    except UnicodeDecodeError as error:
        return [f"it is not UTF-8 text ({error.reason} at byte {error.start})"]
    if "\x00" in text:
        return ["it is not text: it holds zero bytes"]
    lines = text.splitlines()
    header = [name.strip() for name in next(csv.reader(lines[:1]), [])]
    if header != list(columns):
        return [_header_problem(header, columns)]
    if not any(line.strip() for line in lines[1:]):
        return ["it has a header and no rows"]
    return []


def _whole_lines(head: bytes) -> str:
    return head[: head.rfind(b"\n") + 1].decode("utf-8-sig")


def _header_problem(header: Sequence[str], columns: Sequence[str]) -> str:
    missing = [name for name in columns if name not in header]
    unknown = [name for name in header if name not in columns]
    parts = [f"missing {', '.join(missing)}"] if missing else []
    parts += [f"unknown {', '.join(unknown)[:200]}"] if unknown else []
    return f"its header is not the expected one: {'; '.join(parts) or 'the order differs'}"
