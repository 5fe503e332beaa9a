"""Put localaws' Batch in the place of moto's; before the first request."""

from __future__ import annotations

from typing import Any

import moto.batch.urls as moto_batch_urls
from moto.batch.models import batch_backends

from localaws.batch.backend import LocalBatchBackend
from localaws.batch.execution import Machinery
from localaws.batch.responses import PATHS, LocalBatchResponse
from localaws.locks import LOCKS


def install(machinery: Machinery) -> None:
    """Make moto's server serve jobs that run."""
    LocalBatchBackend.machinery = machinery
    # not a subclass of moto's: nothing of it is used
    batch_backends.backend = LocalBatchBackend  # type: ignore[assignment]
    moto_batch_urls.url_paths.clear()
    moto_batch_urls.url_paths.update(dict.fromkeys(PATHS, LocalBatchResponse.dispatch))


def backends() -> list[LocalBatchBackend]:
    """Return Batch of every account and region that was used."""
    found = [backend for _, _, backend in batch_backends.iter_backends()]
    return [backend for backend in found if isinstance(backend, LocalBatchBackend)]


def audit() -> list[dict[str, Any]]:
    """Return every job, for ``/localaws/batch/jobs``."""
    with LOCKS.of("batch"):
        return [job for backend in backends() for job in backend.audit()]


def audit_live() -> list[dict[str, Any]]:
    """Return the jobs that have not ended, without children: there may be thousands."""
    with LOCKS.of("batch"):
        jobs = [job for backend in backends() for job in backend.jobs.values()]
        return [job.audit() for job in jobs if not job.has_ended]


def break_off() -> None:
    """End every job's record: the server goes down, or came back without what ran."""
    with LOCKS.of("batch"):
        for backend in backends():
            backend.break_off()
