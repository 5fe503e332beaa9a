"""From a job definition and a SubmitJob request to what the job runs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from localaws.batch.models import JobDefinition, JobSpec
from localaws.batch.validation import check_size

PLACEHOLDER = "Ref::"


def job_spec(definition: JobDefinition, request: dict[str, Any]) -> JobSpec:
    """Merge a request's overrides into its definition."""
    made = definition.request
    overrides = request.get("containerOverrides") or {}
    container = merged_container(made["containerProperties"], overrides)
    parameters = {**(made.get("parameters") or {}), **(request.get("parameters") or {})}
    vcpus, memory = resources_of(container)
    check_size(vcpus, memory)
    command = [substituted(word, parameters) for word in container.get("command") or []]
    timeout = request.get("timeout") or made.get("timeout") or {}
    return JobSpec(
        container={**container, "command": command},
        command=command,
        parameters=parameters,
        vcpus=vcpus,
        memory=memory,
        retry=dict(request.get("retryStrategy") or made.get("retryStrategy") or {}),
        timeout=timeout.get("attemptDurationSeconds"),
    )


def merged_container(properties: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the containerProperties with containerOverrides.

    ``vcpus`` and ``memory`` of old do not override resourceRequirements:
    https://docs.aws.amazon.com/batch/latest/APIReference/API_ContainerOverrides.html
    """
    container = copy.deepcopy(properties)
    for name in ("command", "vcpus", "memory", "instanceType"):
        if overrides.get(name):
            container[name] = overrides[name]
    for name, key in (("environment", "name"), ("resourceRequirements", "type")):
        container[name] = _merged(container.get(name) or [], overrides.get(name) or [], key)
    for name in ("mountPoints", "volumes", "ulimits", "secrets"):
        container.setdefault(name, [])
    return container


def _merged(
    made: Sequence[dict[str, str]], over: Sequence[dict[str, str]], key: str
) -> list[dict[str, str]]:
    return list({one[key]: dict(one) for one in [*made, *over]}.values())


def resources_of(container: dict[str, Any]) -> tuple[int, int]:
    """Return vCPUs and MiB of a container; 0 for what is not given."""
    required = {one["type"]: int(one["value"]) for one in container["resourceRequirements"]}
    return (
        required.get("VCPU", int(container.get("vcpus") or 0)),
        required.get("MEMORY", int(container.get("memory") or 0)),
    )


def substituted(word: str, parameters: dict[str, str]) -> str:
    """Put a parameter in the place of ``Ref::name``; without one the word stays as it is.

    >>> substituted("Ref::sample", {"sample": "S1"}), substituted("Ref::other", {"sample": "S1"})
    ('S1', 'Ref::other')
    """
    if not word.startswith(PLACEHOLDER):
        return word
    return str(parameters.get(word.removeprefix(PLACEHOLDER), word))
