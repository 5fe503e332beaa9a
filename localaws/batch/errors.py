"""Batch's errors: nearly all that it refuses is a ClientException."""

from __future__ import annotations

from moto.core.exceptions import AWSError


class ClientException(AWSError):
    """A request that cannot be served as it is; HTTP 400."""

    TYPE = "ClientException"


def unknown(kind: str, name: str) -> ClientException:
    """Make the error for a queue, an environment or a definition that does not exist."""
    return ClientException(f"{kind} {name} does not exist.")
