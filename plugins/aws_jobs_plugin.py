"""Imports the package, and AWS's SDK, once in each of Airflow's long-running processes.

The dag processor forks a child for each parse, and the executors one for each task: what the parent
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

# What our modules import inside functions, as a parse does not need it, and every task does.
_SDK = ("boto3", "airflow.providers.amazon.aws.hooks.base_aws")


class AwsJobsPlugin(AirflowPlugin):
    """Nothing but the imports."""

    name = "aws_jobs"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Import every module of the package, and what all tasks need.

        A program that has begun to import the package before Airflow is in the middle of it.
        """
        if any(name.startswith("aws_jobs.") for name in sys.modules):
            return
        modules = pkgutil.walk_packages(aws_jobs.__path__, "aws_jobs.")
        for name in [*(module.name for module in modules), *_SDK]:
            importlib.import_module(name)
