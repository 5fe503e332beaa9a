"""A DAG file of the same shape from `airflow.sdk` alone: the floor of what parsing it can cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_HEAD = """\
from airflow.sdk import BaseOperator, Param, dag, task


class Plain(BaseOperator):
    template_fields = ("value",)

    def __init__(self, value=None, **kwargs):
        super().__init__(**kwargs)
        self.value = value

    def execute(self, context):
        return None
"""


def same_shape(dags: Iterable[Any]) -> str:
    """Write a file with the same DAGs, tasks, edges and params; operators and tasks do nothing.

    A DAG with a schedule has one here too: Airflow then validates its params at every parse.
    """
    return "\n\n".join([_HEAD, *(_dag(each) for each in dags)])


def _dag(dag: Any) -> str:
    params = [f"{name!r}: {_param(dag.params.get_param(name))}" for name in dag.params]
    names = {task_id: f"task_{number}" for number, task_id in enumerate(dag.task_dict)}
    lines = [line for task in dag.tasks for line in _task(task, names[task.task_id])]
    lines += [
        f"{names[upstream]} >> {names[task.task_id]}"
        for task in dag.tasks
        for upstream in sorted(task.upstream_task_ids)
    ]
    body = "\n".join(f"    {line}" for line in lines)
    schedule = "@daily" if dag.timetable.can_be_scheduled else None
    arguments = f"dag_id={dag.dag_id!r}, schedule={schedule!r}, params={{{', '.join(params)}}}"
    return f"@dag({arguments}, doc_md=__doc__)\ndef shape():\n{body}\n\n\nshape()\n"


def _param(param: Any) -> str:
    said = param.dump()
    schema = {key: value for key, value in said["schema"].items() if value is not None}
    return f"Param({said['value']!r}, description={said['description']!r}, **{schema!r})"


def _task(task: Any, name: str) -> list[str]:
    if hasattr(task, "python_callable") or "python_callable" in getattr(task, "partial_kwargs", {}):
        mapped = ".expand(value=[1])" if task.is_mapped else "()"
        lines = [f"@task(task_id={task.task_id!r})", f"def {name}_call(value=None): ..."]
        lines.append(f"{name} = {name}_call{mapped}")
    elif task.is_mapped:
        lines = [f"{name} = Plain.partial(task_id={task.task_id!r}).expand(value=[1])"]
    else:
        lines = [f"{name} = Plain(task_id={task.task_id!r})"]
    if task.is_setup:
        lines.append(f"{name}.as_setup()")
    if task.is_teardown:
        lines.append(f"{name}.as_teardown()")
    return lines
