"""CPU milliseconds to parse each DAG file, beside DAGs from `airflow.sdk` and from stock operators.

As the dag processor does it: the parent has loaded Airflow's plugins and what a file imports of
`airflow`, and forks a child for each parse. Medians of 15 forks, which take turns over the files.
"One task" is a DAG with one empty task. "Same shape" has a file's DAG, schedule or none, tasks,
edges and params, of empty operators from `airflow.sdk`. "Stock" is a cluster with a step, of the
provider's operators.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Report, at_most, ratio, tell
from benchmarks.same_shape import same_shape

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 15
LIMIT = 1.15

ONE_TASK = """
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
MEANING = """\
A DAG file is parsed every 30 s (by default) for as long as Airflow runs: 20 ms are less than a
thousandth of a core. What it may cost is what Airflow itself takes for a DAG of that shape, which
is the floor; what is beyond are the specs that the file reads as YAML, 0.5 ms each, and the
arguments of real operators: Airflow copies all of a DAG's params once for each `__init__` in an
operator's line of classes, and ours have one more than the empty ones. A stock DAG is cheap too,
once the dag processor has imported the provider.
"""


def main() -> None:
    """Print one table."""
    with tempfile.TemporaryDirectory(prefix="airflow-bench-") as name:
        folder = Path(name)
        _load_airflow(folder)
        one_task, stock = (
            _written(folder / f"{stem}.py", textwrap.dedent(text))
            for stem, text in (("one_task", ONE_TASK), ("stock", STOCK))
        )
        ours = sorted((ROOT / "dags").glob("*.py"))
        for path in (stock, *ours):
            _import_what_it_imports_of_airflow(path)
        shapes = {
            path: _written(folder / f"shape_of_{path.name}", _in_child(path, _shape).decode())
            for path in ours
        }
        gc.freeze()
        spent = _milliseconds([one_task, stock, *ours, *shapes.values()])
    rows = [
        [
            path.name,
            f"{spent[path]:.1f}",
            f"{spent[shapes[path]]:.1f}",
            ratio(spent[path], spent[shapes[path]]),
            ratio(spent[path], spent[one_task]),
            ratio(spent[path], spent[stock]),
        ]
        for path in ours
    ]
    beside = [
        ["one task", f"{spent[one_task]:.1f}", "", "", "1", ratio(spent[one_task], spent[stock])],
        ["stock", f"{spent[stock]:.1f}", "", "", ratio(spent[stock], spent[one_task]), "1"],
    ]
    tell(
        Report(
            title="Parsing the DAG files",
            setting=(__doc__ or "").split("\n\n", 1)[1].strip(),
            columns=["", "ms", "same shape, ms", "/ same shape", "/ one task", "/ stock"],
            rows=[*rows, *beside],
            targets=[
                at_most(
                    f"{path.name}: at most {LIMIT} x the same shape",
                    spent[path] / spent[shapes[path]],
                    LIMIT,
                )
                for path in ours
            ],
            meaning=MEANING,
        )
    )


def _load_airflow(home: Path) -> None:
    """Be what the dag processor is when it forks."""
    os.environ["AIRFLOW_HOME"] = str(home)
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__CORE__LAZY_LOAD_PLUGINS"] = "False"
    os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(ROOT / "plugins")
    # As in production, whatever this shell has set: the first fork compiles, the others read.
    sys.dont_write_bytecode = False
    importlib.import_module("airflow.dag_processing.processor")
    sdk = importlib.import_module("airflow.sdk")
    for name in ("DAG", "dag", "task", "Asset", "Param", "BaseOperator", "BaseSensorOperator"):
        getattr(sdk, name)
    if "aws_jobs.operators.emr" not in sys.modules:
        raise SystemExit("Airflow has not loaded the project's plugin")


def _import_what_it_imports_of_airflow(path: Path) -> None:
    from airflow.utils.file import iter_airflow_imports

    for module in iter_airflow_imports(str(path)):
        importlib.import_module(module)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _milliseconds(paths: list[Path]) -> dict[Path, float]:
    """Return the median CPU milliseconds of a forked child that parses each file."""
    for path in paths:
        _in_child(path, _cpu)  # compiles it
    rounds = [{path: float(_in_child(path, _cpu)) for path in paths} for _ in range(REPEATS)]
    return {path: statistics.median(each[path] for each in rounds) * 1000 for path in paths}


def _cpu(path: Path) -> bytes:
    before = time.process_time()
    _parse(path)
    return str(time.process_time() - before).encode()


def _shape(path: Path) -> bytes:
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    DagContext.autoregistered_dags.clear()
    _parse(path)
    return same_shape(dag for dag, _ in DagContext.autoregistered_dags).encode()


def _parse(path: Path) -> None:
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    name = f"parsed_{path.stem}"
    DagContext.current_autoregister_module_name = name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _in_child(path: Path, work: Callable[[Path], bytes]) -> bytes:
    """Return what a forked child makes of a file."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, work(path))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        made = answer.read()
    os.waitpid(child, 0)
    if not made:
        raise SystemExit(f"{path} could not be parsed")
    return made


if __name__ == "__main__":
    main()
