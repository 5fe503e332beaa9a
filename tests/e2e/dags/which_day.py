"""Says which day a run is for: the timetable, the parameter and the macro of `emr_daily_etl`."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import CronDataIntervalTimetable, dag, task

from aws_jobs.flights_params import flights_params
from aws_jobs.run_day import run_day

# Two, because Airflow takes one backfill of a DAG at a time.
for dag_id in ("which_day", "which_day_too"):

    @dag(
        dag_id=dag_id,
        schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
        start_date=datetime(2013, 1, 1, tzinfo=UTC),
        catchup=False,
        params={"day": flights_params("flights")["day"]},
        user_defined_macros={"run_day": run_day},
    )
    def which_day() -> None:
        @task
        def tell(day: str) -> str:
            return day

        tell("{{ run_day(dag_run, params) }}")

    which_day()
