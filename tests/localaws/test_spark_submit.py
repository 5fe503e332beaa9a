"""A cluster's spark-submit command line becomes this machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from localaws.settings import Settings
from localaws.spark import base_conf, classification, spark_environment
from localaws.spark_submit import is_cluster_only, read_properties, translate

APP = "s3://b/job.py"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([APP, "--day", "2013-01-01"], [APP, "--day", "2013-01-01"]),
        (["--master", "yarn", "--deploy-mode", "cluster", APP], [APP]),
        (["--deploy-mode=cluster", "--queue=daily", APP], [APP]),
        (["--num-executors", "9", "--executor-memory", "8g", "--executor-cores", "4", APP], [APP]),
        (["--archives", "s3://b/env.tar.gz#environment", "--supervise", APP], [APP]),
        (["--conf", "spark.executor.memory=8g", APP], [APP]),
        (["--conf", "spark.dynamicAllocation.enabled=false", APP], [APP]),
        (
            ["--conf", "spark.sql.shuffle.partitions=4", APP],
            ["--conf", "spark.sql.shuffle.partitions=4", APP],
        ),
        (["--conf=spark.x=a=b", APP], ["--conf", "spark.x=a=b", APP]),
        (
            ["--py-files", "s3://b/lib.zip", "--name", "n", "--driver-memory", "2g", APP],
            ["--py-files", "s3://b/lib.zip", "--name", "n", "--driver-memory", "2g", APP],
        ),
        (["--class", "org.x.Main", "--jars=a.jar,b.jar", "s3://b/x.jar"], None),
        (["--verbose", APP], ["--verbose", APP]),
        # what follows the application is its own, whatever it looks like
        ([APP, "--master", "x", "--conf", "y"], [APP, "--master", "x", "--conf", "y"]),
    ],
)
def test_what_only_a_cluster_honours_is_dropped_and_the_rest_is_kept(
    args: list[str], expected: list[str] | None
) -> None:
    translated, env = translate(args)

    assert translated == (
        expected or ["--class", "org.x.Main", "--jars", "a.jar,b.jar", "s3://b/x.jar"]
    )
    assert env == {}


def test_the_application_masters_environment_is_the_drivers() -> None:
    translated, env = translate(["--conf", "spark.yarn.appMasterEnv.DAY=2013-01-01", APP])

    assert translated == [APP]
    assert env == {"DAY": "2013-01-01"}


def test_a_properties_file_is_read_and_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "p.conf"
    path.write_text("# c\nspark.a  1\nspark.b=2\nspark.yarn.queue x\n\n")

    translated, _ = translate(["--properties-file", str(path), "--conf", "spark.b=3", APP])

    assert read_properties(path) == {"spark.a": "1", "spark.b": "2", "spark.yarn.queue": "x"}
    assert translated == ["--conf", "spark.a=1", "--conf", "spark.b=3", APP]


def test_an_option_without_its_value_is_refused() -> None:
    with pytest.raises(ValueError, match="--name needs a value"):
        translate(["--name"])


def test_a_prefix_is_not_mistaken_for_a_setting() -> None:
    assert is_cluster_only("spark.executor.memory")
    assert not is_cluster_only("spark.executor.memoryUnit")
    assert is_cluster_only("spark.yarn.tags")


def test_the_clusters_classifications_apply(tmp_path: Path) -> None:
    spark = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "pyspark"
    spark.mkdir(parents=True)
    settings = Settings(spark_env=tmp_path / "env", spark_jars=tmp_path, spark_cds=tmp_path / "no")
    request = {
        "Configurations": [
            {
                "Classification": "spark-defaults",
                "Properties": {
                    "spark.sql.shuffle.partitions": "7",
                    "spark.dynamicAllocation.enabled": "true",
                    "spark.yarn.appMasterEnv.TOKEN": "t",
                },
            },
            {
                "Classification": "spark-env",
                "Configurations": [{"Classification": "export", "Properties": {"MODE": "night"}}],
            },
        ]
    }

    env = spark_environment(settings, "http://127.0.0.1:1", tmp_path, request)
    conf = read_properties(Path(env["LOCALAWS_SPARK_PROPERTIES"]))

    assert (env["TOKEN"], env["MODE"], env["SPARK_HOME"]) == ("t", "night", str(spark))
    assert conf["spark.sql.shuffle.partitions"] == "7"
    assert conf["spark.hadoop.fs.s3a.endpoint"] == "http://127.0.0.1:1"
    assert not any(name.startswith(("spark.dynamicAllocation", "spark.yarn")) for name in conf)
    assert "SharedArchiveFile" not in env["SPARK_SUBMIT_OPTS"]
    assert classification({}, "spark-defaults") == {}


def test_a_class_data_archive_is_used_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "env" / "lib" / "python3.12" / "site-packages" / "pyspark").mkdir(parents=True)
    archive = tmp_path / "classes.jsa"
    archive.touch()
    settings = Settings(spark_env=tmp_path / "env", spark_jars=tmp_path, spark_cds=archive)

    options = spark_environment(settings, "http://x", tmp_path, {})["SPARK_SUBMIT_OPTS"]

    assert f"-XX:SharedArchiveFile={archive}" in options
    assert "-Xshare:auto" in options, "an archive that does not fit must not stop the JVM"


def test_without_sparks_environment_a_step_gets_none(tmp_path: Path) -> None:
    assert spark_environment(Settings(spark_env=tmp_path), "http://x", tmp_path, {}) == {}


def test_spark_listens_on_loopback_only(tmp_path: Path) -> None:
    conf = base_conf(Settings(), "http://x", tmp_path)

    assert conf["spark.driver.bindAddress"] == conf["spark.driver.host"] == "127.0.0.1"
    assert conf["spark.ui.enabled"] == "false"
