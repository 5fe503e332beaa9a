"""CPU seconds to parse each DAG file, beside a DAG with nothing and one with stock operators.

The dag processor forks a child for each parse, so what a DAG file imports from `plugins/` is
imported again each time. Each figure is the median of several forks of one parent that has imported
what the dag processor has.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import tempfile
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 9

FLOOR = """
    from datetime import UTC, datetime
    from airflow.sdk import dag, task

    @dag(schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))
    def floor():
        @task
        def nothing(): ...

        nothing()

    floor()
"""
STOCK = """
    from datetime import UTC, datetime
    from airflow.sdk import dag
    from airflow.providers.amazon.aws.operators.emr import (
        EmrAddStepsOperator, EmrCreateJobFlowOperator, EmrTerminateJobFlowOperator,
    )

    @dag(schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))
    def stock():
        create = EmrCreateJobFlowOperator(task_id="create", job_flow_overrides={})
        steps = EmrAddStepsOperator(task_id="steps", job_flow_id="j-1", steps=[])
        end = EmrTerminateJobFlowOperator(task_id="end", job_flow_id="j-1")
        create >> steps >> end

    stock()
"""


def parse_seconds(path: Path) -> float:
    """Return the median CPU seconds of a forked child that imports the file."""
    return statistics.median(_one_parse(path) for _ in range(REPEATS))


def _one_parse(path: Path) -> float:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        before = time.process_time()
        spec = importlib.util.spec_from_file_location(f"parsed_{path.stem}", path)
        if spec is None or spec.loader is None:
            os._exit(1)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        spent = time.process_time() - before
        os.write(writer, str(spent).encode())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"{path} could not be parsed")
    os.close(writer)
    with os.fdopen(reader) as answer:
        return float(answer.read())


def main() -> None:
    """Print one table."""
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-bench-"))
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    # As in production, whatever this shell has set: the first fork compiles, the others read.
    sys.dont_write_bytecode = False
    import airflow.dag_processing.processor
    import airflow.sdk

    for name in ("DAG", "dag", "task", "Asset", "Param", "BaseOperator", "BaseSensorOperator"):
        getattr(airflow.sdk, name)
    sys.path.insert(0, str(ROOT / "plugins"))
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, text in (("only airflow.sdk", FLOOR), ("stock EMR operators", STOCK)):
            files[name] = Path(folder) / f"{name.replace(' ', '_').replace('.', '_')}.py"
            files[name].write_text(textwrap.dedent(text))
        files |= {path.name: path for path in sorted((ROOT / "dags").glob("*.py"))}
        seconds = {name: parse_seconds(path) for name, path in files.items()}
    floor, stock = seconds["only airflow.sdk"], seconds["stock EMR operators"]
    print(f"{'DAG file':24} {'CPU s':>8} {'/ floor':>8} {'/ stock':>8}")
    for name, spent in seconds.items():
        print(f"{name:24} {spent:8.3f} {spent / floor:8.2f} {spent / stock:8.2f}")


if __name__ == "__main__":
    main()
