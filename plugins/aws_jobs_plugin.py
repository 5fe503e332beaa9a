"""Imports the package once in each of Airflow's long-running processes.

The dag processor forks a child for each parse, and LocalExecutor one for each task: what the parent
has imported, they need not. With ``[core] lazy_load_plugins`` off, Airflow loads its plugins when a
process starts. An edit below ``plugins/`` is seen after a restart.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

from airflow.plugins_manager import AirflowPlugin

import aws_jobs


class AwsJobsPlugin(AirflowPlugin):
    """Nothing but the imports."""

    name = "aws_jobs"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Import every module of the package; none imports boto3, nor does anything else.

        A program that has begun to import the package before Airflow is in the middle of it.
        """
        if any(name.startswith("aws_jobs.") for name in sys.modules):
            return
        for module in pkgutil.walk_packages(aws_jobs.__path__, "aws_jobs."):
            importlib.import_module(module.name)
