"""A small Spark job that touches what jobs usually touch, while the JVM records its classes.

Runs in Spark's environment, as a step: CSV, JSON and Parquet on ``s3://``, a schema, dates, a join,
a window, aggregates, SQL, an error that is caught, and a Python function on the workers.
"""

from __future__ import annotations

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

PLACE = "s3://training"


def main() -> None:
    """Write, read, join, group, write again."""
    spark = SparkSession.builder.appName("training").getOrCreate()
    rows = [(str(n), f"c{n % 7}", n * 1.5, f"2013-01-{n % 28 + 1:02d}") for n in range(500)]
    frame = spark.createDataFrame(rows, "id string, carrier string, delay double, day string")
    frame.write.mode("overwrite").option("header", True).csv(f"{PLACE}/csv")
    schema = T.StructType(
        [
            T.StructField("id", T.IntegerType()),
            T.StructField("carrier", T.StringType()),
            T.StructField("delay", T.DoubleType()),
            T.StructField("day", T.DateType()),
            T.StructField("broken", T.StringType()),
        ]
    )
    reader = spark.read.schema(schema).option("header", True)
    flights = reader.option("columnNameOfCorruptRecord", "broken").csv(f"{PLACE}/csv").cache()
    named = flights.withColumn("month", F.date_format("day", "yyyy-MM")).filter("delay >= 0")
    named = named.withColumn("late", F.when(F.col("delay") > 15, 1).otherwise(0))
    named = named.withColumn("name", F.regexp_replace(F.trim(F.lower("carrier")), "c", "k"))
    named.repartition(2).write.mode("overwrite").partitionBy("carrier").parquet(f"{PLACE}/parquet")
    stored = spark.read.parquet(f"{PLACE}/parquet")
    place = Window.partitionBy("carrier").orderBy(F.desc("delay"), "id")
    ranked = stored.withColumn("rank", F.row_number().over(place)).filter("rank <= 3")
    means = stored.groupBy("carrier").agg(
        F.count("*"), F.avg("delay"), F.expr("percentile_approx(delay, 0.9)"), F.sum("late")
    )
    ranked.join(means, "carrier").write.mode("overwrite").json(f"{PLACE}/json")
    stored.createOrReplaceTempView("flights")
    spark.sql("SELECT carrier, max(delay) FROM flights GROUP BY carrier ORDER BY 2 DESC").show()
    lengths = stored.rdd.map(lambda row: len(row.name)).reduce(max)
    try:
        spark.read.parquet(f"{PLACE}/nowhere").count()
    except Exception as error:
        print("caught", type(error).__name__)
    print(stored.count(), means.collect()[0], lengths)
    spark.stop()


if __name__ == "__main__":
    main()
