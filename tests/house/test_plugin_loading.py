"""The package is there once Airflow is: before the dag processor and the scheduler fork."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import aws_jobs
from scripts.local_env import read_env_file

ROOT = Path(__file__).parents[2]
SAY = "import airflow, json, sys; print(json.dumps(sorted(sys.modules)))"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules of a process that has imported Airflow, with the settings of airflow.env."""
    environ = {
        **os.environ,
        **read_env_file(ROOT / "airflow.env"),
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", SAY], env=environ, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_module_of_the_package_is_loaded_under_its_own_name(loaded):
    modules = {each.name for each in pkgutil.walk_packages(aws_jobs.__path__, "aws_jobs.")}

    assert modules <= loaded


def test_so_is_the_sdk_which_every_task_needs(loaded):
    assert {"boto3", "airflow.providers.amazon.aws.hooks.base_aws"} <= loaded


def test_what_only_one_task_needs_is_not(loaded):
    assert not {"plotly", "numpy", "airflow.providers.amazon.aws.operators.emr"} & loaded
