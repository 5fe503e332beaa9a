"""How the demo prints what it found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import httpx

from scripts.stack import Stack


def print_tasks(stack: Stack, dag_id: str, run_id: str) -> None:
    """Print the run's tasks in the order in which they began."""
    tasks = stack.rest.tasks(dag_id, run_id)
    rows = [
        (
            task["task_id"] + (f"[{task['map_index']}]" if task["map_index"] >= 0 else ""),
            task["state"] or "-",
            clock(task["start_date"]),
            f"{task['duration'] or 0:.1f} s",
            f"try {task['try_number']}",
        )
        for task in sorted(tasks, key=lambda task: task["start_date"] or "")
    ]
    print_table(f"{dag_id}, run {run_id}", ("task", "state", "began", "took", ""), rows)


def print_failures(stack: Stack, dag_id: str, run_id: str) -> None:
    """Print the end of the log of each task that failed."""
    for task in stack.rest.tasks(dag_id, run_id):
        if task["state"] == "failed":
            text = stack.rest.log(dag_id, run_id, task["task_id"], map_index=task["map_index"])
            print(f"\n--- {task['task_id']}\n" + "\n".join(text.splitlines()[-40:]))


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in aligned columns."""
    lines = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}")
    for line in lines:
        print(
            "  "
            + "  ".join(
                cell.ljust(width) for cell, width in zip(line, widths, strict=True)
            ).rstrip()
        )


def print_calls(stack: Stack) -> None:
    """Print the calls of AWS's API by service and operation."""
    calls = httpx.get(f"{stack.localaws_url}/localaws/calls").json()
    rows = [
        (service, operation, sum(by_status.values()), statuses(by_status))
        for service in sorted(calls)
        for operation, by_status in sorted(calls[service].items())
    ]
    print_table("AWS API calls", ("service", "operation", "calls", "by status"), rows)


def statuses(by_status: dict[str, int]) -> str:
    """Return the counts by status as text."""
    return ", ".join(f"{count} x {status}" for status, count in sorted(by_status.items()))


def clock(moment: str | None) -> str:
    """Return the time of day of a REST timestamp."""
    return datetime.fromisoformat(moment).strftime("%H:%M:%S") if moment else "-"


def say(line: str) -> None:
    """Print a line of progress, at once."""
    print(f"{datetime.now().astimezone():%H:%M:%S}  {line}", flush=True)
