"""FailureDetails: the line that tells why a step failed, out of its two logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from localaws.emr.failures import failure_details

SPARK_NOISE = "26/11/21 11:45:18 INFO SparkContext: Invoking stop() from shutdown hook\n"
TRACEBACK = (
    'Traceback (most recent call last):\n  File "/x/job.py", line 5, in <module>\n'
    '    main()\n  File "/x/job.py", line 3, in main\nValueError: day is not a date\n'
)
JAVA = (
    'Exception in thread "main" org.apache.spark.SparkException: Job aborted\n'
    "\tat org.apache.spark.X.run(X.scala:1)\n"
    "Caused by: java.io.IOException: disk full\n\t... 3 more\n"
)
EXISTS = "org.apache.x.FileAlreadyExistsException: Output directory s3://b/o is there\n"


@pytest.mark.parametrize(
    ("stdout", "stderr", "expected"),
    [
        (TRACEBACK, SPARK_NOISE, ("Unknown Error.", "ValueError: day is not a date", "stdout")),
        (
            "",
            TRACEBACK + SPARK_NOISE,
            ("Unknown Error.", "ValueError: day is not a date", "stderr"),
        ),
        ("", JAVA, ("Unknown Error.", "Caused by: java.io.IOException: disk full", "stderr")),
        ("", EXISTS, ("Output directory already exists.", EXISTS.strip(), "stderr")),
        (
            "",
            "Error: Failed to load class\njava.lang.ClassNotFoundException: org.x.Main\n",
            ("Main Class not found.", "java.lang.ClassNotFoundException: org.x.Main", "stderr"),
        ),
        ("all well so far\n", "one\ntwo\n\n", ("Unknown Error.", "two", "stderr")),
    ],
)
def test_the_telling_line_is_found(
    tmp_path: Path, stdout: str, stderr: str, expected: tuple[str, str, str]
) -> None:
    (tmp_path / "stdout").write_text(stdout)
    (tmp_path / "stderr").write_text(stderr)

    details = failure_details(tmp_path / "stdout", tmp_path / "stderr", "s3://b/steps/s-1")

    reason, message, log = expected
    assert details == {
        "Reason": reason,
        "Message": message,
        "LogFile": f"s3://b/steps/s-1/{log}.gz",
    }


def test_a_silent_failure_has_no_message(tmp_path: Path) -> None:
    details = failure_details(tmp_path / "stdout", tmp_path / "stderr", None)

    assert details == {"Reason": "Unknown Error."}


def test_a_long_message_is_cut(tmp_path: Path) -> None:
    (tmp_path / "stderr").write_text("x" * 5000)

    assert len(failure_details(tmp_path / "no", tmp_path / "stderr", None)["Message"]) == 1000
