"""EMR's errors. Newer operations refuse with another class than the oldest ones."""

from __future__ import annotations

from moto.core.exceptions import ServiceException


class InvalidRequestException(ServiceException):
    """What the operations of 2013 and later answer to a bad request."""

    code = "InvalidRequestException"


class ValidationException(ServiceException):
    """What the oldest operations answer: RunJobFlow, AddJobFlowSteps, TerminateJobFlows..."""

    code = "ValidationException"


def unknown_cluster(cluster_id: str) -> InvalidRequestException:
    """Make the newer operations' error for an id that EMR does not know."""
    return InvalidRequestException(f"Cluster id '{cluster_id}' is not valid.")


def unknown_step(step_id: str) -> InvalidRequestException:
    """Make the error for a step id that the cluster does not have."""
    return InvalidRequestException(f"Step id '{step_id}' is not valid.")


def unknown_job_flow(_: str = "") -> ValidationException:
    """Make the oldest operations' error for an id that EMR does not know."""
    return ValidationException("Specified job flow ID does not exist.")
