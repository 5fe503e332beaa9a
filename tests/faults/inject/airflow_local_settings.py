"""Kill points in Airflow's task processes: production code and DAG files run as they are.

Airflow imports this module in every component where it is on PYTHONPATH. It does nothing but wait
for the import of three modules and wrap a few of their functions; in a process whose run has no
plan (``tests/faults/strikes.py``) these only pass on.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

# Airflow takes over the names that are listed.
__all__: list[str] = []

_PLANS = "FAULTS_PLANS"
_EVICTION_SECONDS = 5.0

_strikes: list[tuple[Path, dict[str, Any]]] = []
_seen: Counter[str] = Counter()


def _event(at: str) -> None:
    """Note that the process has come to a point, and strike where the plan says so."""
    if not _strikes:
        return
    _seen[at] += 1
    for file, strike in list(_strikes):
        if strike["at"] == at and strike["nth"] == _seen[at]:
            _strikes.remove((file, strike))
            _strike(file, strike["action"])


def _strike(file: Path, action: str) -> None:
    try:
        file.rename(file.with_suffix(".struck"))  # a strike strikes once, whichever try comes first
    except FileNotFoundError:
        return
    if action == "HOLD":
        while not file.with_suffix(".go").exists():
            time.sleep(0.05)
    elif action == "TERM":
        timer = threading.Timer(_EVICTION_SECONDS, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        if action == "HOST":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def _begin(ti: Any) -> None:
    """Read the plan for the task of this process."""
    folder = Path(os.environ[_PLANS], ti.run_id)
    for file in sorted(folder.glob("*.json")):
        strike = json.loads(file.read_text())
        map_index = -1 if ti.map_index is None else ti.map_index
        if (strike["task_id"], strike["map_index"]) == (ti.task_id, map_index) and strike[
            "try_number"
        ] in (None, ti.try_number):
            _strikes.append((file, strike))


def _wrap_task_runner(module: Any) -> None:
    run, execute = module._run_task_and_map_outcome, module._execute_task
    defer, succeed, finalize = (
        module._defer_task,
        module._handle_current_task_success,
        module.finalize,
    )

    @functools.wraps(run)
    def run_task(ti: Any, *arguments: Any) -> Any:
        _begin(ti)
        return run(ti, *arguments)

    @functools.wraps(execute)
    def execute_task(context: Any, ti: Any, log: Any) -> Any:
        told = ti._ti_context_from_server
        _event("resume" if told and told.next_method else "start")
        return execute(context=context, ti=ti, log=log)

    module._run_task_and_map_outcome = run_task
    module._execute_task = execute_task
    module._defer_task = _after("defer", defer)
    module._handle_current_task_success = _after("return", succeed)
    module.finalize = _after("reported", finalize)


def _after(at: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        _event(at)
        return function(*arguments, **named)

    return wrapped


def _wrap_state_store(module: Any) -> None:
    store = module.TaskStateStoreAccessor
    set_value = store.set

    @functools.wraps(set_value)
    def set_state(self: Any, key: str, value: Any, **named: Any) -> None:
        _event(f"before state_set:{key}")
        set_value(self, key, value, **named)
        _event(f"after state_set:{key}")

    store.set = set_state


def _wrap_botocore(module: Any) -> None:
    client = module.BaseClient
    call = client._make_api_call

    @functools.wraps(call)
    def make_api_call(self: Any, operation: str, arguments: Any) -> Any:
        _event(f"before call:{operation}")
        answer = call(self, operation, arguments)
        _event(f"after call:{operation}")
        return answer

    client._make_api_call = make_api_call


_WRAPPERS = {
    "airflow.sdk.execution_time.task_runner": _wrap_task_runner,
    "airflow.sdk.execution_time.context": _wrap_state_store,
    "botocore.client": _wrap_botocore,
}


class _Loader(importlib.abc.Loader):
    """The module's own loader, and then its wrapper."""

    def __init__(self, loader: importlib.abc.Loader, wrap: Callable[[Any], None]) -> None:
        self._loader = loader
        self._wrap = wrap

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._wrap(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are to be wrapped as the other finders do."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _WRAPPERS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, _WRAPPERS[name])
                return spec
        return None


def _install() -> None:
    sys.meta_path.insert(0, _Finder())
    for name, wrap in _WRAPPERS.items():
        if name in sys.modules:
            wrap(sys.modules[name])


if _PLANS in os.environ:
    _install()
