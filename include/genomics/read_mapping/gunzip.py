"""Inflate gzip as a stream of blocks, noticing where it is cut."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from read_mapping.exceptions import InputDataError

MAGIC = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS


def inflate(chunks: Iterable[bytes], what: str) -> Iterator[bytes]:
    """Yield the content of a gzip file of one or many members (bgzip writes many).

    `what` names the file in the InputDataError of one that is cut, damaged or no gzip.
    """
    member = None
    head = b""
    for chunk in chunks:
        data = head + chunk
        head = b""
        while data:
            if member is None:
                # Tools that write to tapes and block devices pad with zeros, as gzip knows.
                data = data.lstrip(b"\0")
                if len(data) < len(MAGIC):
                    head = data
                    break
                if not data.startswith(MAGIC):
                    raise InputDataError(
                        f"{what} is not gzip: it holds {data[:4]!r}, no gzip magic"
                    )
                member = zlib.decompressobj(_GZIP)
            try:
                content = member.decompress(data)
            except zlib.error as error:
                raise InputDataError(f"{what} is damaged gzip: {error}") from error
            if content:
                yield content
            data = member.unused_data
            if member.eof:
                member = None
    if member is not None or head:
        raise InputDataError(f"{what} is cut: it ends in the middle of its gzip data")
