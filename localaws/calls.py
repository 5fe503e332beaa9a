"""Count what clients asked: by service, operation and the status that they were answered."""

from __future__ import annotations

import threading
from collections import Counter

#: The status under which a call is counted whose answer never reached the client.
LOST = "lost"


class CallCounter:
    """Calls since the start, or since the last :meth:`reset`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, str, str]] = Counter()

    def add(self, service: str, operation: str, status: str) -> None:
        """Count one call."""
        with self._lock:
            self._calls[service, operation, status] += 1

    def reset(self) -> None:
        """Forget every call."""
        with self._lock:
            self._calls.clear()

    def as_dict(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return ``{"emr": {"RunJobFlow": {"200": 1}}}``, sorted."""
        with self._lock:
            calls = sorted(self._calls.items())
        tree: dict[str, dict[str, dict[str, int]]] = {}
        for (service, operation, status), number in calls:
            tree.setdefault(service, {}).setdefault(operation, {})[status] = number
        return tree
