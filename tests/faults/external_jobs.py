"""What localaws has of one run: clusters, steps and Batch jobs, and when each was told to end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aws_jobs.identity import TAG_DAG, TAG_MAP_INDEX, TAG_RUN, TAG_TASK

#: How the names of external jobs begin, whichever operators make them: stock's have no tags.
NAMES = {
    "cluster": "create_cluster",
    "step": "step",
    "job": "job",
    "array": "array_job",
}


@dataclass(frozen=True)
class ExternalJob:
    """A cluster, a step, a Batch job, or an array job as one; times in Unix seconds.

    :param kind: ``cluster``, ``step``, ``job``, ``array`` or ``mapping``.
    :param task: the task that it is for; a mapped one as ``task[0]``.
    :param told: when it was first told to end.
    """

    kind: str
    task: str
    id: str
    name: str
    state: str
    created: float
    told: float | None
    ended: float | None

    @property
    def is_left(self) -> bool:
        """Whether it goes on and nobody has told it to end."""
        return self.told is None and self.ended is None

    def doubles(self, earlier: ExternalJob) -> bool:
        """Whether it was made while an earlier one of its task was neither over nor told to end."""
        over = [moment for moment in (earlier.told, earlier.ended) if moment is not None]
        return self.task == earlier.task and (not over or min(over) > self.created)


def external_jobs(
    clusters: Iterable[Mapping[str, Any]],
    jobs: Iterable[Mapping[str, Any]],
    dag_id: str,
    run_id: str,
) -> list[ExternalJob]:
    """Return what belongs to a run, the oldest first.

    :param clusters: localaws' ``/localaws/emr/clusters``.
    :param jobs: localaws' ``/localaws/batch/jobs``.
    """
    found = [*_of_emr(clusters, dag_id, run_id), *_of_batch(jobs, dag_id, run_id)]
    return sorted(found, key=lambda job: job.created)


def _of_emr(
    clusters: Iterable[Mapping[str, Any]], dag_id: str, run_id: str
) -> Iterator[ExternalJob]:
    for cluster in clusters:
        if _kind(cluster["name"], run_id) == "cluster" or _is_tagged(cluster, dag_id, run_id):
            yield _job("cluster", NAMES["cluster"], cluster)
        for step in cluster["steps"]:
            if _kind(step["name"], run_id) == "step":
                yield _job("step", NAMES["step"], step)


def _of_batch(jobs: Iterable[Mapping[str, Any]], dag_id: str, run_id: str) -> Iterator[ExternalJob]:
    for job in jobs:
        if job["parent"] is not None:
            continue
        kind = _kind(job["name"], run_id)
        if kind is not None:
            yield _job(kind, NAMES[kind], job)
        elif _is_tagged(job, dag_id, run_id):
            task, index = job["tags"][TAG_TASK], int(job["tags"][TAG_MAP_INDEX])
            yield _job("mapping", task if index < 0 else f"{task}[{index}]", job)


def _kind(name: str, run_id: str) -> str | None:
    """Return the kind that the name says, or None for the job of another run."""
    return next((kind for kind in NAMES if name.startswith(f"{run_id}--{kind}")), None)


def _is_tagged(found: Mapping[str, Any], dag_id: str, run_id: str) -> bool:
    return {TAG_DAG: dag_id, TAG_RUN: run_id}.items() <= dict(found["tags"]).items()


def _job(kind: str, task: str, found: Mapping[str, Any]) -> ExternalJob:
    times = found["times"]
    return ExternalJob(
        kind,
        task,
        found["id"],
        found["name"],
        found["state"],
        times["created"],
        times["told"],
        times["ended"],
    )
