"""What jobs print, as log events in CloudWatch: each line is one event, in the order printed."""

from __future__ import annotations

import threading
from pathlib import Path

from moto.logs.models import LogsBackend, logs_backends

from localaws.batch.models import Attempt, Place, now
from localaws.batch.states import LOG_GROUP
from localaws.locks import LOCKS

#: Characters of one event; the driver ``awslogs`` cuts longer lines.
MAX_EVENT = 250_000


def _backend(place: Place) -> LogsBackend:
    return logs_backends[place.account][place.region]


def group_exists(place: Place, group: str) -> bool:
    """Say whether a container's output has a place to go; Batch makes its own group itself."""
    return group == LOG_GROUP or group in _backend(place).groups


class JobLog:
    """Follows the file that an attempt writes to and stores its lines."""

    def __init__(self, path: Path, attempt: Attempt) -> None:
        self._path = path
        self._attempt = attempt
        self._offset = 0
        self._pending = b""
        self._lock = threading.Lock()
        with LOCKS.of("logs"):
            backend = _backend(attempt.environment.place)
            backend.ensure_log_group(attempt.log_group)
            backend.create_log_stream(attempt.log_group, attempt.log_stream)

    def store(self, *, complete: bool = False) -> None:
        """Store what was printed since the last time; an unfinished line only when complete."""
        with self._lock:
            lines = self._new_lines(complete=complete)
            if lines:
                self._put(lines)

    def _new_lines(self, *, complete: bool) -> list[bytes]:
        if self._path.stat().st_size > self._offset:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            self._offset += len(data)
            self._pending += data
        *lines, self._pending = self._pending.split(b"\n")
        if complete and self._pending:
            lines.append(self._pending)
            self._pending = b""
        return lines

    def _put(self, lines: list[bytes]) -> None:
        time = now()
        # CloudWatch takes no empty event
        events = [
            {"timestamp": time, "message": text[start : start + MAX_EVENT]}
            for text in (line.decode("utf-8", "replace").rstrip("\r") for line in lines)
            for start in range(0, len(text), MAX_EVENT)
        ]
        if events:
            attempt = self._attempt
            with LOCKS.of("logs"):
                _backend(attempt.environment.place).put_log_events(
                    attempt.log_group, attempt.log_stream, events
                )
