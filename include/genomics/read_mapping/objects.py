"""Objects in S3: found, read in order, fetched, and stored so that they can be verified."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from read_mapping.exceptions import InputDataError, MappingError, MissingInputError

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, and the characters
# that object-keys.html calls safe, with those that need no quoting in a URI.
URI = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/"
    r"(?P<key>[A-Za-z0-9][A-Za-z0-9!_.*'()/=+@:,~-]{0,900})"
)
CHUNK = 256 * 1024
# Tries of a read that gets no further; one that does starts anew.
READ_TRIES = 6
TRANSFER = TransferConfig(multipart_threshold=32 << 20, multipart_chunksize=32 << 20)


@dataclass(frozen=True)
class Stored:
    """An object as S3 has it; `sha256` is known of what this package has stored."""

    uri: str
    size: int
    etag: str
    sha256: str | None


@dataclass(frozen=True)
class Output:
    """A file that was stored and verified."""

    uri: str
    size: int
    sha256: str


def split_uri(uri: str) -> tuple[str, str]:
    """Split an address into bucket and key.

    >>> split_uri("s3://acme-data/source/S1_1.fastq.gz")
    ('acme-data', 'source/S1_1.fastq.gz')
    """
    match = URI.fullmatch(uri)
    if not match:
        raise InputDataError(f"{uri!r} is no address of an S3 object in plain characters")
    return match["bucket"], match["key"]


class ObjectStore:
    """What a job does with S3."""

    def __init__(self, client: Any = None) -> None:
        self._client: Any = client or boto3.client(
            "s3",
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=32,
                retries={"mode": "standard", "max_attempts": 5},
            ),
        )

    def find(self, uri: str) -> Stored | None:
        """Look an object up; None where there is none, or none that may be read."""
        bucket, key = split_uri(uri)
        try:
            found = self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            # Without the right to list a bucket, what is missing is answered by 403.
            if _status(error) in (403, 404):
                return None
            raise
        digest = found.get("Metadata", {}).get("sha256")
        return Stored(uri, found["ContentLength"], found["ETag"], digest)

    def find_all(self, uris: Iterable[str]) -> list[Stored]:
        """Look several objects up.

        Raises MissingInputError with the list of all that are missing.
        """
        found = {uri: self.find(uri) for uri in uris}
        missing = [uri for uri, stored in found.items() if stored is None]
        if missing:
            raise MissingInputError(f"not there, or not readable: {', '.join(missing)}")
        return [stored for stored in found.values() if stored is not None]

    def read(self, stored: Stored) -> Iterator[bytes]:
        """Yield an object's bytes in order, going on where a broken connection stopped.

        Raises InputDataError when the object changes meanwhile, MappingError when S3 gives no more.
        """
        position = failures = 0
        while position < stored.size:
            try:
                for chunk in self._body(stored, position):
                    yield chunk
                    position += len(chunk)
                    failures = 0
            except (BotoCoreError, ClientError) as error:
                if isinstance(error, ClientError) and _status(error) == 412:
                    raise InputDataError(f"{stored.uri} was replaced while it was read") from error
                failures += 1
                if failures >= READ_TRIES or not _is_passing(error):
                    raise MappingError(
                        f"{stored.uri} cannot be read beyond byte {position:,}: {error}"
                    ) from error
                time.sleep(random.uniform(0, 0.2 * 2**failures))  # noqa: S311 - jitter

    def _body(self, stored: Stored, position: int) -> Iterator[bytes]:
        bucket, key = split_uri(stored.uri)
        where = {"Range": f"bytes={position}-"} if position else {}
        answer = self._client.get_object(Bucket=bucket, Key=key, IfMatch=stored.etag, **where)
        chunks: Iterator[bytes] = answer["Body"].iter_chunks(CHUNK)
        return chunks

    def lines(self, uri: str) -> Iterator[bytes]:
        """Yield the lines of a text object, without their ends."""
        [stored] = self.find_all([uri])
        rest = b""
        for chunk in self.read(stored):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        if rest:
            yield rest

    def read_json(self, uri: str) -> Any:
        """Read a JSON object; None where there is none."""
        stored = self.find(uri)
        return None if stored is None else json.loads(b"".join(self.read(stored)))

    def fetch(self, files: Mapping[Path, Stored]) -> None:
        """Fetch objects into files, in parallel.

        Raises MappingError when a file comes out otherwise than S3 says.
        """
        with create_transfer_manager(self._client, TRANSFER) as transfers:
            waiting = [
                transfers.download(*split_uri(stored.uri), str(path))
                for path, stored in files.items()
            ]
            for transfer in waiting:
                transfer.result()
        for path, stored in files.items():
            size = path.stat().st_size
            if size != stored.size or stored.sha256 not in (None, sha256(path)):
                raise MappingError(f"{stored.uri} came over otherwise than it is stored")

    def store(self, path: Path, uri: str) -> Output:
        """Store a file with its SHA-256 and verify what S3 then has.

        A large one goes up in parts, which are given up when anything fails: no object, not even
        half a one, is then left.
        """
        output = Output(uri, path.stat().st_size, sha256(path))
        bucket, key = split_uri(uri)
        extra = {"Metadata": {"sha256": output.sha256}}
        with create_transfer_manager(self._client, TRANSFER) as transfers:
            transfers.upload(str(path), bucket, key, extra_args=extra).result()
        if not self.has(asdict(output)):
            raise MappingError(f"{uri} is not stored as it was sent")
        return output

    def has(self, output: Mapping[str, Any]) -> bool:
        """Tell whether an output of a manifest is there, whole."""
        stored = self.find(output["uri"])
        return stored is not None and (stored.size, stored.sha256) == (
            output["size"],
            output["sha256"],
        )

    def put_json(self, uri: str, content: Any) -> None:
        """Write a small JSON object in one request."""
        bucket, key = split_uri(uri)
        body = json.dumps(content, indent=1).encode() + b"\n"
        self._client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")


def sha256(path: Path) -> str:
    """Give a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _is_passing(error: Exception) -> bool:
    # What is no answer of S3 is the network's fault; throttling is a 503.
    return not isinstance(error, ClientError) or _status(error) >= 500
