"""One running localaws: its parts, wired."""

from __future__ import annotations

import logging
import threading

import localaws.batch.install as batch
import localaws.emr.install as emr
from localaws.batch.execution import Machinery as BatchMachinery
from localaws.calls import CallCounter
from localaws.control import Control
from localaws.emr.lifecycle import Machinery
from localaws.faults import FaultPlan
from localaws.locks import LOCKS
from localaws.own_s3 import OwnS3
from localaws.runner import Runner
from localaws.seed import seed
from localaws.server import LockedApp, bind
from localaws.settings import Settings
from localaws.snapshot import Snapshot
from localaws.workspace import Workspace

log = logging.getLogger(__name__)


class Stack:
    """The server and what runs below it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runner = Runner()
        calls, faults = CallCounter(), FaultPlan()
        self._faults = faults
        audits = {
            "/localaws/emr/clusters": emr.audit,
            "/localaws/batch/jobs": batch.audit,
            "/localaws/batch/live-jobs": batch.audit_live,
        }
        self.control = Control(calls, faults, audits=audits)
        prepare = {"cloudformation": self._install_cloudformation}
        app = LockedApp(LOCKS, calls, faults, self.control, prepare)
        self._server = bind(settings.host, settings.port, app)
        self.port = int(self._server.server_port)
        self.endpoint_url = f"http://{_reachable(settings.host)}:{self.port}"
        self._workspace: Workspace | None = None
        self._snapshot = Snapshot(settings.data) if settings.data else None
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def start(self) -> None:
        """Restore, serve, seed."""
        self._workspace = Workspace(self.settings, self.endpoint_url)
        s3 = OwnS3(self.endpoint_url)
        emr.install(Machinery(self.settings, self.runner, self._workspace, s3, self._faults))
        batch.install(BatchMachinery(self.settings, self.runner, self._workspace, self._faults))
        if self._snapshot:
            self._snapshot.load()
            # a server that was killed wrote down nothing of what ran
            emr.break_off()
            batch.break_off()
        self._thread.start()
        if self.settings.seed:
            seed(self.settings.seed_templates, self.endpoint_url)
            self.control.seeded = True
        self.control.ready = True

    def _install_cloudformation(self) -> None:
        from localaws import cloudformation

        cloudformation.install(self.endpoint_url)

    def stop(self) -> None:
        """End what runs, keep the data, remove the rest."""
        emr.break_off()
        batch.break_off()
        self.runner.close()
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        if self._snapshot and self.control.ready:
            self._snapshot.save()
        if self._workspace:
            self._workspace.remove()


def _reachable(host: str) -> str:
    # what listens everywhere is reached on loopback
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
