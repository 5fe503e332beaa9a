"""What a mapping job left in S3: complete where its manifest and all that it names are there."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently, error_code
from aws_jobs.s3_uri import split_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MANIFEST = "manifest.json"

_BUDGET = 120.0
_GONE = frozenset({"NoSuchKey", "NoSuchBucket", "404"})
# Parameters that are shares, in CoverM's notation.
_SHARES = frozenset({"min_identity", "min_aligned", "trim_min", "trim_max"})


def output_uri(bucket: str, table: str, arch: str, sample: str) -> str:
    """Return where a sample's outputs are: the results of two architectures never meet."""
    return f"s3://{bucket}/results/{table}/{arch}/{sample}"


def read_manifest(s3: Any, uri: str) -> dict[str, Any] | None:
    """Read a job's manifest; None where there is none, or it is no JSON object."""
    bucket, key = split_uri(uri)
    try:
        answer = call_patiently(lambda: s3.get_object(Bucket=bucket, Key=key), budget=_BUDGET)
        content = json.loads(answer["Body"].read())
    except ValueError:
        return None
    except Exception as error:
        if error_code(error) in _GONE:
            return None
        raise
    return content if isinstance(content, dict) else None


def stored_sizes(s3: Any, prefix_uri: str) -> dict[str, int]:
    """List what is stored below a place, as bytes by address."""
    bucket, prefix = split_uri(prefix_uri)
    return {
        f"s3://{bucket}/{entry['Key']}": entry["Size"]
        for entry in _entries(s3, bucket, f"{prefix.rstrip('/')}/")
    }


def output_problems(manifest: Mapping[str, Any], sizes: Mapping[str, int]) -> list[str]:
    """Say what a manifest names and storage has not, or has in another size.

    :param sizes: what is stored, as bytes by address.
    """
    outputs = manifest.get("outputs")
    if not isinstance(outputs, dict) or not outputs:
        return ["its manifest names no outputs"]
    problems = []
    for name, output in sorted(outputs.items()):
        uri, size = output.get("uri"), output.get("size")
        if uri not in sizes:
            problems.append(f"{name} is missing: {uri}")
        elif sizes[uri] != size:
            problems.append(f"{name} has {sizes[uri]} bytes, not {size}: {uri}")
    return problems


def differences(manifest: Mapping[str, Any], item: Mapping[str, Any]) -> list[str]:
    """Say how an earlier mapping was another one than is asked for now.

    :param item: what the job would be asked to do.
    """
    inputs = manifest.get("inputs") or {}
    found = [
        f"{name} was {uri}"
        for name in ("r1", "r2", "reference")
        if (uri := (inputs.get(name) or {}).get("uri")) != item[name]
    ]
    before = manifest.get("parameters") or {}
    found += [
        f"{name} was {before.get(name)}, not {asked}"
        for name, asked in item["parameters"].items()
        if not _serves(name, before.get(name), asked)
    ]
    return found


def share(value: Any) -> Decimal:
    """Return a share in CoverM's notation as a fraction: 1 and more are percent.

    >>> share("0.95") == share(95)
    True
    >>> share(1)
    Decimal('0.01')
    """
    number = Decimal(str(value))
    return number / 100 if number >= 1 else number


def _serves(name: str, before: Any, asked: Any) -> bool:
    """Whether what a parameter was serves what it should be."""
    if name == "methods":
        return set(asked) <= set(before or ())
    if name in _SHARES:
        # A job writes fractions: 1 is all.
        try:
            return Decimal(str(before)) == share(asked)
        except InvalidOperation:
            return False
    return bool(before == asked)


def _entries(s3: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    start: dict[str, str] = {}
    while True:
        answer = call_patiently(
            partial(s3.list_objects_v2, Bucket=bucket, Prefix=prefix, **start), budget=_BUDGET
        )
        yield from answer.get("Contents", [])
        if not answer.get("IsTruncated"):
            return
        start = {"ContinuationToken": answer["NextContinuationToken"]}
