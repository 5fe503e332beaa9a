"""A real Spark job reads and writes s3:// as an EMR step."""

from __future__ import annotations

import json

import pytest

from localaws.settings import Settings
from localaws.spark import S3A_JARS, s3a_jars
from tests.localaws.conftest import BUCKET, Emr

SETTINGS = Settings.from_environment()
missing = [
    str(path) for path in (SETTINGS.spark_env / "bin" / "spark-submit",) if not path.exists()
] + ([] if len(s3a_jars(SETTINGS.spark_jars)) == len(S3A_JARS) else [str(SETTINGS.spark_jars)])

pytestmark = [
    pytest.mark.spark,
    pytest.mark.skipif(bool(missing), reason=f"`make setup-spark` makes {missing}"),
]

JOB = """
import json, os, sys
from pyspark.sql import SparkSession

source, target = sys.argv[1:]
spark = SparkSession.builder.appName("sums").getOrCreate()
frame = spark.read.csv(source, header=True, inferSchema=True)
sums = frame.groupBy("k").sum("v").withColumnRenamed("sum(v)", "v")
sums.repartition(1).write.mode("overwrite").partitionBy("k").parquet(target)
stored = {row.k: row.v for row in spark.read.parquet(target).collect()}
print(json.dumps({
    "stored": stored,
    "partitions": spark.conf.get("spark.sql.shuffle.partitions"),
    "master": spark.sparkContext.master,
    "mode": os.environ.get("MODE"),
}))
"""


def test_a_spark_step_reads_and_writes_s3(emr: Emr) -> None:
    app = emr.put("code/sums.py", JOB)
    source = emr.put("in/sums.csv", "k,v\na,1\nb,2\na,3\n")
    target = f"s3://{BUCKET}/sums"
    settings = {"spark.sql.shuffle.partitions": "3", "spark.executor.instances": "4"}
    submit = ["spark-submit", "--deploy-mode", "cluster", "--executor-memory", "64g"]
    submit += ["--conf", "spark.yarn.appMasterEnv.MODE=night"]
    cluster = emr.start(
        Configurations=[{"Classification": "spark-defaults", "Properties": settings}]
    )
    steps = [
        {
            "Name": name,
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {"Jar": "command-runner.jar", "Args": [*submit, app, *args]},
        }
        for name, args in (("good", [source, target]), ("bad", [f"{target}/nowhere", target]))
    ]

    good, bad = emr.client.add_job_flow_steps(JobFlowId=cluster, Steps=steps)["StepIds"]
    done = emr.client.get_waiter("step_complete")
    done.wait(ClusterId=cluster, StepId=good, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    printed = json.loads(emr.log(cluster, "steps", good, "stdout"))

    assert printed == {
        "stored": {"a": 4, "b": 2},
        "partitions": "3",
        "master": SETTINGS.spark_master,
        "mode": "night",
    }
    listed = emr.s3.list_objects_v2(Bucket=BUCKET, Prefix="sums/")["Contents"]
    keys = {item["Key"].rsplit("/", 1)[0] for item in listed}
    assert keys == {"sums", "sums/k=a", "sums/k=b"}
    while emr.step_state(cluster, bad) in ("PENDING", "RUNNING"):
        pass
    details = emr.step(cluster, bad)["Status"]["FailureDetails"]
    assert "PATH_NOT_FOUND" in details["Message"]
    assert details["LogFile"].endswith("/stdout.gz")
