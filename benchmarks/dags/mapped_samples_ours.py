"""Many Batch jobs in one mapped task."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from aws_jobs.operators.batch import BatchJobOperator
from benchmarks.sleeping_jobs import POOL, QUEUE, SLEEP


@dag(schedule=None, params={"seconds": [1]}, tags=["batch", "benchmark"])
def mapped_samples_ours() -> None:
    """Run a job for each."""

    @task
    def samples(*, params: Any = None) -> list[dict[str, str]]:
        return [{"seconds": str(seconds)} for seconds in params["seconds"]]

    BatchJobOperator.partial(
        task_id="sleep",
        job={
            "jobName": "sleep",
            "jobQueue": QUEUE,
            "jobDefinition": SLEEP,
            "parameters": {"seconds": "{{ seconds }}"},
        },
        pool=POOL,
        retries=3,
        retry_delay=timedelta(seconds=1),
    ).expand(values=samples())


mapped_samples_ours()
