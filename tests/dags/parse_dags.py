"""Parses DAG files as the DAG processor does, and tells as JSON what that took: a program.

    python tests/dags/parse_dags.py FOLDER

Whatever asks for the network while a file is parsed fails, and the file with it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

# Or the plugin would have imported for the DAG files what they must not import themselves.
os.environ["AIRFLOW__CORE__LAZY_LOAD_PLUGINS"] = "True"

from airflow.dag_processing.dagbag import DagBag
from airflow.plugins_manager import ensure_plugins_loaded

# Half a CPU second each time, where a DAG file or what it imports has them at the top.
SLOW = ("boto3", "botocore", "airflow.providers.amazon")


def refuse(*args: Any) -> NoReturn:
    """Stand in for what reaches the network."""
    raise PermissionError(f"a DAG file asked for the network while it was parsed: {args[1:]}")


def loaded(names: tuple[str, ...]) -> list[str]:
    """Return which of these modules, or of those below them, are loaded."""
    return sorted(
        module
        for module in sys.modules
        if any(module == name or module.startswith(f"{name}.") for name in names)
    )


def files_loaded_twice() -> list[str]:
    """Return the files of which there are modules under several names."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return sorted(path for path, count in Counter(filter(None, files)).items() if count > 1)


def main(folder: Path) -> dict[str, Any]:
    """Parse the folder's files."""
    before = set(loaded(SLOW))
    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse  # type: ignore[assignment]
    seconds, dags, errors = {}, [], {}
    for path in sorted(folder.glob("*.py")):
        began = time.perf_counter()
        bag = DagBag(path, safe_mode=False)
        seconds[path.name] = time.perf_counter() - began
        dags += bag.dag_ids
        errors.update(bag.import_errors)
    slow_modules = sorted(set(loaded(SLOW)) - before)
    ensure_plugins_loaded()
    return {
        "dags": sorted(dags),
        "errors": errors,
        "seconds": seconds,
        "slow_modules": slow_modules,
        "files_loaded_twice": files_loaded_twice(),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
