"""Check requests against botocore's model of the API."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@functools.cache
def input_shape(service: str, operation: str) -> Any:
    """Return the shape of an operation's arguments."""
    import botocore.session

    model = botocore.session.get_session().get_service_model(service)
    return model.operation_model(operation).input_shape


def coerce(value: Any, shape: Any) -> Any:
    """Turn text where the API wants a number or a boolean: templates render to text."""
    if shape.type_name == "structure" and isinstance(value, dict):
        return {
            key: coerce(item, shape.members[key]) if key in shape.members else item
            for key, item in value.items()
        }
    if shape.type_name == "list" and isinstance(value, list | tuple):
        return [coerce(item, shape.member) for item in value]
    if not isinstance(value, str):
        return value
    number: dict[str, Callable[[str], Any]] = {
        "integer": int,
        "long": int,
        "double": float,
        "float": float,
    }
    try:
        if shape.type_name in number:
            return number[shape.type_name](value)
    except ValueError:
        return value
    if shape.type_name == "boolean":
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    return value


def shape_problems(request: Mapping[str, Any], shape: Any, *, prefix: str = "") -> list[str]:
    """Check keys, types and closed lists of words against botocore's model."""
    from botocore.validate import ParamValidator

    report = ParamValidator().validate(request, shape)
    found = report.generate_report().splitlines() if report.has_errors() else []
    return [f"{prefix}{line}" for line in [*found, *_word_problems(request, shape, "")]]


def _word_problems(value: Any, shape: Any, path: str) -> list[str]:
    if shape.type_name == "structure" and isinstance(value, dict):
        return [
            problem
            for key, item in value.items()
            if key in shape.members
            for problem in _word_problems(item, shape.members[key], f"{path}.{key}".lstrip("."))
        ]
    if shape.type_name == "list" and isinstance(value, list):
        return [
            problem
            for index, item in enumerate(value)
            for problem in _word_problems(item, shape.member, f"{path}[{index}]")
        ]
    words = getattr(shape, "enum", None)
    if words and isinstance(value, str) and value not in words:
        return [f"{path} is {value!r}; it may be {', '.join(words)}"]
    return []
