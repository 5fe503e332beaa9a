"""Keep the state over a restart: ``--data DIR``.

At a graceful stop (SIGTERM, SIGINT) the backends that can be kept are written to
``DIR/snapshot.pickle``, and ``DIR/snapshot.json`` says so::

    {"clean": true, "id": "<of this history>", "generation": 3, "moto": "5.2.5"}

While the server runs it says ``"clean": false``: found so at a start, the last server did not stop
in order, and what the snapshot holds is older than its end. It is loaded all the same, which the
log says; a script that wants history and data to live and die together looks there first. ``id``
stays the same as long as the data go on, ``generation`` counts the starts.

Both files are written to the side and moved into place: a crash leaves the old ones. A snapshot of
another moto is refused, because it holds moto's own objects. The folder must be the user's own: a
pickle can run code when it is read.
"""

from __future__ import annotations

import copyreg
import fcntl
import json
import logging
import os
import pickle
import sys
import threading
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import moto.backends
from moto.s3.models import s3_backends

from localaws.locks import LOCKS

log = logging.getLogger(__name__)

#: One pickle: a stack of CloudFormation and S3 hold the same bucket object.
SERVICES = (
    "s3",
    "dynamodb",
    "iam",
    "glue",
    "logs",
    "emr",
    "batch",
    "ecr",
    "ec2",
    "secretsmanager",
    "cloudformation",
)
#: Services that are one for all regions, one object a partition; only AWS's main one is kept.
PARTITIONS_DROPPED = ("aws-cn", "aws-us-gov", "aws-iso", "aws-iso-b", "aws-iso-e", "aws-iso-f")


# a lock holds nothing: ECR's backend has one, which is made anew
copyreg.pickle(type(threading.RLock()), lambda _: (threading.RLock, ()))


class SnapshotError(RuntimeError):
    """A snapshot that cannot be used; the message says what to do."""


class Snapshot:
    """The state in one folder."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "snapshot.pickle"
        self._record = folder / "snapshot.json"
        self._id = uuid.uuid4().hex
        self._generation = 1
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        # held as long as this process lives
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise SnapshotError(f"another localaws works on {folder}: stop it first") from error

    def load(self) -> None:
        """Take the state over, if there is one, and note that a server runs on it.

        Raises:
            SnapshotError: it is another moto's, or damaged.
        """
        record = self._read_record()
        if self._data.exists():
            self._restore()
            if record.get("clean") is False:
                log.warning("the last server did not stop in order: the state is an older one")
        self._id = record.get("id", self._id)
        self._generation = int(record.get("generation", 0)) + 1
        self._write_record(clean=False)

    def save(self) -> None:
        """Write the state down."""
        found: dict[str, dict[tuple[str, str], Any]] = {}
        for service in SERVICES:
            if f"moto.{service}.models" not in sys.modules:
                # nobody has used it
                continue
            backends = moto.backends.get_backend(service)  # type: ignore[call-overload]
            with LOCKS.of(service):
                found[service] = {
                    (account, region): backend
                    for account, region, backend in backends.iter_backends()
                    if region not in PARTITIONS_DROPPED
                }
        _replace(self._data, pickle.dumps(found, pickle.HIGHEST_PROTOCOL))
        self._write_record(clean=True)

    def _restore(self) -> None:
        try:
            found = pickle.loads(self._data.read_bytes())  # noqa: S301 - the user's own folder
        except Exception as error:
            raise SnapshotError(
                f"{self._data} cannot be read ({type(error).__name__}: {error}). Remove its folder "
                "to start anew; what Airflow remembers of it must go too."
            ) from error
        for service, backends in found.items():
            home = moto.backends.get_backend(service)
            for (account, region), backend in backends.items():
                home[account][region] = backend
        for account, region in found.get("s3", {}):
            for name, bucket in s3_backends[account][region].buckets.items():
                s3_backends.bucket_accounts[name] = (bucket.partition, bucket.account_id)

    def _read_record(self) -> dict[str, Any]:
        if not self._record.exists():
            return {}
        record: dict[str, Any] = json.loads(self._record.read_text())
        ours = version("moto")
        if self._data.exists() and record.get("moto") != ours:
            raise SnapshotError(
                f"{self._data} was written by moto {record.get('moto')}, this is {ours}. Remove "
                "its folder to start anew; what Airflow remembers of it must go too."
            )
        return record

    def _write_record(self, *, clean: bool) -> None:
        record = {
            "clean": clean,
            "id": self._id,
            "generation": self._generation,
            "moto": version("moto"),
        }
        _replace(self._record, json.dumps(record).encode())


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
