"""What can be known to be wrong is known before a cluster is paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from aws_jobs.exceptions import InputError, InvalidRequestError
from aws_jobs.flights_params import RAW_COLUMNS
from aws_jobs.sensors.preflight import EmrPreflightSensor
from localaws.process import LocalAws
from tests.plugins.conftest import SETTINGS
from tests.plugins.harness import TaskInstance, bash_step, job_flow, render, resume, wait

BUCKET = "localaws-data"
CODE = f"s3://{BUCKET}/code/spark/preflight.py"
ROW = ",".join("1" for _ in RAW_COLUMNS)
GOOD = f"{','.join(RAW_COLUMNS)}\n{ROW}\n".encode()


def sensor(key: str = "raw/flights/day.csv", **arguments: Any) -> EmrPreflightSensor:
    step = bash_step("true")
    step["HadoopJarStep"]["Args"] = ["spark-submit", CODE, "--day", "{{ day }}"]
    arguments = {"job_flow": job_flow(), "steps": [step], **arguments}
    return EmrPreflightSensor(
        task_id="check",
        input_uri=f"s3://{BUCKET}/{key}",
        columns=RAW_COLUMNS,
        values={"day": "2013-01-01"},
        **arguments,
    )


@pytest.fixture(autouse=True)
def code(aws: LocalAws) -> None:
    aws.client("s3").put_object(Bucket=BUCKET, Key="code/spark/preflight.py", Body=b"pass")


def put(aws: LocalAws, body: bytes, key: str = "raw/flights/day.csv") -> None:
    aws.client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)


def check(operator: EmrPreflightSensor, ti: TaskInstance, run_type: str = "manual") -> Any:
    context = render(operator, ti)
    context["dag_run"].run_type = run_type
    return operator.execute(context)  # type: ignore[arg-type]


def test_a_good_day_is_handed_over(aws: LocalAws, ti: TaskInstance) -> None:
    put(aws, GOOD)

    assert check(sensor(), ti) == {
        "day": "2013-01-01",
        "input_uri": f"s3://{BUCKET}/raw/flights/day.csv",
    }


def test_nothing_is_asked_of_emr(aws: LocalAws, ti: TaskInstance) -> None:
    put(aws, GOOD)
    aws.reset_calls()

    check(sensor(), ti)

    assert set(aws.calls()) == {"s3"}


@pytest.mark.parametrize("run_type", ["manual", "backfill"])
def test_a_run_that_somebody_asked_for_fails_without_data(
    aws: LocalAws, ti: TaskInstance, run_type: str
) -> None:
    with pytest.raises(InputError, match=r"raw/flights/never\.csv does not exist"):
        check(sensor("raw/flights/never.csv"), ti, run_type)


def test_a_scheduled_run_waits_for_its_data(aws: LocalAws, ti: TaskInstance) -> None:
    operator = sensor("raw/flights/late.csv")
    with pytest.raises(TaskDeferred) as deferred:
        check(operator, ti, "scheduled")
    put(aws, GOOD, "raw/flights/late.csv")

    checked = resume(operator, ti, deferred.value, wait(deferred.value))

    assert checked["input_uri"].endswith("late.csv")


def test_a_scheduled_run_whose_data_never_comes_is_skipped(
    aws: LocalAws, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = {**SETTINGS, "input_wait_seconds": 1}
    monkeypatch.setenv("AIRFLOW_VAR_AWS_JOBS", json.dumps(impatient))
    operator = sensor("raw/flights/never.csv")
    with pytest.raises(TaskDeferred) as deferred:
        check(operator, ti, "scheduled")

    with pytest.raises(AirflowSkipException, match="No cluster was started"):
        resume(operator, ti, deferred.value, wait(deferred.value))


@pytest.mark.parametrize(
    ("body", "problem"),
    [(b"", "empty"), (b"\x1f\x8b\x08", "UTF-8"), (GOOD.split(b"\n")[0], "no rows")],
)
def test_data_that_cannot_be_used_is_refused_for_good(
    aws: LocalAws, ti: TaskInstance, body: bytes, problem: str
) -> None:
    put(aws, body)

    with pytest.raises(AirflowFailException, match=problem):
        check(sensor(), ti)


def test_all_problems_come_at_once(aws: LocalAws, ti: TaskInstance) -> None:
    operator = sensor(job_flow=job_flow(ReleaseLabel="6", Colour="red"))
    operator.steps = [
        {**operator.steps[0], "ActionOnFailure": "PANIC"},
        {
            **bash_step("true"),
            "HadoopJarStep": {
                "Jar": "command-runner.jar",
                "Args": ["spark-submit", f"s3://{BUCKET}/code/spark/none.py"],
            },
        },
    ]

    with pytest.raises(InvalidRequestError) as refused:
        check(operator, ti)

    report = "\n".join(refused.value.problems)
    assert len(refused.value.problems) == 4
    for part in ("ReleaseLabel", "Colour", "ActionOnFailure", "code/spark/none.py"):
        assert part in report


def test_an_input_that_is_no_object_is_refused(aws: LocalAws, ti: TaskInstance) -> None:
    operator = sensor()
    operator.input_uri = "/tmp/day.csv"

    with pytest.raises(InputError, match="s3://bucket/key"):
        check(operator, ti)


def test_the_specs_of_the_repository_pass(aws: LocalAws, ti: TaskInstance) -> None:
    from aws_jobs.specs import load_spec

    specs = Path(__file__).parents[2] / "include" / "emr"
    put(aws, GOOD)
    for name in ("ingest", "report"):
        put(aws, b"pass", f"code/spark/flights_{name}.py")
    uris = dict.fromkeys(("raw_uri", "output_uri", "flights_uri", "rejected_uri"), "s3://b/k")
    for cluster in ("daily_cluster.yaml", "three_primaries_cluster.yaml"):
        operator = sensor(
            job_flow=load_spec(specs / cluster),
            steps=[load_spec(specs / "ingest_step.yaml"), load_spec(specs / "report_step.yaml")],
        )
        operator.values |= uris
        context = ti.context | {"params": {"instance_type": "m5.xlarge", "core_instances": 3}}
        operator.render_template_fields(context, operator.get_template_env())  # type: ignore[arg-type]

        assert operator.execute(context)["day"] == "2013-01-01"  # type: ignore[arg-type]
