"""Put localaws' EMR in the place of moto's; before the first request."""

from __future__ import annotations

from typing import Any

import moto.emr.urls as moto_emr_urls
from moto.emr.models import emr_backends

from localaws.emr.backend import LocalEmrBackend
from localaws.emr.lifecycle import Machinery
from localaws.emr.responses import LocalEmrResponse
from localaws.locks import LOCKS


def install(machinery: Machinery) -> None:
    """Make moto's server serve clusters that run."""
    LocalEmrBackend.machinery = machinery
    emr_backends.backend = LocalEmrBackend
    for path in list(moto_emr_urls.url_paths):
        moto_emr_urls.url_paths[path] = LocalEmrResponse.dispatch


def backends() -> list[LocalEmrBackend]:
    """Return EMR of every account and region that was used."""
    found = [backend for _, _, backend in emr_backends.iter_backends()]
    return [backend for backend in found if isinstance(backend, LocalEmrBackend)]


def audit() -> list[dict[str, Any]]:
    """Return every cluster, for ``/localaws/emr/clusters``."""
    with LOCKS.of("emr"):
        return [cluster for backend in backends() for cluster in backend.audit()]


def break_off() -> None:
    """End every cluster's record: the server goes down, or came back without what ran."""
    with LOCKS.of("emr"):
        for backend in backends():
            backend.break_off()
