"""Sum up one day's flights: delays by carrier and route, from what the ingest stored.

    spark-submit flights_report.py --day 2013-01-01 \
        --flights s3://bucket/flights/day=2013-01-01/j-2AXXXXXXGAPLF/flights \
        --rejected s3://bucket/flights/day=2013-01-01/j-2AXXXXXXGAPLF/rejected \
        --output s3://bucket/flights/day=2013-01-01/j-2AXXXXXXGAPLF

Below the output it writes `delays/` (Parquet, DELAY_COLUMNS) and then `report.json`: the day's
figures and the row counts, which it counted itself from storage. The summary exists only when
everything before it is complete. Running the job again with the same output replaces what is there.

It fails, with one sentence on stderr and exit 1, when a dataset is missing, when there are no
flights, or when flights of another day are among them.

Ships alone and runs on PySpark 3.5 and on the Python 3.9 of EMR 7.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from typing import TYPE_CHECKING, Any

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

ROUTE = ("carrier", "origin", "dest")
# More than this many minutes after the schedule is late.
LATE_MINUTES = 15

# What delays/ holds, as Spark types; the Glue table of include/infra/storage.yaml has the same.
# Delays are minutes, early ones below zero. `arrived` counts the flights whose arrival delay is
# known, which those that were diverted have not.
DELAY_COLUMNS = {
    "carrier": "string",
    "origin": "string",
    "dest": "string",
    "flights": "bigint",
    "cancelled": "bigint",
    "departed": "bigint",
    "arrived": "bigint",
    "dep_delay_mean": "double",
    "dep_delay_p90": "double",
    "arr_delay_mean": "double",
    "arr_delay_p90": "double",
    "dep_late_share": "double",
    "arr_late_share": "double",
}


class ReportError(Exception):
    """The stored day cannot be summed up; the message is for the person on call."""


def main() -> int:
    """Run the job that the command line describes; return the exit code."""
    arguments = parse_arguments(sys.argv[1:])
    spark = start_session(f"flights_report {arguments.day}")
    try:
        summary = report(
            spark, arguments.day, arguments.flights, arguments.rejected, arguments.output
        )
    except ReportError as error:
        failure = f"flights_report: {error}"
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
    parser = argparse.ArgumentParser(description="Sum up one day's flights.")
    parser.add_argument("--day", required=True, type=date.fromisoformat, help="2013-01-01")
    parser.add_argument("--flights", required=True, help="URI of the ingest's good rows")
    parser.add_argument("--rejected", required=True, help="URI of the ingest's bad rows")
    parser.add_argument("--output", required=True, help="URI of the folder to write below")
    return parser.parse_args(arguments)


def start_session(name: str) -> SparkSession:
    """Start Spark with the settings that the result depends on, whatever the cluster's are."""
    return (
        SparkSession.builder.appName(name)
        .config("spark.sql.session.timeZone", "UTC")
        # A day's flights are few: the default of 200 would only cost time.
        .config("spark.sql.shuffle.partitions", 2)
        .getOrCreate()
    )


def report(
    spark: SparkSession, day: date, flights_uri: str, rejected_uri: str, output: str
) -> dict[str, Any]:
    """Do the whole job and return the summary that it stored.

    Raises ReportError when the stored day cannot be summed up.
    """
    output = output.rstrip("/")
    # What an earlier attempt left must not be taken for the end of this one.
    delete_object(spark, f"{output}/report.json")

    flights = read_dataset(spark, flights_uri)
    rows_rejected = read_dataset(spark, rejected_uri).count()
    totals = day_totals(flights, day, flights_uri)
    delays = delays_by_route(flights).coalesce(1).sortWithinPartitions(*ROUTE)
    delays.write.mode("overwrite").parquet(f"{output}/delays")
    stored = spark.read.parquet(f"{output}/delays")
    rows_delays, flights_in_delays = stored.agg(F.count("*"), F.sum("flights")).first()
    if flights_in_delays != totals["rows_flights"]:
        raise ReportError(
            f"{totals['rows_flights']} flights were read from {flights_uri}, but the delays stored"
            f" in {output}/delays are of {flights_in_delays}: one of them changed under the run;"
            " run it again."
        )

    summary = {
        "day": day.isoformat(),
        "flights": flights_uri,
        "rejected": rejected_uri,
        "rows_rejected": rows_rejected,
        "rows_delays": rows_delays,
        **totals,
    }
    write_object(spark, f"{output}/report.json", json.dumps(summary, indent=2) + "\n")
    return summary


def read_dataset(spark: SparkSession, uri: str) -> DataFrame:
    """Read a Parquet dataset; raise ReportError when it is not there."""
    try:
        return spark.read.parquet(uri)
    except AnalysisException as error:
        reason = str(error).strip().splitlines()[0]
        raise ReportError(f"{uri} cannot be read, run the ingest first: {reason}") from error


def measures() -> dict[str, Column]:
    """Give the figures that are computed for a route and for the whole day, by name."""
    return {
        "cancelled": F.count_if("cancelled"),
        "departed": F.count("dep_delay"),
        "arrived": F.count("arr_delay"),
        "dep_delay_mean": F.mean("dep_delay"),
        "dep_delay_p90": F.percentile("dep_delay", 0.9),
        "arr_delay_mean": F.mean("arr_delay"),
        "arr_delay_p90": F.percentile("arr_delay", 0.9),
        "dep_late_share": late_share("dep_delay"),
        "arr_late_share": late_share("arr_delay"),
    }


def late_share(delay: str) -> Column:
    """Give the share of the known delays that are late; null when none is known."""
    return F.mean((F.col(delay) > LATE_MINUTES).cast("double"))


def delays_by_route(flights: DataFrame) -> DataFrame:
    """Sum up the flights by carrier and route, as DELAY_COLUMNS."""
    figures = {"flights": F.count("*"), **measures()}
    summed = flights.groupBy(*ROUTE).agg(*[value.alias(name) for name, value in figures.items()])
    return summed.select(*[F.col(name).cast(kind) for name, kind in DELAY_COLUMNS.items()])


def day_totals(flights: DataFrame, day: date, flights_uri: str) -> dict[str, Any]:
    """Sum up the whole day; raise ReportError when there is nothing, or another day's flights."""
    figures = {
        "rows_flights": F.count("*"),
        "other_days": F.count_if(~F.col("flight_date").eqNullSafe(F.lit(day))),
        **measures(),
    }
    row = flights.agg(*[value.alias(name) for name, value in figures.items()]).first()
    totals = row.asDict()
    other_days = totals.pop("other_days")
    if totals["rows_flights"] == 0:
        raise ReportError(f"{flights_uri} holds no flights: there is nothing to report of {day}.")
    if other_days:
        raise ReportError(
            f"{other_days} of {totals['rows_flights']} flights in {flights_uri} are not of {day}:"
            " --day and --flights do not belong together."
        )
    return totals


def say_on_stderr(spark: SparkSession, message: str) -> None:
    """Write a line to the JVM's stderr: spark-submit makes Python's own a part of its stdout."""
    spark._jvm.java.lang.System.err.println(message)


def hadoop_path(spark: SparkSession, uri: str) -> tuple[Any, Any]:
    """Give Hadoop's path and file system for a URI: the same for s3://, hdfs:// and file://."""
    path = spark._jvm.org.apache.hadoop.fs.Path(uri)
    return path, path.getFileSystem(spark._jsc.hadoopConfiguration())


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
