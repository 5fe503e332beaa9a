"""This server's own S3, as a client: for logs, scripts and code of steps and jobs."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from localaws.settings import ACCESS_KEY, REGION, SECRET_KEY


def client(service: str, endpoint_url: str) -> Any:
    """Return a boto3 client of this server; its calls are marked, so that nobody counts them."""
    # Any: published types know each service by a literal name only
    session: Any = boto3.session.Session()
    return session.client(
        service,
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(user_agent_extra=OWN_CALLS, retries={"mode": "standard"}),
    )


#: In the User-Agent of calls that localaws makes of itself: not counted, not struck by faults.
OWN_CALLS = "localaws-itself"


def split_uri(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/key`` (or s3a, s3n).

    Raises:
        ValueError: it is no S3 address.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("s3", "s3a", "s3n") or not parts.netloc:
        raise ValueError(f"{uri!r} is not an S3 address such as s3://bucket/key")
    return parts.netloc, parts.path.lstrip("/")


class OwnS3:
    """What the runners need of S3."""

    def __init__(self, endpoint_url: str) -> None:
        self._client = client("s3", endpoint_url)

    def download(self, uri: str, target: Path) -> None:
        """Fetch one object into a file."""
        bucket, key = split_uri(uri)
        target.write_bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def upload_gzipped(self, source: Path, uri: str) -> None:
        """Store a file as a ``.gz`` object."""
        bucket, key = split_uri(uri)
        self._client.put_object(Bucket=bucket, Key=key, Body=gzip.compress(source.read_bytes(), 5))
