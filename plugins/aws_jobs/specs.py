"""Requests to AWS that are kept as files, in the API's own shape and spelling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

# Specs are read at every parse of a DAG file, and libyaml reads them eight times as fast.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_spec(path: Path) -> dict[str, Any]:
    """Read a YAML file of a request; its text values are templates of the task that takes it.

    :raises ValueError: where the file holds something else than one mapping.
    """
    spec = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
    if not isinstance(spec, dict):
        raise ValueError(f"{path} holds no mapping")
    return spec
