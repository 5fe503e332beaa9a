"""The logs of EMR in S3, and the lines in them that say why."""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

log = logging.getLogger(__name__)

TAIL_LINES = 30
_CAUSE_LINES = 25
# Of a larger log only what comes first is read: the cause of a failure stands at its end, but a
# task must not spend an hour on a driver's debug output.
_LARGEST_LOG = 256 * 1024 * 1024

# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-manage-view-web-log-files.html
_STEP_LOGS = ("stderr.gz", "stdout.gz")
_APPLICATION_ID = re.compile(r"\bapplication_\d+_\d+\b")
_BOOTSTRAP_FAILURE = re.compile(r"\((i-[0-9a-z]+)\).*?bootstrap action (\d+)", re.I | re.S)
# "java.io.IOException: ...", "bash: line 1: ...", "flights_ingest: ...": what names itself first.
_SENTENCE = re.compile(r"^[A-Za-z_][\w.$-]*: \S")


@dataclass(frozen=True)
class LogExcerpt:
    """What a log says.

    :param cause: the one traceback, or ``Caused by``, that matters.
    :param tail: the last lines.
    """

    uri: str
    cause: tuple[str, ...]
    tail: tuple[str, ...]


def s3_location(log_uri: str | None) -> tuple[str, str] | None:
    """Split a cluster's LogUri into bucket and prefix.

    EMR gives it back as ``s3n://``, and as the text ``None`` where a cluster has no log.

    >>> s3_location("s3n://logs/emr/")
    ('logs', 'emr')
    """
    parts = urlsplit(log_uri or "")
    if parts.scheme not in {"s3", "s3n", "s3a"}:
        return None
    return parts.netloc, parts.path.strip("/")


def step_log_prefix(cluster: Mapping[str, Any], step_id: str) -> tuple[str, str] | None:
    """Return bucket and prefix of a step's logs, or None where the cluster keeps none."""
    if (location := s3_location(cluster.get("LogUri"))) is None:
        return None
    bucket, prefix = location
    return bucket, f"{prefix}/{cluster['Id']}/steps/{step_id}/"


def bootstrap_log_prefix(cluster: Mapping[str, Any], message: str) -> tuple[str, str] | None:
    """Return bucket and prefix of the log of the bootstrap action that the message names."""
    location = s3_location(cluster.get("LogUri"))
    failure = _BOOTSTRAP_FAILURE.search(message)
    if location is None or failure is None:
        return None
    bucket, prefix = location
    instance, action = failure.groups()
    return bucket, f"{prefix}/{cluster['Id']}/node/{instance}/bootstrap-actions/{action}/"


def read_logs(s3: Any, bucket: str, prefix: str) -> list[LogExcerpt]:
    """Read stderr and stdout below a prefix, and the driver's log where the step ran on YARN."""
    keys = _list_keys(s3, bucket, prefix)
    wanted = [f"{prefix}{name}" for name in _STEP_LOGS]
    excerpts = [_read(s3, bucket, key) for key in wanted if key in keys]
    if any(excerpt.cause for excerpt in excerpts):
        return excerpts
    application = _application_id(line for excerpt in excerpts for line in excerpt.tail)
    if application is None or "/steps/" not in prefix:
        return excerpts
    return excerpts + _driver_logs(s3, bucket, prefix.split("/steps/")[0], application)


def find_cause(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines that say why.

    That is the last Python traceback, else the last ``Caused by``, else the last sentence of a
    program that names itself.

    >>> find_cause(["x", "Traceback (most recent call last):", '  File "a.py"', "ValueError: no"])
    ('Traceback (most recent call last):', '  File "a.py"', 'ValueError: no')
    """
    traceback: list[str] = []
    caused_by: list[str] = []
    sentence: list[str] = []
    within = ""
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            traceback, within = [line], "traceback"
        elif line.lstrip().startswith("Caused by:"):
            caused_by, within = [line], "caused by"
        elif within == "traceback":
            traceback.append(line)
            if line and not line[0].isspace():
                within = ""
        elif within == "caused by" and line.lstrip().startswith(("at ", "...")):
            caused_by.append(line)
        else:
            within = ""
            if _SENTENCE.match(line):
                sentence = [line]
    found = traceback or caused_by or sentence
    if len(found) > _CAUSE_LINES:
        found = [found[0], "    ...", *found[-_CAUSE_LINES + 2 :]]
    return tuple(found)


def best_excerpt(excerpts: Sequence[LogExcerpt]) -> LogExcerpt | None:
    """Return the log that names a cause, else the first that says anything."""
    with_cause = [excerpt for excerpt in excerpts if excerpt.cause]
    with_words = [excerpt for excerpt in excerpts if any(map(str.strip, excerpt.tail))]
    return next(iter(with_cause + with_words), None)


def _list_keys(s3: Any, bucket: str, prefix: str) -> list[str]:
    answer = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1000)
    return [entry["Key"] for entry in answer.get("Contents", [])]


def _read(s3: Any, bucket: str, key: str) -> LogExcerpt:
    """Read a log as a stream, keeping no more than its excerpt."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def lines() -> Iterable[str]:
        body = s3.get_object(Bucket=bucket, Key=key)["Body"]
        left = _LARGEST_LOG
        with gzip.GzipFile(fileobj=body) as unpacked:
            try:
                for raw in unpacked:
                    left -= len(raw)
                    if left < 0:
                        return
                    line = raw.decode(errors="replace").rstrip()
                    tail.append(line)
                    yield line
            except (EOFError, OSError, zlib.error) as error:
                tail.append(f"(the log ends here: {error})")

    cause = find_cause(lines())
    return LogExcerpt(f"s3://{bucket}/{key}", cause, tuple(tail))


def _application_id(lines: Iterable[str]) -> str | None:
    found = None
    for line in lines:
        if match := _APPLICATION_ID.search(line):
            found = match.group()
    return found


def _driver_logs(s3: Any, bucket: str, cluster_prefix: str, application: str) -> list[LogExcerpt]:
    """Read the log of a YARN application's first container, which is the driver in cluster mode."""
    keys = _list_keys(s3, bucket, f"{cluster_prefix}/containers/{application}/")
    driver = [key for key in keys if "_000001/" in key and key.endswith(_STEP_LOGS)]
    return [_read(s3, bucket, key) for key in sorted(driver)]
