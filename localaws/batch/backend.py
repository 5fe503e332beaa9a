"""Batch's operations. Whoever calls holds Batch's service lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import moto.batch.urls as moto_batch_urls
from moto.core.base_backend import BaseBackend

from localaws.batch.errors import ClientException, unknown
from localaws.batch.execution import Machinery
from localaws.batch.models import (
    ComputeEnvironment,
    Job,
    JobDefinition,
    JobQueue,
    Place,
    now,
)
from localaws.batch.scheduler import Scheduler
from localaws.batch.specs import job_spec
from localaws.batch.states import (
    ACTIVE,
    DISABLED,
    ENABLED,
    FAILED,
    INACTIVE,
    N_TO_N,
    SEQUENTIAL,
    SERVER_STOPPED,
)
from localaws.batch.validation import (
    check_definition,
    check_environment,
    check_queue,
    check_resources,
    check_state,
    check_submit,
    check_tags,
)
from localaws.batch.watch import Watch
from localaws.locks import LOCKS

Json = dict[str, Any]


class LocalBatchBackend(BaseBackend):
    """Batch of one account and region; nothing of moto's own is used."""

    #: What jobs run on; set once, before the first request.
    machinery: Machinery

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.place = Place(account_id, region_name)
        self.environments: dict[str, ComputeEnvironment] = {}
        self.queues: dict[str, JobQueue] = {}
        self.definitions: dict[str, list[JobDefinition]] = {}
        self.jobs: dict[str, Job] = {}
        self.submitted = 0
        self._scheduler: Scheduler | None = None

    @property
    def _url_module(self) -> Any:
        # moto derives it from the module of the class, which is not moto's here
        return moto_batch_urls

    def __getstate__(self) -> Json:
        return {**self.__dict__, "_scheduler": None}

    @property
    def scheduler(self) -> Scheduler:
        """What drives the jobs; its threads start with the first job."""
        if self._scheduler is None:
            self._scheduler = Scheduler(self.machinery, LOCKS.of("batch"), self.job)
            Watch(self._scheduler, self.machinery.faults)
        return self._scheduler

    # compute environments

    def create_environment(self, request: Json) -> ComputeEnvironment:
        """Make a compute environment."""
        check_environment(request)
        environment = ComputeEnvironment(request, self.place)
        if environment.name in self.environments:
            raise ClientException(f"Compute environment {environment.name} already exists.")
        self.environments[environment.name] = environment
        return environment

    def environment(self, name: str) -> ComputeEnvironment:
        """Find a compute environment by name or ARN."""
        try:
            return self.environments[_short(name)]
        except KeyError:
            raise unknown("Compute environment", name) from None

    def update_environment(self, request: Json) -> ComputeEnvironment:
        """Change a compute environment; what runs goes on."""
        environment = self.environment(request["computeEnvironment"])
        check_state(request.get("state"))
        resources = {**environment.resources, **(request.get("computeResources") or {})}
        check_resources(resources)
        environment.request["computeResources"] = resources
        _take_over(environment.request, request, "state", "serviceRole")
        self._notify()
        return environment

    def delete_environment(self, name: str) -> None:
        """Remove a compute environment that is disabled and that no queue uses."""
        environment = self.environments.get(_short(name))
        if environment is None:
            return
        if environment.state == ENABLED:
            raise ClientException("Cannot delete, compute environment must be DISABLED first.")
        if any(environment in queue.environments for queue in self.queues.values()):
            raise ClientException("Cannot delete, found existing JobQueue relationship.")
        del self.environments[environment.name]

    # queues

    def create_queue(self, request: Json) -> JobQueue:
        """Make a job queue."""
        check_queue(request)
        name = request["jobQueueName"]
        if name in self.queues:
            raise ClientException(f"Job queue {name} already exists.")
        queue = JobQueue(request, self.place, self._ordered(request.get("computeEnvironmentOrder")))
        self.queues[name] = queue
        return queue

    def _ordered(self, order: Sequence[Json] | None) -> list[ComputeEnvironment]:
        if not order:
            raise ClientException("computeEnvironmentOrder must be given.")
        ordered = sorted(order, key=lambda one: int(one["order"]))
        return [self.environment(one["computeEnvironment"]) for one in ordered]

    def queue(self, name: str) -> JobQueue:
        """Find a job queue by name or ARN."""
        try:
            return self.queues[_short(name)]
        except KeyError:
            raise unknown("Job queue", name) from None

    def update_queue(self, request: Json) -> JobQueue:
        """Change a job queue; jobs that wait in it stay."""
        queue = self.queue(request["jobQueue"])
        check_queue(request)
        if request.get("computeEnvironmentOrder") is not None:
            queue.environments = self._ordered(request["computeEnvironmentOrder"])
        _take_over(queue.request, request, "state", "priority")
        self._notify()
        return queue

    def delete_queue(self, name: str) -> None:
        """Remove a job queue that is disabled; its jobs are terminated."""
        queue = self.queues.get(_short(name))
        if queue is None:
            return
        if queue.state != DISABLED:
            raise ClientException("Cannot delete, job queue must be DISABLED first.")
        for job in list(self.jobs.values()):
            if job.queue is queue and not job.has_ended:
                self.scheduler.terminate(job, "The job queue was deleted.")
        del self.queues[queue.name]

    # job definitions

    def register_definition(self, request: Json) -> JobDefinition:
        """Make the next revision of a job definition."""
        check_definition(request)
        revisions = self.definitions.setdefault(request["jobDefinitionName"], [])
        definition = JobDefinition(request, self.place, len(revisions) + 1)
        revisions.append(definition)
        return definition

    def deregister_definition(self, name: str) -> None:
        """Make a revision INACTIVE."""
        short, _, revision = _short(name).partition(":")
        if not revision:
            raise ClientException(f"{name} names no revision of a job definition.")
        for definition in self.definitions.get(short, []):
            if str(definition.revision) == revision:
                definition.status = INACTIVE

    def definition(self, name: str) -> JobDefinition:
        """Find an active job definition by name (the newest), name:revision or ARN."""
        short, _, revision = _short(name).partition(":")
        active = [
            one
            for one in self.definitions.get(short, [])
            if one.status == ACTIVE and revision in ("", str(one.revision))
        ]
        if not active:
            raise unknown("Active job definition", name)
        return active[-1]

    def listed_definitions(
        self, names: Sequence[str], name: str | None, status: str | None
    ) -> list[JobDefinition]:
        """List revisions, newest first: some, all of a name, or all of a status."""
        asked = {_short(one) for one in names}
        return [
            one
            for revisions in self.definitions.values()
            for one in reversed(revisions)
            if (not asked or asked & {one.name, f"{one.name}:{one.revision}"})
            and (name is None or one.name == _short(name).partition(":")[0])
            and (status is None or one.status == status)
        ]

    # jobs

    def submit(self, request: Json) -> Job:
        """Take a job, or an array of them."""
        check_submit(request)
        queue = self.queue(request["jobQueue"])
        if queue.state == DISABLED:
            raise ClientException(f"Job queue {queue.name} is DISABLED.")
        definition = self.definition(request["jobDefinition"])
        spec = job_spec(definition, request)
        size = (request.get("arrayProperties") or {}).get("size")
        self._check_dependencies(request, size)
        self.submitted += 1
        tags = dict(request.get("tags") or {})
        job = Job(request, queue, definition, spec, number=self.submitted, tags=tags)
        if size:
            job.make_children(size)
        self.forget()
        self.jobs[job.id] = job
        self.scheduler.submit(job)
        return job

    def _check_dependencies(self, request: Json, size: int | None) -> None:
        for one in request.get("dependsOn") or []:
            if one.get("type") == SEQUENTIAL and not one.get("jobId"):
                continue
            dependency = self.job(one["jobId"])
            if dependency is None:
                raise ClientException(f"Job {one['jobId']} that this one depends on is not known.")
            if one.get("type") == N_TO_N and len(dependency.children) != size:
                raise ClientException(
                    f"dependsOn: {N_TO_N} needs two arrays of one size, not {size} and "
                    f"{len(dependency.children)}."
                )

    def job(self, job_id: str) -> Job | None:
        """Find a job, or the child ``id:n`` of an array, by id or ARN."""
        job_id, _, index = job_id.rpartition("job/")[2].partition(":")
        job = self.jobs.get(job_id)
        if job is None or job.is_forgotten:
            return None
        if not index:
            return job
        is_child = index.isdecimal() and int(index) < len(job.children)
        return job.children[int(index)] if is_child else None

    def described(self, ids: Sequence[str], lag: float) -> list[Job]:
        """Return those jobs that are known; without those younger than ``lag`` seconds."""
        self.forget()
        found = {one.id: one for one in map(self.job, ids) if one is not None}
        return [one for one in found.values() if self._is_visible(one, lag)]

    def listed(self, queue: JobQueue | None, array_id: str, lag: float) -> list[Job]:
        """List the jobs of a queue, or the children of an array, newest first."""
        self.forget()
        if queue is not None:
            known = [one for one in reversed(self.jobs.values()) if not one.is_forgotten]
            found = [one for one in known if one.queue is queue]
        else:
            parent = self.job(array_id)
            found = list(parent.children) if parent else []
        return [one for one in found if self._is_visible(one, lag)]

    def _is_visible(self, job: Job, lag: float) -> bool:
        age = (now() - job.created) / 1000
        if age < lag:
            return False
        parent = job.parent or job
        faults = self.machinery.faults
        return not faults.striking("vanish", parent.id, age, job=job.name, queue=job.queue.name)

    def cancel(self, job_id: str, reason: str) -> None:
        """Cancel a job that has not started; an unknown one is nobody's mistake."""
        job = self.job(job_id)
        if job is not None:
            self.scheduler.cancel(job, reason)

    def terminate(self, job_id: str, reason: str) -> None:
        """End a job; an unknown one is nobody's mistake."""
        job = self.job(job_id)
        if job is not None:
            self.scheduler.terminate(job, reason)

    def snapshot(self, queue: JobQueue) -> list[Job]:
        """Return the RUNNABLE jobs of a queue, the next one first."""
        return self.scheduler.runnable(queue)

    def forget(self) -> None:
        """Know no more of the jobs that ended long enough ago; the audit still does."""
        history = self.machinery.settings.batch_history
        if history is None:
            return
        oldest = now() - history * 1000
        for one in self.jobs.values():
            if one.stopped is not None and one.stopped < oldest:
                one.is_forgotten = True

    # tags

    def tags_of(self, arn: str) -> dict[str, str]:
        """Return the tags of a resource, to be read or changed."""
        kind, _, name = arn.rpartition(":")[2].partition("/")
        if ":job-definition/" in arn:
            return self._tags(self.definition(arn).request)
        if kind == "compute-environment":
            return self._tags(self.environment(name).request)
        if kind == "job-queue":
            return self._tags(self.queue(name).request)
        job = self.job(name) if kind == "job" else None
        if job is None:
            raise unknown("Resource", arn)
        return job.tags

    @staticmethod
    def _tags(request: Json) -> dict[str, str]:
        tags: dict[str, str] = request.setdefault("tags", {})
        return tags

    def tag(self, arn: str, tags: dict[str, str]) -> None:
        """Add tags."""
        found = self.tags_of(arn)
        check_tags({**found, **tags})
        found.update(tags)

    def untag(self, arn: str, keys: Sequence[str]) -> None:
        """Remove tags."""
        found = self.tags_of(arn)
        for key in keys:
            found.pop(key, None)

    def audit(self) -> list[Json]:
        """Return all jobs, children too, for ``/localaws/batch/jobs``."""
        return [one.audit() for job in self.jobs.values() for one in (job, *job.children)]

    def break_off(self) -> None:
        """Mark what has not ended as ended by the server's end."""
        if self._scheduler is not None:
            self._scheduler.close()
        for job in self.jobs.values():
            for one in (*job.children, job):
                one.enter(FAILED, SERVER_STOPPED)
        for environment in self.environments.values():
            environment.used_vcpus = 0

    def _notify(self) -> None:
        if self._scheduler is not None:
            self._scheduler.notify()


def _short(name: str) -> str:
    """Return the name (and revision) out of a name or an ARN."""
    return name.rpartition("/")[2]


def _take_over(target: Json, source: Json, *names: str) -> None:
    target.update({name: source[name] for name in names if source.get(name) is not None})
