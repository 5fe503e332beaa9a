"""Addresses of objects in S3."""

from __future__ import annotations

from urllib.parse import urlsplit

from aws_jobs.exceptions import InputError


def split_uri(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/key``.

    :raises InputError: where it is no address of an object in S3.
    """
    parts = urlsplit(uri)
    key = parts.path.lstrip("/")
    if parts.scheme != "s3" or not parts.netloc or not key:
        raise InputError(f"{uri!r} is no object in S3", ["it has the form s3://bucket/key"])
    return parts.netloc, key
