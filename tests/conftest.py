"""The environment of every test: airflow.env, a home of its own, no account of AWS."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import botocore.loaders

from scripts.local_env import read_env_file

ROOT = Path(__file__).parents[1]

# Airflow reads its settings when it is first imported, so they are set before any test module is.
os.environ.update(read_env_file(ROOT / "airflow.env"))
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-tests-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(ROOT / "dags")
os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(ROOT / "plugins")
# Nothing listens there: a test that forgets its localaws fails at once instead of reaching AWS.
os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"

# Every new client would read its service's model anew, for a tenth of a second of CPU.
botocore.loaders.create_loader = functools.cache(botocore.loaders.create_loader)
