"""``/localaws/...``: what tests and scripts ask of localaws itself, never counted as AWS calls.

================================ =================================================================
GET    /localaws/health          ``{"status": "ok", "seeded": true}``; 503 until it is ready
GET    /localaws/calls           calls so far: ``{"emr": {"RunJobFlow": {"200": 1}}}``
DELETE /localaws/calls           forget them
GET    /localaws/faults          the fault plan (:mod:`localaws.faults`)
PUT    /localaws/faults          another plan; 400 with all that is wrong with it
DELETE /localaws/faults          no faults any more
GET    /localaws/emr/clusters    every cluster: id, name, state, reason, tags, steps
GET    /localaws/batch/jobs      every job: id, name, queue, state, reason, tags, attempts, parent
GET    /localaws/batch/live-jobs those that have not ended; an array job without its children
================================ =================================================================

An audit's ``times`` of each cluster, step and job: ``created``, ``told`` to end (terminated or
cancelled by a call that took effect; with its cluster or its array, too) and ``ended``, in seconds
since 1970, or null.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from localaws.calls import CallCounter
from localaws.faults import FaultPlan, FaultPlanError
from localaws.protocols import Answer

Handler = Callable[[bytes], tuple[int, Any]]


@dataclass
class Control:
    """Answers ``/localaws/...``; a service adds a read-only ``audit`` under its path."""

    calls: CallCounter
    faults: FaultPlan
    ready: bool = False
    seeded: bool = False
    audits: dict[str, Callable[[], Any]] = field(default_factory=dict)

    def answer(self, environ: dict[str, Any], body: bytes) -> Answer:
        """Answer one request."""
        method, path = str(environ["REQUEST_METHOD"]), str(environ["PATH_INFO"])
        handlers = self._handlers(path)
        if not handlers:
            status, result = 404, {"error": f"{path} is not known; see localaws/control.py"}
        elif method not in handlers:
            status, result = 405, {"error": f"{path} takes {', '.join(handlers)}, not {method}"}
        else:
            status, result = handlers[method](body)
        return status, [("Content-Type", "application/json")], json.dumps(result).encode()

    def _handlers(self, path: str) -> dict[str, Handler]:
        audit = self.audits.get(path)
        if audit is not None:
            return {"GET": lambda _: (200, audit())}
        return {
            "/localaws/health": {"GET": self._health},
            "/localaws/calls": {
                "GET": lambda _: (200, self.calls.as_dict()),
                "DELETE": self._forget_calls,
            },
            "/localaws/faults": {
                "GET": lambda _: (200, self.faults.as_list()),
                "PUT": self._set_faults,
                "DELETE": lambda _: self._set_faults(b"[]"),
            },
        }.get(path, {})

    def _health(self, _: bytes) -> tuple[int, Any]:
        status = "ok" if self.ready else "starting"
        return (200 if self.ready else 503), {"status": status, "seeded": self.seeded}

    def _forget_calls(self, _: bytes) -> tuple[int, Any]:
        self.calls.reset()
        return 200, {}

    def _set_faults(self, body: bytes) -> tuple[int, Any]:
        try:
            self.faults.replace(json.loads(body))
        except (FaultPlanError, ValueError) as error:
            return 400, {"error": str(error)}
        return 200, self.faults.as_list()
