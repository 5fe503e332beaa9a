"""What a run wrote for a day: checked where it was written, then published in one step.

A run writes below a prefix of its own, ``<output>/day=<day>/<use of a cluster>/``. A reader finds
the day through the Glue catalog: the location of its partition is all that changes, by one call.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import call_patiently, error_code
from aws_jobs.exceptions import OutputError
from aws_jobs.s3_uri import split_uri
from aws_jobs.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

log = logging.getLogger(__name__)

# Objects with this tag expire by the bucket's lifecycle rule (include/infra/storage.yaml).
SUPERSEDED = {"Key": "superseded", "Value": "true"}

_BUDGET = 120.0
# How far S3's clock and the cluster's may be apart.
_CLOCK_MARGIN = timedelta(minutes=5)


@dataclass(frozen=True)
class DailyOutput:
    """One day as a run wrote it.

    :param day: ``YYYY-MM-DD``.
    :param ingest_uri: what the ingest step wrote below, ``s3://...``.
    :param report_uri: what the report step wrote below.
    """

    day: str
    ingest_uri: str
    report_uri: str


def check_output(output: DailyOutput, *, aws_conn_id: str = "aws_default") -> dict[str, Any]:
    """Compare what the ingest step counted with what the report step found in storage.

    :returns: the day's row counts and when its raw data was read.
    :raises OutputError: with everything that does not add up.
    """
    s3 = aws_client("s3", aws_conn_id, load_settings().region)
    ingest = _read_json(s3, f"{output.ingest_uri}/ingest.json")
    report = _read_json(s3, f"{output.report_uri}/report.json")
    if problems := count_problems(output, ingest, report):
        raise OutputError(f"The output of {output.day} does not add up", problems)
    counts = {
        "day": output.day,
        "rows_in": ingest["rows_in"],
        "rows_out": ingest["rows_out"],
        "rows_rejected": ingest["rows_rejected"],
        "rows_delays": report["rows_delays"],
        "read_at": ingest["read_at"],
    }
    log.info("%(day)s: %(rows_in)s rows in, %(rows_out)s out, %(rows_rejected)s rejected", counts)
    return counts


def count_problems(
    output: DailyOutput, ingest: Mapping[str, Any], report: Mapping[str, Any]
) -> list[str]:
    """Return what does not add up between the two steps' own counts."""
    problems = [
        f"{name} is for {summary.get('day')}, not for {output.day}"
        for name, summary in (("ingest.json", ingest), ("report.json", report))
        if summary.get("day") != output.day
    ]
    rows_in, rows_out, rejected = (
        ingest["rows_in"],
        ingest["rows_out"],
        ingest["rows_rejected"],
    )
    if rows_in != rows_out + rejected:
        problems.append(f"{rows_in} rows in, but {rows_out} out and {rejected} rejected")
    if report["rows_flights"] != rows_out:
        problems.append(f"{rows_out} flights were written, {report['rows_flights']} are stored")
    if report["rows_rejected"] != rejected:
        problems.append(f"{rejected} rows were rejected, {report['rows_rejected']} are stored")
    if not rows_out:
        problems.append("no row came through")
    return problems


def publish(
    output: DailyOutput,
    counts: Mapping[str, Any],
    *,
    table: str,
    published_by: str,
    aws_conn_id: str = "aws_default",
) -> dict[str, Any]:
    """Make the output the day's data: the partition's location changes, by one call.

    Only one publishing task of a table may run at a time (``max_active_tis_per_dag=1``): Glue has
    no conditional update of a partition.

    :param published_by: the run, for those who look at the partition.
    :returns: the counts and the location, for the asset event.
    :raises AirflowSkipException: where data that was read later has been published already.
    """
    settings = load_settings()
    glue = aws_client("glue", aws_conn_id, settings.region)
    location = f"{output.report_uri}/delays/"
    parameters = {
        "location": location,
        "published_by": published_by,
        "read_at": str(counts["read_at"]),
        "flights_location": f"{output.ingest_uri}/flights/",
        "rejected_location": f"{output.ingest_uri}/rejected/",
        **{name: str(counts[name]) for name in ("rows_in", "rows_out", "rows_rejected")},
    }
    catalog = _Catalog(glue, settings.glue_database, table)
    before = catalog.partition(output.day)
    published = (before or {}).get("Parameters", {})
    s3 = aws_client("s3", aws_conn_id, settings.region)
    if published.get("read_at", "") > parameters["read_at"]:
        kept = {_version(published["location"].removesuffix("/delays/"))}
        _let_expire(s3, output, published, keep=kept, also={_version(output.report_uri)})
        raise AirflowSkipException(
            f"{output.day} is published already by {published.get('published_by')}, from raw data "
            f"read at {published['read_at']}; this run read it at {parameters['read_at']}"
        )
    catalog.point(output.day, location, parameters, exists=before is not None)
    log.info("%s is published from %s", output.day, location)
    _let_expire(s3, output, parameters, keep={_version(output.report_uri)})
    return {**counts, "location": location}


def superseded(
    versions: Mapping[str, datetime], *, keep: Collection[str], read_at: datetime
) -> list[str]:
    """Return the versions of a day that can never be published any more.

    A version whose raw data was read before that of the published one is refused by ``publish``.

    :param versions: when each version read its raw data, or wrote last where it has not said so:
        a version that goes on is newer than its raw data.
    :param keep: the versions that the published partition refers to.
    :param read_at: when the published version read its raw data.
    """
    return sorted(name for name, seen in versions.items() if name not in keep and seen < read_at)


@dataclass(frozen=True)
class _Catalog:
    glue: Any
    database: str
    table: str

    def partition(self, day: str) -> dict[str, Any] | None:
        """Return the day's partition, or None."""
        try:
            answer = call_patiently(
                lambda: self.glue.get_partition(
                    DatabaseName=self.database, TableName=self.table, PartitionValues=[day]
                ),
                budget=_BUDGET,
            )
        except Exception as error:
            if error_code(error) == "EntityNotFoundException":
                return None
            raise
        found: dict[str, Any] = answer["Partition"]
        return found

    def point(
        self, day: str, location: str, parameters: Mapping[str, str], *, exists: bool
    ) -> None:
        """Give the day's partition its location; to do so twice is to do it once."""
        table = call_patiently(
            lambda: self.glue.get_table(DatabaseName=self.database, Name=self.table),
            budget=_BUDGET,
        )["Table"]
        wanted = {
            "Values": [day],
            "StorageDescriptor": {**table["StorageDescriptor"], "Location": location},
            "Parameters": dict(parameters),
        }
        where = {"DatabaseName": self.database, "TableName": self.table}

        def create_or_update() -> None:
            if not exists:
                try:
                    self.glue.create_partition(**where, PartitionInput=wanted)
                    return
                except Exception as error:
                    # The answer to an earlier try was lost.
                    if error_code(error) != "AlreadyExistsException":
                        raise
            self.glue.update_partition(**where, PartitionValueList=[day], PartitionInput=wanted)

        call_patiently(create_or_update, budget=_BUDGET)


def _let_expire(
    s3: Any,
    output: DailyOutput,
    published: Mapping[str, str],
    *,
    keep: Collection[str] = (),
    also: Collection[str] = (),
) -> None:
    """Tag what is superseded; the day is published whether this works or not."""
    try:
        bucket, day_prefix = _day_prefix(output.report_uri)
        objects = _objects_by_version(s3, bucket, day_prefix)
        kept = {_version(published["flights_location"].removesuffix("/flights/")), *keep}
        read_at = datetime.fromisoformat(published["read_at"])
        versions = {
            name: _read_at(s3, bucket, f"{day_prefix}{name}/ingest.json", entries)
            for name, entries in objects.items()
        }
        for name in {*superseded(versions, keep=kept, read_at=read_at), *also} - kept:
            log.info("s3://%s/%s%s/ is superseded and will expire", bucket, day_prefix, name)
            for entry in objects.get(name, []):
                s3.put_object_tagging(
                    Bucket=bucket, Key=entry["Key"], Tagging={"TagSet": [SUPERSEDED]}
                )
    except Exception as error:
        log.warning("What is superseded for %s was not marked to expire: %s", output.day, error)


def _version(uri: str) -> str:
    """Return the last part of ``<output>/day=<day>/<use of a cluster>``."""
    return uri.rstrip("/").rsplit("/", 1)[1]


def _day_prefix(uri: str) -> tuple[str, str]:
    """Return bucket and prefix, with its slash, of all versions of a day."""
    bucket, key = split_uri(uri)
    return bucket, key.rsplit("/", 1)[0] + "/"


def _objects_by_version(s3: Any, bucket: str, day_prefix: str) -> dict[str, list[dict[str, Any]]]:
    versions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=day_prefix):
        for entry in page.get("Contents", []):
            versions[entry["Key"][len(day_prefix) :].split("/", 1)[0]].append(entry)
    return versions


def _read_at(s3: Any, bucket: str, key: str, entries: Iterable[Mapping[str, Any]]) -> datetime:
    if any(entry["Key"] == key for entry in entries):
        return datetime.fromisoformat(_read_json(s3, f"s3://{bucket}/{key}")["read_at"])
    newest: datetime = max(entry["LastModified"] for entry in entries)
    return newest + _CLOCK_MARGIN


def _read_json(s3: Any, uri: str) -> dict[str, Any]:
    bucket, key = split_uri(uri)
    try:
        answer = call_patiently(lambda: s3.get_object(Bucket=bucket, Key=key), budget=_BUDGET)
        found: dict[str, Any] = json.loads(answer["Body"].read())
    except Exception as error:
        raise OutputError(
            "A step left no summary",
            [f"{uri}: {error}", "clear the step that should have written it"],
        ) from error
    return found
