"""What a run wrote is checked, then published in one step."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from aws_jobs.daily_output import DailyOutput, check_output, publish, superseded
from aws_jobs.exceptions import OutputError
from localaws.process import LocalAws

BUCKET = "localaws-data"
Write = Callable[..., DailyOutput]


_days = itertools.count()


@pytest.fixture
def day() -> str:
    """A day of this test's own."""
    return (date(2014, 1, 1) + timedelta(days=next(_days))).isoformat()


@pytest.fixture
def write(aws: LocalAws, day: str) -> Write:
    """Write an output as the two steps do."""
    s3 = aws.client("s3")

    def write(
        version: str, *, read_at: str = "2026-01-01T10:00:00.000Z", **wrong: Any
    ) -> DailyOutput:
        uri = f"s3://{BUCKET}/flights/day={day}/{version}"
        ingest = {"day": day, "rows_in": 5, "rows_out": 4, "rows_rejected": 1, "read_at": read_at}
        report = {"day": day, "rows_flights": 4, "rows_rejected": 1, "rows_delays": 2}
        files = {
            "ingest.json": json.dumps(
                {name: wrong.get(name, value) for name, value in ingest.items()}
            ),
            "report.json": json.dumps(report),
            "flights/part-0.parquet": "flights",
            "delays/part-0.parquet": "delays",
        }
        for name, content in files.items():
            s3.put_object(Bucket=BUCKET, Key=f"flights/day={day}/{version}/{name}", Body=content)
        return DailyOutput(day, uri, uri)

    return write


def location(aws: LocalAws, day: str) -> str:
    partition = aws.client("glue").get_partition(
        DatabaseName="local_flights", TableName="flight_delays", PartitionValues=[day]
    )["Partition"]
    return str(partition["StorageDescriptor"]["Location"])


def tags(aws: LocalAws, day: str, version: str) -> set[str]:
    s3 = aws.client("s3")
    key = f"flights/day={day}/{version}/flights/part-0.parquet"
    found = s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]
    return {tag["Key"] for tag in found}


def publish_it(output: DailyOutput, run: str = "run") -> dict[str, Any]:
    return publish(output, check_output(output), table="flight_delays", published_by=run)


def test_counts_that_add_up_pass(write: Write, day: str) -> None:
    counts = check_output(write("j-1"))

    assert (counts["day"], counts["rows_in"], counts["rows_out"]) == (day, 5, 4)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"rows_in": 6}, "6 rows in, but 4 out and 1 rejected"),
        ({"rows_out": 3, "rows_in": 4}, "3 flights were written, 4 are stored"),
        ({"rows_rejected": 2, "rows_in": 6}, "2 rows were rejected, 1 are stored"),
        ({"day": "2014-12-31"}, "is for 2014-12-31"),
        ({"rows_out": 0, "rows_in": 1}, "no row came through"),
    ],
)
def test_counts_that_do_not_add_up_are_named(
    write: Write, wrong: dict[str, Any], problem: str
) -> None:
    with pytest.raises(OutputError, match=problem):
        check_output(write("j-1", **wrong))


def test_a_missing_summary_says_what_to_clear(aws: LocalAws) -> None:
    nowhere = f"s3://{BUCKET}/flights/day=2014-01-01/j-nowhere"

    with pytest.raises(OutputError, match="clear the step"):
        check_output(DailyOutput("2014-01-01", nowhere, nowhere))


def test_a_published_day_is_found_through_the_catalog(
    aws: LocalAws, write: Write, day: str
) -> None:
    published = publish_it(write("j-1"))

    assert location(aws, day) == published["location"]
    assert location(aws, day).endswith(f"day={day}/j-1/delays/")


def test_publishing_changes_the_catalog_by_one_call(aws: LocalAws, write: Write, day: str) -> None:
    first, second = write("j-1"), write("j-2", read_at="2026-01-01T11:00:00.000Z")
    publish_it(first)
    aws.reset_calls()

    publish_it(second)

    changes = {name: n for name, n in aws.calls()["glue"].items() if not name.startswith("Get")}
    assert changes == {"UpdatePartition": {"200": 1}}
    assert location(aws, day).endswith("/j-2/delays/")


def test_publishing_twice_is_publishing_once(aws: LocalAws, write: Write, day: str) -> None:
    output = write("j-1")

    publish_it(output)
    publish_it(output)

    assert location(aws, day).endswith("/j-1/delays/")
    assert tags(aws, day, "j-1") == set()


def test_a_slower_older_run_does_not_win(aws: LocalAws, write: Write, day: str) -> None:
    older, newer = write("j-1"), write("j-2", read_at="2026-01-01T11:00:00.000Z")
    publish_it(newer, "newer run")

    with pytest.raises(AirflowSkipException, match="newer run"):
        publish_it(older)

    assert location(aws, day).endswith("/j-2/delays/")
    assert tags(aws, day, "j-1") == {"superseded"}
    assert tags(aws, day, "j-2") == set()


def test_what_is_superseded_expires_and_what_may_still_win_does_not(
    aws: LocalAws, write: Write, day: str
) -> None:
    old = write("j-old", read_at="2026-01-01T09:00:00.000Z")
    racing = write("j-racing", read_at="2026-01-01T12:00:00.000Z")
    publish_it(old)

    publish_it(write("j-new"))

    assert tags(aws, day, "j-old") == {"superseded"}
    assert tags(aws, day, "j-racing") == set()
    publish_it(racing)
    assert tags(aws, day, "j-new") == {"superseded"}


def test_flights_that_a_cleared_report_still_uses_are_kept(
    aws: LocalAws, write: Write, day: str
) -> None:
    first = write("j-1")
    publish_it(first)
    again = write("j-2")
    mixed = DailyOutput(day, first.ingest_uri, again.report_uri)
    aws.client("s3").delete_object(Bucket=BUCKET, Key=f"flights/day={day}/j-2/ingest.json")

    publish_it(mixed)

    assert location(aws, day).endswith("/j-2/delays/")
    assert tags(aws, day, "j-1") == tags(aws, day, "j-2") == set()


def test_the_day_is_published_although_nothing_can_be_tagged(
    aws: LocalAws, write: Write, day: str
) -> None:
    publish_it(write("j-1"))
    output = write("j-2", read_at="2026-01-01T11:00:00.000Z")
    counts = check_output(output)
    aws.set_faults(
        [
            {
                "service": "s3",
                "operation": "*",
                "kind": "error",
                "code": "AccessDenied",
                "status": 503,
            }
        ]
    )

    publish(output, counts, table="flight_delays", published_by="run")

    aws.set_faults([])
    assert location(aws, day).endswith("/j-2/delays/")


def test_a_lost_answer_to_the_creation_of_a_partition_is_no_error(
    aws: LocalAws, write: Write, day: str
) -> None:
    output = write("j-1")
    aws.set_faults(
        [{"service": "glue", "operation": "CreatePartition", "kind": "lost_answer", "count": 1}]
    )

    publish_it(output)

    assert location(aws, day).endswith("/j-1/delays/")


def test_only_versions_that_can_never_be_published_are_superseded() -> None:
    def at(hour: int) -> datetime:
        return datetime(2026, 1, 1, hour, tzinfo=UTC)

    versions = {"before": at(8), "kept": at(9), "published": at(10), "racing": at(11)}

    assert superseded(versions, keep={"kept", "published"}, read_at=at(10)) == ["before"]
