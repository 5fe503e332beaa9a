"""``spark-submit`` as steps find it on their PATH: a cluster's command line, run on one machine.

Drops what only a cluster can honour (master, deploy mode, queue, numbers and sizes of executors),
turns ``spark.yarn.appMasterEnv.X`` into the environment, keeps everything else, and becomes
pyspark's own spark-submit. Standard library only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Options of a cluster that take a value. https://spark.apache.org/docs/3.5.0/running-on-yarn.html
DROPPED = {
    "--master",
    "--deploy-mode",
    "--queue",
    "--num-executors",
    "--executor-cores",
    "--executor-memory",
    "--total-executor-cores",
    "--driver-cores",
    "--principal",
    "--keytab",
    "--archives",
    "--proxy-user",
}
DROPPED_FLAGS = {"--supervise"}
#: Options with a value that are honoured.
KEPT = {
    "--class",
    "--name",
    "--jars",
    "--packages",
    "--exclude-packages",
    "--repositories",
    "--py-files",
    "--files",
    "--driver-memory",
    "--driver-java-options",
    "--driver-library-path",
    "--driver-class-path",
}
#: Settings that only a cluster can honour; a dot at the end means all below.
CLUSTER_ONLY = (
    "spark.master",
    "spark.submit.deployMode",
    "spark.yarn.",
    "spark.dynamicAllocation.",
    "spark.shuffle.service.",
    "spark.executor.instances",
    "spark.executor.cores",
    "spark.executor.memory",
    "spark.executor.memoryOverhead",
    "spark.driver.memoryOverhead",
    "spark.pyspark.python",
    "spark.pyspark.driver.python",
    "spark.eventLog.",
    "spark.history.",
    "spark.driver.host",
    "spark.driver.bindAddress",
)
#: What YARN sets as environment of the driver in cluster mode.
DRIVER_ENVIRONMENT = "spark.yarn.appMasterEnv."


def is_cluster_only(name: str) -> bool:
    """Say whether a setting has no meaning on one machine."""
    return any(
        name == known or (known.endswith(".") and name.startswith(known)) for known in CLUSTER_ONLY
    )


def driver_environment(conf: dict[str, str]) -> dict[str, str]:
    """Return the environment variables that ``spark.yarn.appMasterEnv.X`` settings ask for."""
    return {
        name.removeprefix(DRIVER_ENVIRONMENT): value
        for name, value in conf.items()
        if name.startswith(DRIVER_ENVIRONMENT)
    }


def translate(args: list[str]) -> tuple[list[str], dict[str, str]]:
    """Turn a cluster's arguments into this machine's, and say what the environment needs.

    >>> translate(["--deploy-mode", "cluster", "--conf", "spark.yarn.appMasterEnv.A=1", "s3://b/x.py"])
    (['s3://b/x.py'], {'A': '1'})

    Raises:
        ValueError: an option has no value.
    """
    kept: list[str] = []
    conf: dict[str, str] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            # the application; what follows is its own
            return [*_conf_arguments(conf), *kept, word, *rest], driver_environment(conf)
        option, has_value, value = word.partition("=")
        if option in DROPPED | KEPT | {"--conf", "-c", "--properties-file"} and not has_value:
            if not rest:
                raise ValueError(f"spark-submit: {option} needs a value")
            value = rest.pop(0)
        if option in ("--conf", "-c"):
            name, _, setting = value.partition("=")
            conf[name.strip()] = setting
        elif option == "--properties-file":
            conf = {**read_properties(Path(value)), **conf}
        elif option in KEPT:
            kept += [option, value]
        elif option not in DROPPED | DROPPED_FLAGS:
            kept.append(word)
    return [*_conf_arguments(conf), *kept], driver_environment(conf)


def read_properties(path: Path) -> dict[str, str]:
    """Read a Spark properties file: a name, blanks or ``=``, a value."""
    conf = {}
    for line in path.read_text().splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            name, _, value = text.replace("=", " ", 1).partition(" ")
            conf[name] = value.strip()
    return conf


def _conf_arguments(conf: dict[str, str]) -> list[str]:
    return [
        part
        for name, value in conf.items()
        if not is_cluster_only(name)
        for part in ("--conf", f"{name}={value}")
    ]


def main(args: list[str]) -> None:
    """Become pyspark's spark-submit."""
    home = os.environ.get("SPARK_HOME")
    if not home:
        sys.exit(
            "localaws: there is no Spark on this machine: LOCALAWS_SPARK_ENV names no environment "
            "with pyspark. `make` builds it (.venv-spark)."
        )
    try:
        translated, env = translate(args)
    except (ValueError, OSError) as error:
        sys.exit(f"localaws: {error}")
    command = [
        str(Path(home) / "bin" / "spark-submit"),
        "--properties-file",
        os.environ["LOCALAWS_SPARK_PROPERTIES"],
        *translated,
    ]
    os.execve(command[0], command, {**os.environ, **env})  # noqa: S606 - no shell, as it should be


if __name__ == "__main__":
    main(sys.argv[1:])
