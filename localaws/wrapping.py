"""Put a function around a method of moto's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Put ``around(original, ...)`` in the place of a method, once."""
    original = getattr(owner, name)
    if getattr(original, "_localaws", False):
        return
    is_class_method = isinstance(owner.__dict__[name], classmethod)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        # a class method's original is bound already
        return around(original, *(args[1:] if is_class_method else args), **kwargs)

    wrapped._localaws = True  # type: ignore[attr-defined]
    setattr(owner, name, classmethod(wrapped) if is_class_method else wrapped)
