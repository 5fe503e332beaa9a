"""From a log to the lines that say why."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from aws_jobs.step_logs import (
    best_excerpt,
    bootstrap_log_prefix,
    find_cause,
    read_logs,
    s3_location,
    step_log_prefix,
)
from localaws.process import LocalAws

CLUSTER = {"Id": "j-1", "LogUri": "s3n://localaws-data/elasticmapreduce/"}
STEP = "elasticmapreduce/j-1/steps/s-1/"


def test_the_last_traceback_is_the_cause() -> None:
    lines = [
        "Traceback (most recent call last):",
        '  File "a.py", line 1, in <module>',
        "KeyError: 'first'",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        '  File "b.py", line 2, in <module>',
        "ValueError: second",
        "13/01/01 00:00:00 INFO ShutdownHookManager: bye",
    ]

    assert find_cause(lines) == tuple(lines[6:9])


def test_the_last_caused_by_is_the_cause_of_a_java_failure() -> None:
    lines = [
        'Exception in thread "main" org.apache.spark.SparkException: Job aborted',
        "\tat org.apache.spark.A.b(A.scala:1)",
        "Caused by: java.io.IOException: outer",
        "\tat c.D.e(D.java:1)",
        "Caused by: java.io.FileNotFoundException: s3://b/k",
        "\tat f.G.h(G.java:2)",
        "\t... 12 more",
        "13/01/01 00:00:00 INFO ShutdownHookManager: bye",
    ]

    assert find_cause(lines) == tuple(lines[4:7])


def test_a_program_that_names_itself_says_why() -> None:
    lines = ["13/01/01 INFO Main: fine", "flights_ingest: the header is wrong", "bye"]

    assert find_cause(lines) == ("flights_ingest: the header is wrong",)


def test_chatter_is_no_cause() -> None:
    assert find_cause(["13/01/01 00:00:00 INFO Utils: hello", "", "done"]) == ()


def test_a_long_traceback_keeps_its_beginning_and_its_end() -> None:
    lines = ["Traceback (most recent call last):", *[f"  frame {n}" for n in range(90)], "E: x"]

    cause = find_cause(lines)

    assert len(cause) == 25
    assert (cause[0], cause[-1]) == (lines[0], "E: x")


@pytest.mark.parametrize("uri", [None, "", "None", "hdfs:///logs"])
def test_a_cluster_may_keep_no_log(uri: str | None) -> None:
    assert s3_location(uri) is None
    assert step_log_prefix({"Id": "j-1", "LogUri": uri}, "s-1") is None


def test_a_bootstrap_failure_names_its_log() -> None:
    message = (
        "BOOTSTRAP_FAILURE: On the master instance (i-0abc), bootstrap action 2 returned a "
        "non-zero return code"
    )

    assert bootstrap_log_prefix(CLUSTER, message) == (
        "localaws-data",
        "elasticmapreduce/j-1/node/i-0abc/bootstrap-actions/2/",
    )
    assert bootstrap_log_prefix(CLUSTER, "something else") is None


def put(aws: LocalAws, key: str, text: str, *, cut: int = 0) -> None:
    packed = gzip.compress(text.encode())
    body = packed[: len(packed) - cut]
    aws.client("s3").put_object(Bucket="localaws-data", Key=key, Body=body)


@pytest.fixture
def s3(aws: LocalAws) -> Any:
    client = aws.client("s3")
    for entry in client.list_objects_v2(Bucket="localaws-data", Prefix="elasticmapreduce/j-1/").get(
        "Contents", []
    ):
        client.delete_object(Bucket="localaws-data", Key=entry["Key"])
    return client


def test_the_log_that_names_a_cause_is_preferred(aws: LocalAws, s3: Any) -> None:
    put(aws, f"{STEP}stderr.gz", "chatter\n")
    put(aws, f"{STEP}stdout.gz", "Traceback (most recent call last):\n  x\nValueError: no\n")

    excerpt = best_excerpt(read_logs(s3, "localaws-data", STEP))

    assert excerpt is not None
    assert excerpt.cause[-1] == "ValueError: no"
    assert excerpt.uri.endswith("stdout.gz")


def test_on_yarn_the_drivers_log_is_followed(aws: LocalAws, s3: Any) -> None:
    application = "application_1700000000000_0007"
    container = f"elasticmapreduce/j-1/containers/{application}/container_1700000000000_0007_01"
    put(aws, f"{STEP}stderr.gz", f"INFO Client: Application report for {application} (FAILED)\n")
    put(aws, f"{container}_000001/stdout.gz", "ValueError: the driver knows\n")
    put(aws, f"{container}_000002/stdout.gz", "ValueError: an executor\n")

    excerpt = best_excerpt(read_logs(s3, "localaws-data", STEP))

    assert excerpt is not None
    assert excerpt.cause == ("ValueError: the driver knows",)


def test_a_log_that_was_cut_off_is_read_as_far_as_it_goes(aws: LocalAws, s3: Any) -> None:
    put(aws, f"{STEP}stderr.gz", "first\nsecond\n" * 5, cut=6)

    excerpt = best_excerpt(read_logs(s3, "localaws-data", STEP))

    assert excerpt is not None
    assert "first" in excerpt.tail
    assert excerpt.tail[-1].startswith("(the log ends here")


def test_empty_logs_say_nothing(aws: LocalAws, s3: Any) -> None:
    put(aws, f"{STEP}stderr.gz", "\n")

    assert best_excerpt(read_logs(s3, "localaws-data", STEP)) is None
