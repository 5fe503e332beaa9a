"""What EMR refuses of a request, before anything is made.

Texts of errors are EMR's where they are known (unknown ids, release labels, protection); the others
say the same in plain words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localaws.emr.errors import InvalidRequestException, ValidationException
from localaws.emr.states import (
    CANCEL_AND_WAIT,
    CONTINUE,
    HA_PRIMARIES,
    IDLE_TIMEOUT_RANGE,
    MAX_ACTIVE_STEPS,
    MAX_STEP_CONCURRENCY,
    MAX_STEP_STRING,
    TERMINATE_CLUSTER,
    TERMINATE_JOB_FLOW,
)

ACTIONS = (CONTINUE, CANCEL_AND_WAIT, TERMINATE_CLUSTER, TERMINATE_JOB_FLOW)


def check_run_job_flow(request: dict[str, Any], releases: Sequence[str]) -> None:
    """Refuse a RunJobFlow that EMR refuses.

    Raises:
        ValidationException: with EMR's text for the first thing that is wrong.
    """
    release = request.get("ReleaseLabel")
    if not release:
        raise ValidationException("Either ReleaseLabel or AmiVersion must be specified")
    if release not in releases:
        raise ValidationException(f"The supplied release label is invalid: {release}.")
    check_instances(request.get("Instances") or {})
    check_concurrency(request.get("StepConcurrencyLevel"))
    check_idle_timeout(request.get("AutoTerminationPolicy"))
    check_steps(request.get("Steps") or [], request.get("StepConcurrencyLevel") or 1, 0)


def check_instances(instances: dict[str, Any]) -> None:
    """Refuse what cannot be a cluster."""
    groups, fleets = instances.get("InstanceGroups"), instances.get("InstanceFleets")
    if groups and fleets:
        raise ValidationException(
            "Instance fleets and instance groups are mutually exclusive. The EMR cluster specified "
            "in the request uses both."
        )
    if not (groups or fleets or instances.get("MasterInstanceType")):
        raise ValidationException("Must provide instance types, instance groups or instance fleets")
    if groups:
        _check_groups(groups, instances)
    if fleets:
        _check_one_primary([fleet.get("InstanceFleetType") for fleet in fleets])


def _check_groups(groups: list[dict[str, Any]], instances: dict[str, Any]) -> None:
    _check_one_primary([group.get("InstanceRole") for group in groups])
    primaries = next(g["InstanceCount"] for g in groups if g.get("InstanceRole") == "MASTER")
    if primaries not in (1, HA_PRIMARIES):
        raise ValidationException(
            f"Master instance group must have exactly {HA_PRIMARIES} instances for HA clusters."
        )
    has_subnet = instances.get("Ec2SubnetId") or instances.get("Ec2SubnetIds")
    if primaries == HA_PRIMARIES and not has_subnet:
        raise ValidationException("Subnet is required for clusters with multiple master nodes.")


def _check_one_primary(roles: list[Any]) -> None:
    if roles.count("MASTER") != 1:
        raise ValidationException("Exactly one master instance group or fleet must be specified")


def check_concurrency(level: int | None) -> None:
    """Refuse a StepConcurrencyLevel out of 1..256."""
    if level is not None and not 1 <= level <= MAX_STEP_CONCURRENCY:
        raise ValidationException(
            f"StepConcurrencyLevel must be between 1 and {MAX_STEP_CONCURRENCY}, not {level}."
        )


def check_idle_timeout(policy: dict[str, Any] | None) -> None:
    """Refuse an IdleTimeout out of EMR's range."""
    least, most = IDLE_TIMEOUT_RANGE
    timeout = (policy or {}).get("IdleTimeout")
    if timeout is not None and not least <= timeout <= most:
        raise ValidationException(
            f"IdleTimeout must be between {least} and {most} seconds, not {timeout}."
        )


def check_steps(steps: Sequence[dict[str, Any]], concurrency: int, active: int) -> None:
    """Refuse steps for what they are, or for their number on top of the ``active`` ones."""
    if active + len(steps) > MAX_ACTIVE_STEPS:
        raise ValidationException("Maximum number of active steps for job flow exceeded")
    for step in steps:
        _check_step(step, concurrency)


def _check_step(step: dict[str, Any], concurrency: int) -> None:
    action = step.get("ActionOnFailure") or TERMINATE_CLUSTER
    if action not in ACTIONS:
        raise ValidationException(f"ActionOnFailure {action} is not valid.")
    if concurrency > 1 and action != CONTINUE:
        raise ValidationException(
            f"ActionOnFailure {action} is not valid for step {step.get('Name')}: it must be "
            f"{CONTINUE} when StepConcurrencyLevel is greater than 1."
        )
    jar = step.get("HadoopJarStep") or {}
    if not jar.get("Jar"):
        raise ValidationException(f"The step {step.get('Name')} names no jar.")
    length = sum(len(str(arg)) for arg in jar.get("Args") or [])
    if length > MAX_STEP_STRING:
        raise ValidationException(
            f"The arguments of step {step.get('Name')} have {length} characters; at most "
            f"{MAX_STEP_STRING} are allowed."
        )


def check_number(ids: Sequence[str], limit: int, what: str, *, newer: bool = True) -> None:
    """Refuse more ids than an operation takes."""
    if len(ids) > limit:
        message = f"At most {limit} {what} are allowed, not {len(ids)}."
        raise (InvalidRequestException if newer else ValidationException)(message)
