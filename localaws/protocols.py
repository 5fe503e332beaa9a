"""What a request asks for, and how its service words an error: AWS speaks four dialects."""

from __future__ import annotations

import io
import json
import logging
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from botocore.exceptions import UnknownServiceError
from moto.core.routing import get_service_router
from moto.core.utils import get_service_model
from moto.moto_server.werkzeug_app import BackendRequest
from werkzeug.exceptions import NotFound

log = logging.getLogger(__name__)

#: moto's service name, where botocore's is another.
BOTOCORE_NAMES = {"awslambda": "lambda"}
UNKNOWN = "Unknown"

#: How services that do not say ThrottlingException refuse a call that comes too early.
#: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
#: https://docs.aws.amazon.com/batch/latest/userguide/service_limits.html
THROTTLES = {
    "s3": (503, "SlowDown", "Please reduce your request rate."),
    "batch": (429, "TooManyRequestsException", "Too Many Requests"),
}
#: Every other service: status, code, message of JSON and of query services.
JSON_THROTTLE = (400, "ThrottlingException", "Rate exceeded")
QUERY_THROTTLE = (400, "Throttling", "Rate exceeded")

Answer = tuple[int, list[tuple[str, str]], bytes]


def operation_of(service: str, environ: dict[str, Any], body: bytes) -> str:
    """Name the operation that a request asks for, ``Unknown`` if its service has none such."""
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        return str(target).rsplit(".", 1)[-1]
    for text in (str(environ.get("QUERY_STRING", "")), _form(environ, body)):
        action = parse_qs(text).get("Action")
        if action:
            return action[0]
    return _operation_by_path(service, environ)


def _form(environ: dict[str, Any], body: bytes) -> str:
    is_form = str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded")
    return body.decode("utf-8", "replace") if is_form else ""


def _operation_by_path(service: str, environ: dict[str, Any]) -> str:
    # a throw-away request without a body: only its line and headers are looked at
    request = BackendRequest({**environ, "wsgi.input": io.BytesIO()})
    try:
        operation, _ = get_service_router(BOTOCORE_NAMES.get(service, service)).match(request)
    except (NotFound, NotImplementedError):
        return UNKNOWN
    except Exception:  # the name is for the counter: serving goes on without it
        log.exception("cannot name %s %s", environ.get("REQUEST_METHOD"), environ.get("PATH_INFO"))
        return UNKNOWN
    return str(operation.name)


def protocol_of(service: str) -> str:
    """Return ``json``, ``rest-json``, ``query``, ``ec2`` or ``rest-xml``; json if unknown."""
    try:
        return str(get_service_model(BOTOCORE_NAMES.get(service, service)).protocol)
    except UnknownServiceError:
        return "json"


def throttle_answer(service: str) -> Answer:
    """Word a refusal for calling too often as the service does."""
    default = JSON_THROTTLE if "json" in protocol_of(service) else QUERY_THROTTLE
    return error_answer(service, *THROTTLES.get(service, default))


def error_answer(service: str, status: int, code: str, message: str) -> Answer:
    """Word an error in the service's dialect."""
    protocol = protocol_of(service)
    if "json" in protocol:
        body = json.dumps({"__type": code, "message": message})
        return _answer(status, "application/x-amz-json-1.1", body, code)
    code_and_message = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if protocol == "rest-xml" and service == "s3":
        body = f"<Error>{code_and_message}<RequestId>localaws</RequestId></Error>"
    elif protocol == "ec2":
        body = (
            f"<Response><Errors><Error>{code_and_message}</Error></Errors>"
            "<RequestID>localaws</RequestID></Response>"
        )
    else:
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type>{code_and_message}</Error>"
            "<RequestId>localaws</RequestId></ErrorResponse>"
        )
    return _answer(status, "application/xml", f'<?xml version="1.0"?>{body}', code)


def _answer(status: int, content_type: str, body: str, code: str) -> Answer:
    headers = [("Content-Type", content_type), ("x-amzn-ErrorType", code)]
    return status, headers, body.encode()
