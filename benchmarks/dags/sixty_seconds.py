"""Many Batch jobs of a minute each, in one mapped task."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, task

from aws_jobs.operators.batch import BatchJobOperator


@dag(schedule=None, params={"jobs": 200}, tags=["batch", "benchmark"])
def sixty_seconds() -> None:
    """Sleep in each of them."""

    @task
    def numbers(*, params: Any = None) -> list[dict[str, str]]:
        return [{"number": str(number)} for number in range(params["jobs"])]

    BatchJobOperator.partial(
        task_id="sleep",
        job={
            "jobName": "sleep-{{ number }}",
            "jobQueue": "benchmark",
            "jobDefinition": "sixty-seconds",
        },
        pool="batch_submissions",
    ).expand(values=numbers())


sixty_seconds()
