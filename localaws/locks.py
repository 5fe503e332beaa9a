"""One lock per AWS service.

moto's threaded server is not safe: dictionaries change while they are listed, conditional
counters lose updates. A request holds its service's lock while it is served, and whatever works in
the background for a service (a cluster's life) changes its state under the same lock. So nobody may
call a service over HTTP while holding that service's lock.
"""

from __future__ import annotations

import threading


class ServiceLocks:
    """Hands out the lock of a service, by moto's name of it (``emr``, ``s3``)."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}

    def of(self, service: str) -> threading.RLock:
        """Return the service's lock, always the same one."""
        with self._guard:
            return self._locks.setdefault(service, threading.RLock())


LOCKS = ServiceLocks()
