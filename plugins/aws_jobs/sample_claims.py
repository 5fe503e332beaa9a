"""Who may have a sample: a run claims what nobody has, or whose owner is gone."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently, error_code
from aws_jobs.batch_job import (
    JOB_ACTIVE,
    JOB_ENDED,
    JOB_IDS_PER_CALL,
    state_of,
    terminate_job,
)
from aws_jobs.identity import TAG_DEPLOYMENT
from aws_jobs.samples import Sample, SampleTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

log = logging.getLogger(__name__)

# As many calls go on at once as a boto3 client has connections, with two to spare.
THREADS = 8
_RUN_ENDED = frozenset({"success", "failed"})
_BUDGET = 300.0
# A sample that somebody else wrote is read again: once for each of two rivals.
_ROUNDS = 3


def run_owner(deployment_id: str, dag_id: str, run_id: str) -> str:
    """Return the name of a run as samples' owner."""
    return f"{deployment_id}/{dag_id}/{run_id}"


@dataclass(frozen=True)
class SampleJobs:
    """The Batch jobs behind samples.

    :param batch: a client that makes each call once.
    :param deployment_id: whose jobs may be ended.
    """

    batch: Any
    deployment_id: str
    _wholes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def describe(self, job_ids: Iterable[str | None]) -> dict[str, dict[str, Any]]:
        """Return the jobs that Batch knows, by id."""
        wanted = sorted({job_id for job_id in job_ids if job_id})
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(wanted), JOB_IDS_PER_CALL):
            ids = wanted[start : start + JOB_IDS_PER_CALL]
            answer = call_patiently(partial(self.batch.describe_jobs, jobs=ids), budget=_BUDGET)
            found |= {job["jobId"]: job for job in answer["jobs"]}
        return found

    def is_ours(self, job: Mapping[str, Any]) -> bool:
        """Whether the job, or the array job that it is a part of, has our deployment's tag."""
        tags = job.get("tags") or {}
        whole, _, index = job["jobId"].partition(":")
        if index and TAG_DEPLOYMENT not in tags:
            if whole not in self._wholes:
                self._wholes[whole] = self.describe([whole]).get(whole) or {}
            tags = self._wholes[whole].get("tags") or {}
        return bool(tags.get(TAG_DEPLOYMENT) == self.deployment_id)

    def terminate(self, job_id: str, reason: str) -> None:
        """End a job; one that has ended, or that Batch has forgotten, is no error."""
        try:
            call_patiently(lambda: terminate_job(self.batch, job_id, reason[:256]), budget=_BUDGET)
        except Exception as error:
            if error_code(error) != "ClientException":
                raise
            log.warning("Job %s was not ended: %s", job_id, error)


def is_live(job: Mapping[str, Any] | None) -> bool:
    """Whether a job goes on, and nobody has ended it."""
    return job is not None and state_of(job) in JOB_ACTIVE


@dataclass
class Claims:
    """What became of a run's claims.

    :param claimed: the samples that are the run's now.
    :param finished: those that need no job.
    :param held: why others could not be claimed.
    """

    claimed: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)


@dataclass
class Claimant:
    """A run that claims samples.

    A sample of another run is taken over when that run has ended or its job is over: a job that
    still goes on is ended first if it is our deployment's, and loses the sample in any case.

    :param owner: the run, as ``run_owner`` names it.
    :param run_state: how Airflow knows another run; None where it does not.
    """

    table: SampleTable
    jobs: SampleJobs
    owner: str
    arch: str
    run_state: Callable[[str, str], str | None]
    recompute: bool = False
    _run_states: dict[str, str | None] = field(default_factory=dict)

    def claim(self, names: Iterable[str]) -> Claims:
        """Claim samples; to do so twice is to do it once."""
        claims = Claims()
        pending = sorted(set(names))
        for _ in range(_ROUNDS):
            pending = self._claim_once(pending, claims)
            if not pending:
                break
        claims.held |= dict.fromkeys(pending, "other runs claim it at the same time")
        claims.claimed.sort()
        claims.finished.sort()
        return claims

    def _claim_once(self, names: list[str], claims: Claims) -> list[str]:
        """Return the samples that have changed between the look and the claim."""
        samples = self.table.get(names)
        claims.held |= {
            name: "it is not in the table any more" for name in names if name not in samples
        }
        claims.finished += [name for name, each in samples.items() if self._is_finished(each)]
        free = [sample for sample in samples.values() if not self._is_finished(sample)]
        jobs = self.jobs.describe(
            sample.job_id for sample in free if sample.owner not in (None, self.owner)
        )
        takeable = []
        for sample in free:
            if why := self._held_because(sample, jobs):
                claims.held[sample.name] = why
            else:
                takeable.append(sample)
        with ThreadPoolExecutor(THREADS) as pool:
            won = list(pool.map(lambda sample: self._take(sample, jobs), takeable))
        claims.claimed += [
            sample.name for sample, is_won in zip(takeable, won, strict=True) if is_won
        ]
        return [sample.name for sample, is_won in zip(takeable, won, strict=True) if not is_won]

    def _is_finished(self, sample: Sample) -> bool:
        return sample.is_finished and not (self.recompute and sample.owner != self.owner)

    def _held_because(self, sample: Sample, jobs: Mapping[str, Any]) -> str | None:
        """Say why a sample must stay its owner's, or return None."""
        if sample.owner in (None, self.owner):
            return None
        job = jobs.get(sample.job_id or "")
        if job and job["status"] in JOB_ENDED:
            return None
        state = self._state_of(sample.owner or "")
        if state is None or state in _RUN_ENDED:
            return None
        doing = f"job {sample.job_id} is {job['status']}" if job else "its job has not started"
        return f"the run {sample.owner} has it since {sample.claimed_at}, and is {state}: {doing}"

    def _state_of(self, owner: str) -> str | None:
        """Ask once a run; the runs of other deployments are not for this Airflow to know."""
        deployment, _, run = owner.partition("/")
        dag_id, _, run_id = run.partition("/")
        if deployment != self.jobs.deployment_id or not run_id:
            return "of another deployment"
        if owner not in self._run_states:
            self._run_states[owner] = self.run_state(dag_id, run_id)
        return self._run_states[owner]

    def _take(self, sample: Sample, jobs: Mapping[str, Any]) -> bool:
        job = jobs.get(sample.job_id or "")
        if job and sample.owner != self.owner and is_live(job):
            self._end(sample, job)
        return self.table.claim(sample, self.owner, self.arch, recompute=self.recompute)

    def _end(self, sample: Sample, job: Mapping[str, Any]) -> None:
        if not self.jobs.is_ours(job):
            log.warning(
                "%s: job %s of %s goes on: it is not ours to end",
                sample.name,
                job["jobId"],
                sample.owner,
            )
            return
        log.info(
            "%s: ending job %s of %s, whose run is over", sample.name, job["jobId"], sample.owner
        )
        self.jobs.terminate(job["jobId"], f"{self.owner} took over {sample.name}")
