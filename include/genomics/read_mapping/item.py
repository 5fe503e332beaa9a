"""One sample to be mapped, as a line of a manifest says it."""

from __future__ import annotations

import itertools
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from read_mapping.exceptions import InputDataError, MissingInputError
from read_mapping.objects import URI, ObjectStore
from read_mapping.parameters import Parameters, parse_parameters

# A name becomes a file name, an S3 key and a table's key.
SAMPLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Epoch and generation of the submission: compares as text.
ATTEMPT = re.compile(r"\d{4,}\.\d{4,}(\.\d+)?")
FIRST_ATTEMPT = "0000.0000"


@dataclass(frozen=True)
class Item:
    """A sample: its inputs, where its outputs go, and who owns it in the table of samples."""

    sample: str
    r1: str
    r2: str
    reference: str
    output: str
    done_uri: str
    table: str | None
    owner: str | None
    attempt: str
    parameters: Parameters


def attempt_key(attempt: Any) -> str:
    """Give this attempt's order among all of the sample, Batch's own retries included.

    >>> attempt_key("0000.0001")
    '0000.0001.01'
    """
    return f"{attempt or FIRST_ATTEMPT}.{int(os.environ.get('AWS_BATCH_JOB_ATTEMPT', '1')):02d}"


def read_line(store: ObjectStore, manifest: str) -> Any:
    """Read this array child's line of a manifest; a job that is no child takes the first.

    A manifest that begins with a brace is the line itself.

    https://docs.aws.amazon.com/batch/latest/userguide/array_index_example.html
    """
    if manifest.startswith("{"):
        return _content(manifest, "the item")
    index = int(os.environ.get("AWS_BATCH_JOB_ARRAY_INDEX", "0"))
    line = next(itertools.islice(store.lines(manifest), index, None), None)
    if line is None:
        raise MissingInputError(f"{manifest} has no line {index}")
    return _content(line, f"line {index} of {manifest}")


def _content(line: str | bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise InputDataError(f"{what} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputDataError(f"{what} is no object")
    return content


def parse_item(content: dict[str, Any]) -> Item:
    """Check an item.

    Raises InputDataError with everything that is wrong with it.
    """
    problems = [*_problems(content)]
    parameters, wrong = parse_parameters(content.get("parameters") or {})
    problems += wrong
    if problems or parameters is None:
        raise InputDataError("; ".join(problems))
    return Item(
        **{name: content[name] for name in ("sample", "r1", "r2", "reference", "output")},
        done_uri=content["done_uri"],
        table=content.get("table"),
        owner=content.get("owner"),
        attempt=content.get("attempt") or FIRST_ATTEMPT,
        parameters=parameters,
    )


def _problems(content: dict[str, Any]) -> list[str]:
    problems = []
    if not SAMPLE.fullmatch(str(content.get("sample"))):
        problems.append(
            f"sample: {content.get('sample')!r} is no name: up to 63 letters, digits, '.', '_' and"
            " '-', the first one a letter or digit"
        )
    for name in ("r1", "r2", "reference", "output", "done_uri"):
        if not URI.fullmatch(str(content.get(name))):
            problems.append(f"{name}: {content.get(name)!r} is no s3:// URI in plain characters")
    if content.get("r1") == content.get("r2"):
        problems.append("r1 and r2 are the same object")
    if content.get("done_uri") != f"{content.get('output')}/manifest.json":
        problems.append("done_uri: it must be <output>/manifest.json")
    if (content.get("table") is None) != (content.get("owner") is None):
        problems.append("table and owner: both or neither")
    if content.get("attempt") and not ATTEMPT.fullmatch(str(content["attempt"])):
        problems.append(f"attempt: {content['attempt']!r} is no <epoch>.<generation>")
    return problems
