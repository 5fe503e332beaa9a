"""What Batch refuses of a request, before anything is made.

Texts of errors say plainly what is wrong; Batch's own are not documented.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from localaws.batch.errors import ClientException
from localaws.batch.instances import unknown_types
from localaws.batch.states import (
    ARRAY_SIZE_RANGE,
    ATTEMPTS_RANGE,
    DISABLED,
    ENABLED,
    MAX_DEFINITION_SIZE,
    MAX_DEPENDENCIES,
    MAX_ENVIRONMENTS_OF_QUEUE,
    MAX_EXIT_RULES,
    MAX_SUBMIT_SIZE,
    MAX_TAGS,
    MIN_MEMORY,
    MIN_TIMEOUT,
    N_TO_N,
    SEQUENTIAL,
)

#: Names of jobs, queues, environments and definitions:
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_SubmitJob.html
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_EvaluateOnExit.html
_PATTERN = re.compile(r"[A-Za-z0-9.:\s]*\*?")
_EXIT_CODE_PATTERN = re.compile(r"[0-9]*\*?")


def check_name(kind: str, name: str) -> None:
    """Refuse a name that Batch refuses."""
    if not _NAME.fullmatch(name):
        raise ClientException(
            f"{kind} should match valid pattern: it must start with a letter or a digit and have "
            f"at most 128 letters, digits, hyphens and underscores, unlike {name!r}."
        )


def check_environment(request: dict[str, Any]) -> None:
    """Refuse a compute environment that is not a managed one of EC2 instances."""
    check_name("computeEnvironmentName", request.get("computeEnvironmentName") or "")
    check_state(request.get("state"))
    check_tags(request.get("tags"))
    resources = request.get("computeResources") or {}
    if request.get("type") != "MANAGED" or resources.get("type") not in ("EC2", "SPOT"):
        raise ClientException(
            "localaws has MANAGED compute environments of type EC2 and SPOT only, not "
            f"{request.get('type')} ones of type {resources.get('type')}."
        )
    for name in ("subnets", "instanceTypes"):
        if not resources.get(name):
            raise ClientException(f"computeResources.{name} must be given.")
    check_resources(resources)


def check_resources(resources: dict[str, Any]) -> None:
    """Refuse computeResources, or a change of them, that cannot be."""
    wrong = unknown_types(resources.get("instanceTypes") or [])
    if wrong:
        raise ClientException(f"instanceTypes: {', '.join(wrong)} is not known.")
    most = resources.get("maxvCpus")
    if most is not None and most < max(1, resources.get("minvCpus") or 0):
        raise ClientException(f"maxvCpus must be at least 1 and at least minvCpus, not {most}.")


def check_queue(request: dict[str, Any]) -> None:
    """Refuse a job queue, or a change of one, that cannot be."""
    if "jobQueueName" in request:
        check_name("jobQueueName", request["jobQueueName"])
    check_state(request.get("state"))
    check_tags(request.get("tags"))
    _refuse(request, "schedulingPolicyArn", "jobStateTimeLimitActions", "serviceEnvironmentOrder")
    order = request.get("computeEnvironmentOrder")
    if order is not None and not 1 <= len(order) <= MAX_ENVIRONMENTS_OF_QUEUE:
        raise ClientException(
            f"A job queue takes 1 to {MAX_ENVIRONMENTS_OF_QUEUE} compute environments, not "
            f"{len(order)}."
        )


def check_state(state: str | None) -> None:
    """Refuse a state of a queue or an environment."""
    if state not in (None, ENABLED, DISABLED):
        raise ClientException(f"state must be {ENABLED} or {DISABLED}, not {state}.")


def check_definition(request: dict[str, Any]) -> None:
    """Refuse a job definition that does not say what to run, and on how much."""
    check_name("jobDefinitionName", request.get("jobDefinitionName") or "")
    check_tags(request.get("tags"))
    container = request.get("containerProperties")
    if request.get("type") != "container" or not container:
        raise ClientException("localaws has jobs of type container with containerProperties only.")
    if "FARGATE" in (request.get("platformCapabilities") or []):
        raise ClientException("localaws has no Fargate: platformCapabilities must be EC2.")
    if len(json.dumps(request)) > MAX_DEFINITION_SIZE:
        raise ClientException(f"A job definition has at most {MAX_DEFINITION_SIZE} bytes.")
    _refuse(container, "secrets")
    if not container.get("image"):
        raise ClientException("containerProperties.image must be given.")
    check_resource_requirements(container.get("resourceRequirements"))
    driver = (container.get("logConfiguration") or {}).get("logDriver", "awslogs")
    if driver != "awslogs":
        raise ClientException(f"localaws has the log driver awslogs only, not {driver}.")
    check_variables(container.get("environment"))
    check_retry(request.get("retryStrategy"))
    check_timeout(request.get("timeout"))


def check_resource_requirements(requirements: Sequence[dict[str, str]] | None) -> None:
    """Refuse requirements of a kind that is not there, or twice the same."""
    kinds = [one.get("type") for one in requirements or []]
    if len(set(kinds)) < len(kinds):
        raise ClientException("resourceRequirements must have each type once.")
    for one in requirements or []:
        if one.get("type") not in ("VCPU", "MEMORY"):
            raise ClientException(f"localaws has no {one.get('type')} for resourceRequirements.")
        if not re.fullmatch("[0-9]+", str(one.get("value"))):
            raise ClientException(
                f"resourceRequirements: {one['type']} must be a whole number, not "
                f"{one.get('value')!r}."
            )


def check_size(vcpus: int, memory: int) -> None:
    """Refuse a job without vCPUs or memory."""
    if vcpus < 1:
        raise ClientException("A job on EC2 needs at least 1 vCPU (resourceRequirements VCPU).")
    if memory < MIN_MEMORY:
        raise ClientException(
            f"A job needs at least {MIN_MEMORY} MiB of memory (resourceRequirements MEMORY)."
        )


def check_variables(variables: Sequence[dict[str, str]] | None) -> None:
    """Refuse environment variables that are Batch's own."""
    for one in variables or []:
        if str(one.get("name", "")).startswith("AWS_BATCH"):
            raise ClientException(
                f"Environment variable {one['name']}: names that start with AWS_BATCH are reserved."
            )


def check_retry(strategy: dict[str, Any] | None) -> None:
    """Refuse a retryStrategy."""
    least, most = ATTEMPTS_RANGE
    attempts = (strategy or {}).get("attempts")
    if attempts is not None and not least <= attempts <= most:
        raise ClientException(f"attempts must be between {least} and {most}, not {attempts}.")
    rules = (strategy or {}).get("evaluateOnExit") or []
    if len(rules) > MAX_EXIT_RULES:
        raise ClientException(f"evaluateOnExit takes at most {MAX_EXIT_RULES} rules.")
    if rules and attempts is None:
        raise ClientException("attempts must be given when evaluateOnExit is.")
    for rule in rules:
        _check_exit_rule(rule)


def _check_exit_rule(rule: dict[str, str]) -> None:
    if str(rule.get("action", "")).upper() not in ("RETRY", "EXIT"):
        raise ClientException(f"evaluateOnExit: action {rule.get('action')} is not RETRY or EXIT.")
    patterns = {"onStatusReason": _PATTERN, "onReason": _PATTERN, "onExitCode": _EXIT_CODE_PATTERN}
    for name, allowed in patterns.items():
        if not allowed.fullmatch(rule.get(name, "")) or len(rule.get(name, "")) > 512:
            raise ClientException(f"evaluateOnExit: {name} {rule[name]!r} is not a valid pattern.")


def check_timeout(timeout: dict[str, Any] | None) -> None:
    """Refuse a timeout below Batch's least."""
    seconds = (timeout or {}).get("attemptDurationSeconds")
    if seconds is not None and seconds < MIN_TIMEOUT:
        raise ClientException(f"attemptDurationSeconds must be at least {MIN_TIMEOUT}.")


def check_tags(tags: dict[str, str] | None) -> None:
    """Refuse more tags than a resource takes."""
    if len(tags or {}) > MAX_TAGS:
        raise ClientException(f"A resource takes at most {MAX_TAGS} tags.")


def check_submit(request: dict[str, Any]) -> None:
    """Refuse a SubmitJob for what it says by itself."""
    check_name("jobName", request.get("jobName") or "")
    if len(json.dumps(request)) > MAX_SUBMIT_SIZE:
        raise ClientException(f"A SubmitJob request has at most {MAX_SUBMIT_SIZE} bytes.")
    overrides = request.get("containerOverrides") or {}
    check_resource_requirements(overrides.get("resourceRequirements"))
    check_variables(overrides.get("environment"))
    check_retry(request.get("retryStrategy"))
    check_timeout(request.get("timeout"))
    check_tags(request.get("tags"))
    least, most = ARRAY_SIZE_RANGE
    size = (request.get("arrayProperties") or {}).get("size")
    if size is not None and not least <= size <= most:
        raise ClientException(f"arrayProperties.size must be between {least} and {most}.")
    _check_dependencies(request.get("dependsOn") or [], is_array=size is not None)
    _refuse(
        request,
        "consumableResourcePropertiesOverride",
        "ecsPropertiesOverride",
        "eksPropertiesOverride",
        "nodeOverrides",
        "schedulingPriorityOverride",
        "shareIdentifier",
    )


def _refuse(request: dict[str, Any], *names: str) -> None:
    """Refuse what would have no effect here."""
    for name in names:
        if request.get(name):
            raise ClientException(f"localaws has no {name}.")


def _check_dependencies(dependencies: Sequence[dict[str, str]], *, is_array: bool) -> None:
    if len(dependencies) > MAX_DEPENDENCIES:
        raise ClientException(f"A job depends on at most {MAX_DEPENDENCIES} jobs.")
    for one in dependencies:
        kind = one.get("type")
        if kind not in (None, SEQUENTIAL, N_TO_N):
            raise ClientException(f"dependsOn: type {kind} is not {SEQUENTIAL} or {N_TO_N}.")
        if kind and not is_array:
            raise ClientException(f"dependsOn: only an array job can depend {kind}.")
        if kind != SEQUENTIAL and not one.get("jobId"):
            raise ClientException("dependsOn: a jobId must be given.")


def check_number(ids: Sequence[str], limit: int, what: str) -> None:
    """Refuse more ids than an operation takes."""
    if len(ids) > limit:
        raise ClientException(f"At most {limit} {what} are allowed, not {len(ids)}.")
