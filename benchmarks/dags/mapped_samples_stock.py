"""Many Batch jobs in one mapped task, with the stock operator."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.amazon.aws.operators.batch import BatchOperator
from airflow.sdk import dag, task

from benchmarks.sleeping_jobs import POOL, QUEUE, SLEEP


@dag(schedule=None, params={"seconds": [1]}, tags=["batch", "benchmark"])
def mapped_samples_stock() -> None:
    """Run a job for each."""

    @task
    def samples(*, params: Any = None) -> list[dict[str, str]]:
        return [{"seconds": str(seconds)} for seconds in params["seconds"]]

    BatchOperator.partial(
        task_id="sleep",
        job_name="sleep",
        job_queue=QUEUE,
        job_definition=SLEEP,
        deferrable=True,
        poll_interval=10,
        pool=POOL,
        retries=3,
        retry_delay=timedelta(seconds=1),
    ).expand(parameters=samples())


mapped_samples_stock()
