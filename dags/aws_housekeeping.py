"""
# Ends clusters and Batch jobs that nobody needs any more

Every hour it compares what lives at AWS with this Airflow's runs: an external job whose run has
ended or was deleted, a Batch job whose task has ended, and what is past its `aws-jobs:ends-by`.

`find_orphans` looks and changes nothing. `end_orphans` ends what is past its time; for the others
it waits ten minutes, looks again, and ends what nobody needs still. **It is skipped where there is
nothing to do.** What has no owner that can be told, or belongs to a paused or removed DAG, is left
alone: the log of `find_orphans` names it, for a person to look at.

**When it fails** something could not be looked at or ended: the log of `end_orphans` says what. It
has done the rest. Mend that, and clear `end_orphans` to try again now: it looks at everything once
more. The next hour tries it anyway.

By hand, also without this DAG: `python -m aws_jobs.reaper`, see `docs/housekeeping.md`.

Settings: the Airflow variable `aws_jobs`. Connection: `aws_default`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, Param, dag, task

from aws_jobs import reaper_task


@dag(
    schedule=CronTriggerTimetable("17 * * * *", timezone="UTC"),
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "data-engineering",
        "retries": 1,
        "retry_delay": timedelta(minutes=1),
        "execution_timeout": timedelta(minutes=70),
    },
    params={
        "grace_minutes": Param(
            10,
            type="number",
            minimum=0,
            maximum=50,
            title="Grace (minutes)",
            description="How long an owner must have been gone before its jobs are ended",
        )
    },
    tags=["emr", "batch", "housekeeping"],
    doc_md=__doc__,
)
def aws_housekeeping() -> None:
    @task
    def find_orphans(*, ti: Any = None) -> dict[str, Any]:
        return reaper_task.find_orphans(ti)

    reaper_task.EndOrphansOperator(
        task_id="end_orphans",
        found=find_orphans(),
        grace_minutes="{{ params.grace_minutes }}",
    )


aws_housekeeping()
