"""Many Batch jobs in one mapped task: with ours, and with the stock operator."""

from __future__ import annotations

from typing import Any

from airflow.providers.amazon.aws.operators.batch import BatchOperator
from airflow.sdk import dag, task

from aws_jobs.operators.batch import BatchJobOperator
from benchmarks.sleeping_jobs import QUEUE, SLEEP

POOL = "batch_submissions"


@task
def samples(*, params: Any = None) -> list[dict[str, str]]:
    """Give each sample's length in seconds."""
    return [{"seconds": str(seconds)} for seconds in params["seconds"]]


@dag(schedule=None, params={"seconds": [1]}, tags=["batch", "benchmark"])
def mapped_samples_ours() -> None:
    """Run a job for each."""
    BatchJobOperator.partial(
        task_id="sleep",
        job={
            "jobName": "sleep",
            "jobQueue": QUEUE,
            "jobDefinition": SLEEP,
            "parameters": {"seconds": "{{ seconds }}"},
        },
        pool=POOL,
    ).expand(values=samples())


@dag(schedule=None, params={"seconds": [1]}, tags=["batch", "benchmark"])
def mapped_samples_stock() -> None:
    """Run a job for each."""
    BatchOperator.partial(
        task_id="sleep",
        job_name="sleep",
        job_queue=QUEUE,
        job_definition=SLEEP,
        deferrable=True,
        poll_interval=10,
        pool=POOL,
    ).expand(parameters=samples())


mapped_samples_ours()
mapped_samples_stock()
