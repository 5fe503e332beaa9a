"""A failed step's retry finds its cluster alive."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from aws_jobs.operators.emr import EmrStepOperator
from aws_jobs.settings import Settings
from aws_jobs.specs import load_spec

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("spec", sorted((ROOT / "include" / "emr").glob("*_cluster.yaml")))
def test_the_idle_policy_is_longer_than_what_comes_before_a_retry(spec: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(dag_folder=str(ROOT / "dags")).dags["emr_daily_etl"]
    steps = [task for task in dag.tasks if isinstance(task, EmrStepOperator)]
    log_wait = timedelta(seconds=Settings.model_fields["log_wait_seconds"].default)
    idle = timedelta(seconds=load_spec(spec)["AutoTerminationPolicy"]["IdleTimeout"])

    assert steps
    assert all(task.retries == 0 or log_wait + task.retry_delay < idle for task in steps)
