"""What the scripts that seed a bucket share: objects that are written once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class SeedError(Exception):
    """The data or the bucket are not as they must be; the message says what to do."""


def put(client: S3Client, bucket: str, key: str, content: bytes) -> None:
    """Write an object unless it is there with the same content.

    :raises SeedError: when it cannot be written.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        new = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if _stored_md5(client, bucket, key) != new:
            client.put_object(Bucket=bucket, Key=key, Body=content)
    except (BotoCoreError, ClientError) as error:
        raise SeedError(f"s3://{bucket}/{key} cannot be written: {error}") from error


def _stored_md5(client: S3Client, bucket: str, key: str) -> str | None:
    """Look up an object's ETag: its MD5, where SSE-S3 encrypts and one part was written."""
    from botocore.exceptions import ClientError

    try:
        return client.head_object(Bucket=bucket, Key=key)["ETag"].strip('"')
    except ClientError as error:
        if error.response["Error"]["Code"] == "404":
            return None
        raise
