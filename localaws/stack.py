"""One running localaws: its parts, wired."""

from __future__ import annotations

import logging
import threading
from typing import Any

import localaws.emr.install as emr
from localaws.calls import CallCounter
from localaws.control import Control
from localaws.emr.lifecycle import Machinery
from localaws.faults import FaultPlan
from localaws.locks import LOCKS
from localaws.own_s3 import OwnS3
from localaws.runner import Runner
from localaws.server import LockedApp, bind
from localaws.settings import Settings
from localaws.workspace import Workspace

log = logging.getLogger(__name__)


class Stack:
    """The server and what runs below it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runner = Runner()
        calls, faults = CallCounter(), FaultPlan()
        self.control = Control(calls, faults, audits={"/localaws/emr/clusters": emr.audit})
        app = LockedApp(LOCKS, calls, faults, self.control)
        self._server = bind(settings.host, settings.port, app)
        self.port = int(self._server.server_port)
        self.endpoint_url = f"http://{_reachable(settings.host)}:{self.port}"
        self._workspace: Workspace | None = None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> None:
        """Restore, serve, seed."""
        self._workspace = Workspace(self.settings, self.endpoint_url)
        s3: Any = OwnS3(self.endpoint_url)
        emr.install(Machinery(self.settings, self.runner, self._workspace, s3))
        self._thread.start()
        self.control.ready = True

    def stop(self) -> None:
        """End what runs, keep the data, remove the rest."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        emr.break_off()
        self.runner.close()
        if self._workspace:
            self._workspace.remove()


def _reachable(host: str) -> str:
    # what listens everywhere is reached on loopback
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
