"""The HTTP server: moto's application behind a lock per service, a counter and a fault plan."""

from __future__ import annotations

import io
import logging
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, NoReturn

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server

from localaws.calls import LOST, CallCounter
from localaws.control import Control
from localaws.faults import FaultPlan, Verdict
from localaws.locks import ServiceLocks
from localaws.own_s3 import OWN_CALLS
from localaws.protocols import Answer, error_answer, operation_of, throttle_answer

log = logging.getLogger(__name__)

Environ = dict[str, Any]
#: Where a List* handler finds the lag (seconds) that the fault plan has for this call.
LISTING_LAG = "localaws.listing_lag"


class LockedApp:
    """moto's WSGI application, made safe for threads and able to misbehave.

    A request's body is read before its service's lock is taken, and its answer is complete when the
    lock is given back: nobody holds a lock while waiting for a client. A handler never calls its
    own service over HTTP.
    """

    def __init__(
        self,
        locks: ServiceLocks,
        calls: CallCounter,
        faults: FaultPlan,
        control: Control,
        prepare: dict[str, Callable[[], None]] | None = None,
    ) -> None:
        # by service, what is to be done before its first request; importing moto's CloudFormation
        # takes longer than all the rest of a start
        self.prepare = dict(prepare or {})
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.locks = locks
        self.calls = calls
        self.faults = faults
        self.control = control

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request, by WSGI."""
        body = read_body(environ)
        if str(environ.get("PATH_INFO", "")).startswith("/localaws/"):
            return respond(start_response, self.control.answer(environ, body))
        return respond(start_response, self._serve(environ, body))

    def _serve(self, environ: Environ, body: bytes) -> Answer:
        app = self.moto.get_application(environ)
        service = str(app.service)  # type: ignore[attr-defined]  # set by moto's create_backend_app
        operation = operation_of(service, environ, body)
        if OWN_CALLS in str(environ.get("HTTP_USER_AGENT", "")):
            # localaws stores a log: no client asked for that
            return self._call(service, operation, app, environ)
        verdict = self.faults.judge(service, operation)
        time.sleep(verdict.delay)
        if verdict.refusal is None:
            environ[LISTING_LAG] = verdict.listing_lag
            answer: Answer | None = self._call(service, operation, app, environ)
            time.sleep(verdict.late)
        else:
            answer = refusal(service, verdict)
        if verdict.refusal is None and verdict.lost_answer is not None:
            answer = lost_answer(service, verdict)
        status = LOST if answer is None else str(answer[0])
        self.calls.add(service, operation, status)
        if answer is None:
            close_connection(environ)
        return answer

    def _call(self, service: str, operation: str, app: Any, environ: Environ) -> Answer:
        try:
            with self.locks.of(service):
                self.prepare.pop(service, lambda: None)()
                return run_app(app, environ)
        except NotImplementedError as error:
            message = f"localaws has no {service} {operation}: {error}"
            log.warning(message)
            return error_answer(service, 501, "NotImplemented", message)
        except Exception as error:
            log.exception("%s %s failed", service, operation)
            message = f"localaws failed at {service} {operation}: {type(error).__name__}: {error}"
            return error_answer(service, 500, "InternalFailure", message)


def read_body(environ: Environ) -> bytes:
    """Read a request's body from its connection and put it back as a buffer."""
    source = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        body = bytes(source.read())
    else:
        body = bytes(source.read(int(environ.get("CONTENT_LENGTH") or 0)))
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    return body


def run_app(app: Any, environ: Environ) -> Answer:
    """Call a WSGI application to its end."""
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started[:] = [(status, headers)]
        return lambda data: None

    chunks = app(environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = started[0]
    return int(status.split(" ", 1)[0]), headers, body


def respond(start_response: Callable[..., Any], answer: Answer) -> list[bytes]:
    """Give an answer to the WSGI server."""
    status, headers, body = answer
    if not any(name.lower() == "content-length" for name, _ in headers):
        headers = [*headers, ("Content-Length", str(len(body)))]
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    start_response(f"{status} {reason}", headers)
    return [body]


def refusal(service: str, verdict: Verdict) -> Answer | None:
    """Return the answer in the service's place; None to close the connection."""
    fault = verdict.refusal
    if fault is None or fault.kind == "reset":
        return None
    if fault.kind == "throttle":
        return throttle_answer(service)
    return _planned_error(service, fault.spec)


def lost_answer(service: str, verdict: Verdict) -> Answer | None:
    """Return what reaches the client of a call that took effect; None to close the connection."""
    fault = verdict.lost_answer
    if fault is None or fault.spec.get("status") is None:
        return None
    return _planned_error(service, fault.spec)


def _planned_error(service: str, spec: dict[str, Any]) -> Answer:
    return error_answer(
        service,
        int(spec.get("status") or 500),
        str(spec.get("code") or "InternalServerError"),
        "localaws: an error of the fault plan",
    )


def close_connection(environ: Environ) -> NoReturn:
    """Drop the client's connection without an answer.

    Raises:
        ConnectionResetError: always; the HTTP server takes it for a client that has gone.
    """
    connection = environ.get("werkzeug.socket")
    if isinstance(connection, socket.socket):
        # linger 0: the client sees a reset at once, not an end of file that may pass for an answer
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    raise ConnectionResetError("the answer was lost on purpose")


class QuietRequestHandler(MotoRequestHandler):
    """Logs no line per request: the counter at ``/localaws/calls`` says what was asked."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""

    def log_error(self, format: str, *args: Any) -> None:
        """Log to the server's own log."""
        log.info(format, *args)


def bind(host: str, port: int, app: LockedApp) -> BaseWSGIServer:
    """Bind a threaded server; port 0 takes a free one."""
    try:
        return make_server(host, port, app, threaded=True, request_handler=QuietRequestHandler)
    except (OSError, SystemExit) as error:
        # werkzeug leaves the process when a port is taken, after printing why
        print(
            f"localaws: cannot listen on {host}:{port}: {error}. Is another localaws running? "
            "Choose another with --port or LOCALAWS_PORT.",
            file=sys.stderr,
        )
        raise SystemExit(2) from error
