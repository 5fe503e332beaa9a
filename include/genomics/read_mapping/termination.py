"""SIGTERM, as Batch sends it 30 s before SIGKILL: raised in the main thread as Terminated."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from read_mapping.exceptions import Terminated

_waiting: list[Terminated] | None = None


def handle(number: int, _: FrameType | None) -> None:
    """Raise Terminated, once: what is being tidied up is not broken off by a second signal."""
    signal.signal(number, signal.SIG_IGN)
    error = Terminated(
        "terminated by SIGTERM: a time-out, a cancellation, or the instance goes away"
    )
    if _waiting is None:
        raise error
    _waiting.append(error)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let nothing be broken off between a thing's start and the note that it must be ended."""
    global _waiting
    waiting: list[Terminated] = []
    _waiting = waiting
    try:
        yield
    finally:
        _waiting = None
        if waiting:
            raise waiting[0]
