"""What a task's process pays for imports before its first line: the stock EMR operators, and ours.

LocalExecutor forks a task's process from one that has ``airflow.sdk`` loaded; the operators' modules
are imported anew in each. Ours import boto3 and the amazon provider only when they call AWS, and the
process that merely resumes after a deferral often does not.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

ROUNDS = 5
MODULES = {
    "stock": [
        "airflow.providers.amazon.aws.operators.emr",
        "airflow.providers.amazon.aws.sensors.emr",
    ],
    "aws_jobs": ["aws_jobs.operators.emr", "aws_jobs.sensors.emr"],
}


def main() -> None:
    """Print the CPU seconds of each, best of some rounds, and their ratio."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "plugins"))
    importlib.import_module("airflow.sdk.execution_time.task_runner")
    cost = {
        name: min(cpu_seconds_in_a_fork(modules) for _ in range(ROUNDS))
        for name, modules in MODULES.items()
    }
    for name, seconds in cost.items():
        print(f"{name:10} {seconds:6.3f} CPU s for {', '.join(MODULES[name])}")
    print(f"ratio      {cost['stock'] / cost['aws_jobs']:6.1f}  (stock / aws_jobs)")


def cpu_seconds_in_a_fork(modules: list[str]) -> float:
    """Import modules in a child, as a task's process does, and give the CPU time that it took."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        started = time.process_time()
        for module in modules:
            importlib.import_module(module)
        os.write(writer, f"{time.process_time() - started:.6f}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise RuntimeError(f"importing {modules} failed; see above")
    return float(said)


if __name__ == "__main__":
    main()
