"""``s3-dist-cp``: copy objects between prefixes of S3, and files of the step's folder.

What EMR's tool does with ``--src``, ``--dest``, ``--srcPattern``, ``--groupBy``,
``--deleteOnSuccess`` and ``--s3Endpoint`` (which is ignored: there is one). An option that is not
known is refused, as what it would do would be missing.
https://docs.aws.amazon.com/emr/latest/ReleaseGuide/UsingEMR_s3distcp.html
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import boto3

#: Copies under way at once.
WORKERS = 4


class CopyError(Exception):
    """A copy that cannot be made; the message names the place."""


def main(argv: list[str]) -> int:
    """Copy, and say how much."""
    try:
        arguments = _parser().parse_args(argv)
        copied = copy(arguments)
    except (CopyError, re.error) as error:
        print(f"s3-dist-cp: {error}", file=sys.stderr)
        return 1
    print(f"s3-dist-cp: {copied} files copied from {arguments.src} to {arguments.dest}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="s3-dist-cp", allow_abbrev=False)
    parser.add_argument("--src", required=True)
    parser.add_argument("--dest", required=True)
    parser.add_argument("--srcPattern", help="a regular expression that a whole address matches")
    parser.add_argument("--groupBy", help="files whose first group is the same become one")
    parser.add_argument("--deleteOnSuccess", action="store_true")
    parser.add_argument("--s3Endpoint", help="ignored")
    return parser


def copy(arguments: argparse.Namespace) -> int:
    """Copy what the arguments ask for; return the number of files that were read.

    Raises:
        CopyError: there is nothing to copy, or a place cannot be read or written.
    """
    source, target = place_of(arguments.src), place_of(arguments.dest)
    pattern = re.compile(arguments.srcPattern) if arguments.srcPattern else None
    names = [n for n in source.names() if not pattern or pattern.fullmatch(source.address(n))]
    if not names and not any(True for _ in source.names()):
        raise CopyError(f"{arguments.src} does not exist, or is empty")
    groups = grouped(names, source, arguments.groupBy)
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(lambda one: _write(source, target, *one), groups.items()):
            pass
    if arguments.deleteOnSuccess:
        for name in [name for members in groups.values() for name in members]:
            source.delete(name)
    return sum(len(members) for members in groups.values())


def grouped(names: Iterable[str], source: Place, group_by: str | None) -> dict[str, list[str]]:
    """Return which files each file of the target is made of.

    With ``--groupBy`` a file that does not match is left out, and the target is named by the
    groups of the expression, put together.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        if group_by is None:
            groups[name] = [name]
            continue
        match = re.fullmatch(group_by, source.address(name))
        if match:
            groups.setdefault("".join(g or "" for g in match.groups()), []).append(name)
    return groups


def _write(source: Place, target: Place, name: str, members: list[str]) -> None:
    target.write(name, b"".join(source.read(member) for member in members))


class Place(Protocol):
    """A prefix of S3, or a folder; files are named relative to it."""

    def names(self) -> Iterator[str]: ...  # noqa: D102
    def address(self, name: str) -> str: ...  # noqa: D102
    def read(self, name: str) -> bytes: ...  # noqa: D102
    def write(self, name: str, data: bytes) -> None: ...  # noqa: D102
    def delete(self, name: str) -> None: ...  # noqa: D102


class Prefix:
    """A prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        self._s3: Any = boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))

    def names(self) -> Iterator[str]:
        """Give the keys below the prefix."""
        pages = self._s3.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
            for item in page.get("Contents", []):
                name = item["Key"].removeprefix(self.prefix)
                if name and not name.endswith("/"):
                    yield name

    def address(self, name: str) -> str:
        """Return ``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.prefix}{name}"

    def read(self, name: str) -> bytes:
        """Get an object."""
        answer = self._s3.get_object(Bucket=self.bucket, Key=self.prefix + name)
        return bytes(answer["Body"].read())

    def write(self, name: str, data: bytes) -> None:
        """Put an object."""
        self._s3.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data)

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._s3.delete_object(Bucket=self.bucket, Key=self.prefix + name)


class Folder:
    """A folder: what is HDFS on a cluster is the step's own folder here."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> Iterator[str]:
        """Give the files below the folder."""
        for path in sorted(self.path.rglob("*")):
            if path.is_file():
                yield str(path.relative_to(self.path))

    def address(self, name: str) -> str:
        """Return the path."""
        return str(self.path / name)

    def read(self, name: str) -> bytes:
        """Read a file."""
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write a file and the folders above it."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def delete(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink()


def place_of(address: str) -> Place:
    """Tell S3 from a folder; ``hdfs:///x`` is ``./hdfs/x``.

    Raises:
        CopyError: the address is neither.
    """
    parts = urlsplit(address)
    if parts.scheme in ("s3", "s3a", "s3n") and parts.netloc:
        return Prefix(parts.netloc, parts.path.lstrip("/"))
    if parts.scheme == "hdfs":
        return Folder(Path.cwd() / "hdfs" / parts.path.lstrip("/"))
    if parts.scheme in ("", "file"):
        return Folder(Path(parts.path))
    raise CopyError(f"{address} is neither s3:// nor hdfs:// nor a folder")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
