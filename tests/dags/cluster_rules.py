"""The rules of a DAG that starts EMR clusters, so that none is left behind and no step is lost.

Each rule takes a DAG and returns what breaks it. Why, in each rule's docstring, is measured on
Airflow 3.3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

CREATE = "EmrCreateClusterOperator"
SUBMIT = "EmrSubmitStepsOperator"
TERMINATE = "EmrTerminateClusterOperator"
# What may stand between a cluster's start and its end: whatever else does would pay for a cluster
# that waits, and clearing it would start another.
NEED_THE_CLUSTER = {SUBMIT, "EmrStepOperator", "EmrClusterSensor", "EmrStepSensor"}


def kind(task: Any) -> str:
    """Return the name of a task's operator, also where the task is mapped."""
    return str(task.task_type)


def tasks_of(dag: Any, *kinds: str) -> Iterator[Any]:
    """Yield the tasks with one of these operators."""
    yield from (task for task in dag.tasks if kind(task) in kinds)


def teardowns_of(task: Any) -> list[Any]:
    """Return the ends of a cluster that have this task as their setup."""
    if not task.is_setup:
        return []
    return [each for each in task.downstream_list if each.is_teardown and kind(each) == TERMINATE]


def every_cluster_has_its_end(dag: Any) -> Iterator[str]:
    """Airflow runs a teardown after a failure too, but only where its setup has succeeded."""
    for task in tasks_of(dag, CREATE):
        if not teardowns_of(task):
            yield f"{task.task_id} is no setup of an {TERMINATE} as its teardown"


def submitted_steps_go_with_their_cluster(dag: Any) -> Iterator[str]:
    """Else clearing a sensor waits for a step of a cluster that has ended."""
    for task in tasks_of(dag, SUBMIT):
        ends = {end.task_id for create in tasks_of(dag, CREATE) for end in teardowns_of(create)}
        own = {end.task_id for end in teardowns_of(task)}
        if ends and not own & ends:
            yield f"{task.task_id} is no setup of {', '.join(sorted(ends))}"


def a_cluster_that_would_not_end_is_seen(dag: Any) -> Iterator[str]:
    """By default a run ignores its teardowns."""
    for task in tasks_of(dag, TERMINATE):
        if not task.is_teardown:
            yield f"{task.task_id} is no teardown"
        elif not task.on_failure_fail_dagrun:
            yield f"{task.task_id} has no on_failure_fail_dagrun=True"


def the_end_is_not_the_only_leaf(dag: Any) -> Iterator[str]:
    """With on_failure_fail_dagrun the teardown is a leaf, and the leaves alone make the state."""
    if any(tasks_of(dag, TERMINATE)) and all(leaf.is_teardown for leaf in dag.leaves):
        yield "the teardown is the only leaf: a run whose step failed would end as success"


def no_run_times_out(dag: Any) -> Iterator[str]:
    """A run that times out skips its teardown."""
    if any(tasks_of(dag, CREATE)) and dag.dagrun_timeout is not None:
        yield f"dagrun_timeout is {dag.dagrun_timeout}: the teardown would be skipped"


def an_idle_cluster_ends_by_itself(dag: Any) -> Iterator[str]:
    """What ends the cluster where nobody can, also when Airflow is gone."""
    for task in tasks_of(dag, CREATE):
        if not has_idle_policy(task.job_flow):
            yield f"{task.task_id}: its job flow has no AutoTerminationPolicy"


def has_idle_policy(job_flow: dict[str, Any]) -> bool:
    """Tell whether a RunJobFlow request ends an idle cluster."""
    return int((job_flow.get("AutoTerminationPolicy") or {}).get("IdleTimeout") or 0) > 0


def only_what_needs_the_cluster_is_within_its_life(dag: Any) -> Iterator[str]:
    """What else is within pays for a cluster that waits, and its clearing starts another."""
    for create in tasks_of(dag, CREATE):
        after = create.get_flat_relative_ids(upstream=False)
        for end in teardowns_of(create):
            within = after & end.get_flat_relative_ids(upstream=True)
            for task_id in sorted(within):
                if kind(dag.get_task(task_id)) not in NEED_THE_CLUSTER:
                    yield f"{task_id} needs no cluster, between {create.task_id} and {end.task_id}"


def the_cluster_ends_after_all_that_needs_it(dag: Any) -> Iterator[str]:
    """A step that the end does not wait for is ended with its cluster."""
    ends = list(tasks_of(dag, TERMINATE))
    for task in tasks_of(dag, *NEED_THE_CLUSTER):
        if ends and not any(
            task.task_id in end.get_flat_relative_ids(upstream=True) for end in ends
        ):
            yield f"{task.task_id} is not waited for by the end of the cluster"


RULES: tuple[Callable[[Any], Iterator[str]], ...] = (
    every_cluster_has_its_end,
    submitted_steps_go_with_their_cluster,
    a_cluster_that_would_not_end_is_seen,
    the_end_is_not_the_only_leaf,
    no_run_times_out,
    an_idle_cluster_ends_by_itself,
    only_what_needs_the_cluster_is_within_its_life,
    the_cluster_ends_after_all_that_needs_it,
)


def problems(dag: Any) -> list[str]:
    """Return all that breaks a rule."""
    return [problem for rule in RULES for problem in rule(dag)]
