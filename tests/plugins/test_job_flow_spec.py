"""Requests are checked before AWS sees them: all problems at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aws_jobs.exceptions import InvalidRequestError
from aws_jobs.job_flow_spec import conform_job_flow, conform_steps
from aws_jobs.specs import load_spec
from tests.plugins.harness import bash_step, job_flow

SPECS = Path(__file__).parents[2] / "include" / "emr"


def problems_of(request: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        conform_job_flow(request)
    return "\n".join(refused.value.problems)


def instances(**overrides: Any) -> dict[str, Any]:
    return {**job_flow()["Instances"], **overrides}


def primaries(count: int) -> list[dict[str, Any]]:
    return [{"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": count}]


FLEET = {
    "InstanceFleetType": "MASTER",
    "TargetOnDemandCapacity": 1,
    "InstanceTypeConfigs": [{"InstanceType": "m5.xlarge"}],
}


def test_a_good_request_passes_unchanged() -> None:
    assert conform_job_flow(job_flow()) == (job_flow(), [])


def test_text_becomes_what_the_api_wants() -> None:
    request = job_flow(
        StepConcurrencyLevel="2",
        AutoTerminationPolicy={"IdleTimeout": "900"},
        Instances=instances(KeepJobFlowAliveWhenNoSteps="true"),
    )

    conformed, _ = conform_job_flow(request)

    assert conformed["StepConcurrencyLevel"] == 2
    assert conformed["AutoTerminationPolicy"]["IdleTimeout"] == 900
    assert conformed["Instances"]["KeepJobFlowAliveWhenNoSteps"] is True


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"Colour": "red"}, "Colour"),
        ({"ReleaseLabel": "6.8.0"}, "emr-7.12.0"),
        ({"ReleaseLabel": None}, "ReleaseLabel"),
        ({"StepConcurrencyLevel": "many"}, "StepConcurrencyLevel"),
        ({"ScaleDownBehavior": "SLOWLY"}, "TERMINATE_AT_INSTANCE_HOUR"),
        ({"AutoTerminationPolicy": {}}, "IdleTimeout is missing"),
        ({"AutoTerminationPolicy": {"IdleTimeout": 5}}, "60 to 604800"),
        ({"Instances": instances(InstanceFleets=[FLEET])}, "one of them"),
        ({"Instances": instances(KeepJobFlowAliveWhenNoSteps=False)}, "no Steps"),
        ({"Instances": instances(InstanceGroups=primaries(2))}, "one or three"),
        ({"Instances": instances(InstanceGroups=primaries(3), Ec2SubnetId="")}, "Ec2SubnetId"),
        ({"Instances": instances(InstanceGroups=[])}, "no primary"),
        ({"Instances": {**instances(), "Ec2SubnetId": 7}}, "Ec2SubnetId"),
        (
            {
                "StepConcurrencyLevel": 2,
                "Steps": [{**bash_step("true"), "ActionOnFailure": "CANCEL_AND_WAIT"}],
            },
            "CONTINUE only",
        ),
    ],
)
def test_a_bad_request_is_refused(overrides: dict[str, Any], problem: str) -> None:
    assert problem in problems_of(job_flow(**overrides))


def test_all_problems_come_at_once() -> None:
    request = job_flow(ReleaseLabel="6", AutoTerminationPolicy={"IdleTimeout": 1}, Colour="red")

    assert len(problems_of(request).splitlines()) == 3


def test_three_primaries_are_warned_about() -> None:
    _, warnings = conform_job_flow(job_flow(Instances=instances(InstanceGroups=primaries(3))))

    assert "ignores AutoTerminationPolicy" in warnings[0]


def test_fleets_are_as_good_as_groups() -> None:
    fleets = instances(InstanceFleets=[FLEET])
    del fleets["InstanceGroups"]

    assert conform_job_flow(job_flow(Instances=fleets))[1] == []


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ({**bash_step("true"), "HadoopJarStep": {"Jar": "command-runner.jar"}}, "empty"),
        (
            {
                **bash_step("true"),
                "HadoopJarStep": {"Jar": "command-runner.jar", "Args": [" "]},
            },
            "empty",
        ),
        (
            {
                **bash_step("true"),
                "HadoopJarStep": {"Jar": "command-runner.jar", "Args": "spark-submit a.py"},
            },
            "one text",
        ),
        (bash_step("x" * 10_241), "10241 characters"),
        ({"Name": "no jar"}, "HadoopJarStep"),
        ({**bash_step("true"), "ActionOnFailure": "PANIC"}, "TERMINATE_CLUSTER"),
    ],
)
def test_a_bad_step_is_refused(step: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        conform_steps([step])

    assert problem in "\n".join(refused.value.problems)


def test_no_step_and_too_many_steps_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no step"):
        conform_steps([])
    with pytest.raises(InvalidRequestError, match="takes 256"):
        conform_steps([bash_step("true")] * 257)


def test_a_spec_is_one_mapping(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")

    with pytest.raises(ValueError, match="no mapping"):
        load_spec(path)


def test_every_cluster_spec_names_an_idle_policy() -> None:
    specs = [load_spec(path) for path in sorted(SPECS.glob("*_cluster.yaml"))]

    assert len(specs) == 2
    assert {spec["AutoTerminationPolicy"]["IdleTimeout"] for spec in specs} == {600}
