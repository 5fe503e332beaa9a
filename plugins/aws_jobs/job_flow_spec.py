"""Check job flows and steps before AWS does, and before they cost money: all problems at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from aws_jobs.exceptions import InvalidRequestError
from aws_jobs.request_shapes import coerce, input_shape, shape_problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# https://docs.aws.amazon.com/emr/latest/APIReference/API_HadoopJarStepConfig.html
_LONGEST_STEP_STRING = 10_240
# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-steps.html
_STEPS_PER_CLUSTER = 256
# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-auto-termination-policy.html
_IDLE_SECONDS = (60, 604_800)
_RELEASE_LABEL = re.compile(r"^emr-(\d+)\.(\d+)\.(\d+)$")
_PRIMARIES_FOR_HIGH_AVAILABILITY = 3


def conform_job_flow(job_flow: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Give a rendered RunJobFlow request the API's types, and check it.

    :returns: the request, and warnings.
    :raises InvalidRequestError: with every problem.
    """
    shape = input_shape("emr", "RunJobFlow")
    request = coerce(dict(job_flow), shape)
    problems = [*shape_problems(request, shape), *_job_flow_problems(request)]
    for step in _dicts(request.get("Steps")):
        problems += _step_problems(step, _concurrency(request))
    if problems:
        raise InvalidRequestError(
            f"The job flow {request.get('Name', '(without a name)')!r} is not valid", problems
        )
    return request, _warnings(request)


def conform_steps(
    steps: Sequence[Mapping[str, Any]], *, concurrency: int = 1
) -> list[dict[str, Any]]:
    """Give rendered steps the API's types, and check them.

    :param concurrency: the cluster's StepConcurrencyLevel, where it is known.
    :raises InvalidRequestError: with every problem of every step.
    """
    shape = input_shape("emr", "AddJobFlowSteps").members["Steps"].member
    conformed = [coerce(dict(step), shape) for step in steps]
    problems = [] if conformed else ["there is no step"]
    if len(conformed) > _STEPS_PER_CLUSTER:
        problems.append(f"{len(conformed)} steps; a cluster takes {_STEPS_PER_CLUSTER}")
    for step in conformed:
        problems += shape_problems(step, shape, prefix=f"step {step.get('Name')!r}: ")
        problems += _step_problems(step, concurrency)
    if problems:
        raise InvalidRequestError("The steps are not valid", problems)
    return conformed


def _job_flow_problems(request: Mapping[str, Any]) -> list[str]:
    instances = request.get("Instances")
    instances = instances if isinstance(instances, dict) else {}
    problems = [
        *_release_problems(request.get("ReleaseLabel")),
        *_instance_problems(instances),
        *_idle_problems(request, instances),
    ]
    if not instances.get("KeepJobFlowAliveWhenNoSteps") and not request.get("Steps"):
        problems.append(
            "Instances.KeepJobFlowAliveWhenNoSteps is false and there are no Steps: the cluster "
            "would end before a step arrives"
        )
    if not _of_primaries(instances):
        problems.append("Instances names no primary (MASTER) node")
    return problems


def _release_problems(label: Any) -> list[str]:
    if isinstance(label, str) and _RELEASE_LABEL.match(label):
        return []
    return [f"ReleaseLabel is {label!r}; it has the form emr-7.12.0"]


def _instance_problems(instances: Mapping[str, Any]) -> list[str]:
    groups, fleets = instances.get("InstanceGroups"), instances.get("InstanceFleets")
    problems = []
    if groups and fleets:
        problems.append("Instances has InstanceGroups and InstanceFleets; EMR takes one of them")
    if _of_primaries(instances) == _PRIMARIES_FOR_HIGH_AVAILABILITY:
        if not (instances.get("Ec2SubnetId") or instances.get("Ec2SubnetIds")):
            problems.append("three primary nodes need Instances.Ec2SubnetId")
    elif _of_primaries(instances) > 1:
        problems.append(
            f"Instances has {_of_primaries(instances)} primary nodes; EMR takes one or three"
        )
    return problems


def _idle_problems(request: Mapping[str, Any], instances: Mapping[str, Any]) -> list[str]:
    policy = request.get("AutoTerminationPolicy")
    seconds = policy.get("IdleTimeout") if isinstance(policy, dict) else None
    if seconds is None:
        return [
            "AutoTerminationPolicy.IdleTimeout is missing: without it a cluster whose Airflow is "
            "gone costs money for ever"
        ]
    low, high = _IDLE_SECONDS
    if isinstance(seconds, int) and not low <= seconds <= high:
        return [
            f"AutoTerminationPolicy.IdleTimeout is {seconds}; it may be {low} to {high} seconds"
        ]
    return []


def _step_problems(step: Mapping[str, Any], concurrency: int) -> list[str]:
    name = f"step {step.get('Name')!r}"
    jar_step = step.get("HadoopJarStep")
    jar_step = jar_step if isinstance(jar_step, dict) else {}
    arguments = jar_step.get("Args")
    problems = []
    if isinstance(arguments, str):
        problems.append(f"{name}: Args is one text; write each argument as an item of a list")
        arguments = []
    arguments = arguments if isinstance(arguments, list) else []
    if jar_step.get("Jar") == "command-runner.jar" and not any(map(_is_word, arguments)):
        problems.append(f"{name}: the command is empty")
    problems += [
        f"{name}: argument {index} has {len(text)} characters; EMR takes {_LONGEST_STEP_STRING}"
        for index, text in enumerate([jar_step.get("Jar", ""), *arguments])
        if isinstance(text, str) and len(text) > _LONGEST_STEP_STRING
    ]
    action = step.get("ActionOnFailure", "TERMINATE_CLUSTER")
    if concurrency > 1 and action != "CONTINUE":
        problems.append(
            f"{name}: ActionOnFailure is {action}; with a StepConcurrencyLevel of {concurrency} "
            "EMR takes CONTINUE only"
        )
    return problems


def _warnings(request: Mapping[str, Any]) -> list[str]:
    if _of_primaries(request["Instances"]) == _PRIMARIES_FOR_HIGH_AVAILABILITY:
        return [
            "With three primary nodes EMR turns termination protection on and ignores "
            "AutoTerminationPolicy: only Airflow ends this cluster"
        ]
    return []


def _of_primaries(instances: Mapping[str, Any]) -> int:
    groups = [
        group.get("InstanceCount", 0)
        for group in _dicts(instances.get("InstanceGroups"))
        if group.get("InstanceRole") == "MASTER"
    ]
    fleets = [
        fleet.get("TargetOnDemandCapacity", 0) + fleet.get("TargetSpotCapacity", 0)
        for fleet in _dicts(instances.get("InstanceFleets"))
        if fleet.get("InstanceFleetType") == "MASTER"
    ]
    uniform = [1] if instances.get("MasterInstanceType") else []
    return sum(count for count in [*groups, *fleets, *uniform] if isinstance(count, int))


def _concurrency(request: Mapping[str, Any]) -> int:
    level = request.get("StepConcurrencyLevel", 1)
    return level if isinstance(level, int) else 1


def _dicts(items: Any) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _is_word(argument: Any) -> bool:
    return isinstance(argument, str) and bool(argument.strip())
