"""What an error of an AWS call says: whether it took effect, and may be repeated."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState

T = TypeVar("T")

log = logging.getLogger(__name__)

# https://docs.aws.amazon.com/general/latest/gr/api-retries.html, and the codes botocore retries.
_THROTTLING_CODES = frozenset(
    {
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)


def error_code(error: BaseException) -> str:
    """Return AWS's error code, or an empty string where the error is not an answer of AWS."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def error_message(error: BaseException) -> str:
    """Return AWS's message, or the error as text."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Message") or error)


def is_throttled(error: BaseException) -> bool:
    """Whether AWS refused the call because of its rate: it took no effect."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return error_code(error) in _THROTTLING_CODES or status == 429


def is_without_effect(error: BaseException) -> bool:
    """Whether the call took no effect, and may take it later: throttled, or AWS was not reached."""
    from botocore.exceptions import (
        ConnectTimeoutError,
        EndpointConnectionError,
        ProxyConnectionError,
    )

    not_reached = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError)
    return is_throttled(error) or isinstance(error, not_reached)


def is_outcome_unknown(error: BaseException) -> bool:
    """Whether the call may have taken effect without a good answer: 5xx, broken connection."""
    from botocore.exceptions import ClientError, HTTPClientError, SSLError
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return isinstance(status, int) and status >= 500
    return isinstance(error, HTTPClientError | ResponseParserError | SSLError)


def is_passing(error: BaseException) -> bool:
    """Whether a call that may safely be made twice is worth repeating."""
    return is_without_effect(error) or is_outcome_unknown(error)


def call_patiently(
    call: Callable[[], T],
    *,
    budget: float,
    repeat: Callable[[BaseException], bool] = is_passing,
) -> T:
    """Repeat a call with jitter, while AWS throttles or fails.

    :param budget: seconds after which the last error is raised.
    :param repeat: after which errors; the default is for calls that may safely be made twice.
    :raises botocore.exceptions.ClientError: at once for an answer that repeating cannot change.
    """
    from tenacity import (
        Retrying,
        retry_if_exception,
        stop_after_delay,
        wait_random_exponential,
    )

    return Retrying(
        retry=retry_if_exception(repeat),
        wait=wait_random_exponential(multiplier=0.5, max=20),
        stop=stop_after_delay(budget),
        before_sleep=_note,
        reraise=True,
    )(call)


def _note(state: RetryCallState) -> None:
    """Say that a call is repeated: where AWS is silent, a person may have to do something."""
    if state.outcome is None or (error := state.outcome.exception()) is None:
        return
    level = logging.INFO if error_code(error) else logging.WARNING
    log.log(level, "Asking AWS again in %.0f s: %s", state.upcoming_sleep, error)
