"""What Batch knows of environments, queues, definitions and jobs, in the API's spelling.

Plain data that can be pickled; times are in milliseconds since 1970, as the API gives them.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from moto.utilities.utils import get_partition

from localaws.batch.instances import sizes_of
from localaws.batch.states import (
    ACTIVE,
    ENABLED,
    ENDED,
    EXITED,
    FAILED,
    JOB_STATES,
    LOG_GROUP,
    RUNNING,
    SUBMITTED,
    SUCCEEDED,
)

Json = dict[str, Any]


def now() -> int:
    """Return the time in milliseconds."""
    return time.time_ns() // 1_000_000


def present(values: Json) -> Json:
    """Leave out what is not there: AWS gives no key for it."""
    return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Place:
    """The account and region of a backend."""

    account: str
    region: str

    def arn(self, resource: str, service: str = "batch") -> str:
        """Return the ARN of a resource here."""
        return f"arn:{get_partition(self.region)}:{service}:{self.region}:{self.account}:{resource}"


@dataclass(eq=False)
class ComputeEnvironment:
    """One compute environment; ``request`` is the CreateComputeEnvironment request."""

    request: Json
    place: Place
    used_vcpus: int = 0
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.request["computeEnvironmentName"])

    @property
    def arn(self) -> str:
        """Its ARN."""
        return self.place.arn(f"compute-environment/{self.name}")

    @property
    def state(self) -> str:
        """ENABLED or DISABLED."""
        return str(self.request.get("state") or ENABLED)

    @property
    def resources(self) -> Json:
        """The computeResources."""
        resources: Json = self.request.setdefault("computeResources", {})
        return resources

    @property
    def max_vcpus(self) -> int:
        """How many vCPUs its jobs can have together."""
        return int(self.resources.get("maxvCpus") or 0)

    def can_hold(self, vcpus: int, memory: int) -> bool:
        """Say whether one of its instances can hold a job."""
        sizes = sizes_of(self.resources.get("instanceTypes") or [])
        return any(size.holds(vcpus, memory) for size in sizes)

    def as_api(self) -> Json:
        """Return ComputeEnvironmentDetail."""
        least = int(self.resources.get("minvCpus") or 0)
        return present(
            {
                "computeEnvironmentName": self.name,
                "computeEnvironmentArn": self.arn,
                "ecsClusterArn": self.place.arn(f"cluster/AWSBatch-{self.name}-{self.id}", "ecs"),
                "type": self.request.get("type"),
                "state": self.state,
                "status": "VALID",
                "statusReason": "ComputeEnvironment Healthy",
                "computeResources": {
                    "minvCpus": 0,
                    **self.resources,
                    "desiredvCpus": max(least, self.used_vcpus),
                },
                "serviceRole": self.request.get("serviceRole"),
                "tags": self.request.get("tags") or {},
                "containerOrchestrationType": "ECS",
                "uuid": self.id,
            }
        )


@dataclass(eq=False)
class JobQueue:
    """One job queue; ``request`` is the CreateJobQueue request."""

    request: Json
    place: Place
    environments: list[ComputeEnvironment]

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.request["jobQueueName"])

    @property
    def arn(self) -> str:
        """Its ARN."""
        return self.place.arn(f"job-queue/{self.name}")

    @property
    def state(self) -> str:
        """ENABLED or DISABLED."""
        return str(self.request.get("state") or ENABLED)

    @property
    def priority(self) -> int:
        """A queue with more goes first where two share an environment."""
        return int(self.request.get("priority") or 0)

    def as_api(self) -> Json:
        """Return JobQueueDetail."""
        return present(
            {
                "jobQueueName": self.name,
                "jobQueueArn": self.arn,
                "state": self.state,
                "status": "VALID",
                "statusReason": "JobQueue Healthy",
                "priority": self.priority,
                "computeEnvironmentOrder": [
                    {"order": place, "computeEnvironment": environment.arn}
                    for place, environment in enumerate(self.environments, 1)
                ],
                "tags": self.request.get("tags") or {},
            }
        )


@dataclass(eq=False)
class JobDefinition:
    """One revision of a job definition; ``request`` is the RegisterJobDefinition request."""

    request: Json
    place: Place
    revision: int
    status: str = ACTIVE

    @property
    def name(self) -> str:
        """Its name, without the revision."""
        return str(self.request["jobDefinitionName"])

    @property
    def arn(self) -> str:
        """Its ARN, with the revision."""
        return self.place.arn(f"job-definition/{self.name}:{self.revision}")

    def as_api(self) -> Json:
        """Return JobDefinition."""
        request = self.request
        return present(
            {
                "jobDefinitionName": self.name,
                "jobDefinitionArn": self.arn,
                "revision": self.revision,
                "status": self.status,
                "type": request.get("type"),
                "parameters": request.get("parameters") or {},
                "retryStrategy": request.get("retryStrategy"),
                "containerProperties": request["containerProperties"],
                "timeout": request.get("timeout"),
                "tags": request.get("tags") or {},
                "propagateTags": request.get("propagateTags"),
                "platformCapabilities": request.get("platformCapabilities"),
                "schedulingPriority": request.get("schedulingPriority"),
                "containerOrchestrationType": "ECS",
            }
        )


@dataclass(frozen=True)
class JobSpec:
    """What a job runs: its definition with the request's overrides; one for all array children."""

    container: Json
    command: list[str]
    parameters: dict[str, str]
    vcpus: int
    memory: int  # MiB
    retry: Json
    timeout: int | None  # seconds

    @property
    def image(self) -> str:
        """The container's image."""
        return str(self.container["image"])

    @property
    def environment(self) -> dict[str, str]:
        """The container's environment."""
        return {
            one["name"]: str(one.get("value") or "")
            for one in self.container.get("environment", [])
        }

    @property
    def log_options(self) -> dict[str, str]:
        """The options of the log driver ``awslogs``."""
        return dict((self.container.get("logConfiguration") or {}).get("options") or {})


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    status_reason: str
    exit_code: int | None = None
    reason: str | None = None
    has_lost_host: bool = False

    @property
    def is_success(self) -> bool:
        """Say whether the container ended with 0, and by itself."""
        return self.exit_code == 0 and self.status_reason == EXITED


@dataclass(eq=False)
class Attempt:
    """One attempt of a job on one (made-up) instance."""

    number: int
    environment: ComputeEnvironment
    log_group: str
    log_stream: str
    task_id: str
    instance_id: str = field(default_factory=lambda: f"i-0{secrets.token_hex(8)}")
    container_instance: str = field(default_factory=lambda: secrets.token_hex(16))
    started: int | None = None
    stopped: int | None = None
    outcome: Outcome | None = None
    peak_memory: int = 0  # bytes, of all its processes

    def container(self) -> Json:
        """Return AttemptContainerDetail."""
        place = self.environment.place
        cluster = f"AWSBatch-{self.environment.name}-{self.environment.id}"
        instance = f"container-instance/{cluster}/{self.container_instance}"
        return present(
            {
                "containerInstanceArn": place.arn(instance, "ecs"),
                "taskArn": place.arn(f"task/{cluster}/{self.task_id}", "ecs"),
                "logStreamName": self.log_stream if self.started else None,
                "exitCode": self.outcome.exit_code if self.outcome else None,
                "reason": self.outcome.reason if self.outcome else None,
            }
        )

    def as_api(self) -> Json:
        """Return AttemptDetail."""
        return present(
            {
                "container": {**self.container(), "networkInterfaces": []},
                "startedAt": self.started,
                "stoppedAt": self.stopped,
                "statusReason": self.outcome.status_reason if self.outcome else None,
            }
        )


@dataclass(eq=False)
class Job:
    """A job, an array job, or a child of one; ``request`` is the SubmitJob request."""

    request: Json
    queue: JobQueue
    definition: JobDefinition
    spec: JobSpec
    number: int
    """How many were submitted before; orders them where the milliseconds are equal."""
    parent: Job | None = None
    index: int | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: str = SUBMITTED
    reason: str | None = None
    created: int = field(default_factory=now)
    started: int | None = None
    stopped: int | None = None
    attempts: list[Attempt] = field(default_factory=list)
    children: list[Job] = field(default_factory=list)
    summary: Counter[str] = field(default_factory=Counter)
    waits_for: set[str] = field(default_factory=set)
    is_cancelled: bool = False
    is_terminated: bool = False
    end_reason: str | None = None
    """The reason that was given to end it."""
    told_to_end: int | None = None
    is_forgotten: bool = False
    """It ended longer ago than Batch keeps jobs: no operation knows it."""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name; an array child has its parent's."""
        return str(self.request["jobName"])

    @property
    def arn(self) -> str:
        """Its ARN."""
        return self.queue.place.arn(f"job/{self.id}")

    @property
    def has_ended(self) -> bool:
        """Say whether it is SUCCEEDED or FAILED."""
        return self.state in ENDED

    @property
    def is_array(self) -> bool:
        """Say whether it has children."""
        return bool(self.children)

    @property
    def attempt(self) -> Attempt:
        """The attempt under way, or the last one."""
        return self.attempts[-1]

    @property
    def log_group(self) -> str:
        """Where its container's output goes."""
        return self.spec.log_options.get("awslogs-group") or LOG_GROUP

    def begin_attempt(self, environment: ComputeEnvironment) -> Attempt:
        """Make the next attempt."""
        prefix = self.spec.log_options.get("awslogs-stream-prefix") or self.definition.name
        task_id = secrets.token_hex(16)
        stream = f"{prefix}/default/{task_id}"
        number = len(self.attempts) + 1
        self.attempts.append(Attempt(number, environment, self.log_group, stream, task_id))
        return self.attempt

    def enter(self, state: str, reason: str | None = None) -> None:
        """Change the state; a job that has ended stays as it is."""
        if self.has_ended:
            return
        if self.parent is not None:
            self.parent.summary[self.state] -= 1
            self.parent.summary[state] += 1
        self.state = state
        if reason is not None:
            self.reason = reason
        if state == RUNNING:
            self.started = now()
        if state in ENDED:
            self.stopped = now()

    def tell_to_end(self, reason: str) -> None:
        """Note that it was cancelled or terminated; the first reason counts."""
        self.end_reason = self.end_reason or reason
        self.told_to_end = self.told_to_end or now()

    def make_children(self, size: int) -> None:
        """Make it an array job."""
        self.summary[SUBMITTED] = size
        self.children = [
            Job(
                request=self.request,
                queue=self.queue,
                definition=self.definition,
                spec=self.spec,
                number=self.number,
                parent=self,
                index=index,
                id=f"{self.id}:{index}",
                created=self.created,
                tags=self.tags,
            )
            for index in range(size)
        ]

    @property
    def all_children_ended(self) -> bool:
        """Say whether every child has ended."""
        return self.summary[SUCCEEDED] + self.summary[FAILED] == len(self.children)

    def array_properties(self) -> Json | None:
        """Return ArrayPropertiesDetail; None for a job that has to do with no array."""
        if self.is_array:
            summary = {state: self.summary[state] for state in JOB_STATES}
            return {
                "size": len(self.children),
                "statusSummary": summary,
                "statusSummaryLastUpdatedAt": now(),
            }
        return None if self.index is None else {"index": self.index}

    def listed(self) -> Json:
        """Return JobSummary."""
        outcome = self.attempts[-1].outcome if self.attempts else None
        container = present(
            {
                "exitCode": outcome.exit_code if outcome else None,
                "reason": outcome.reason if outcome else None,
            }
        )
        return present(
            {
                "jobArn": self.arn,
                "jobId": self.id,
                "jobName": self.name,
                "createdAt": self.created,
                "status": self.state,
                "statusReason": self.reason,
                "startedAt": self.started,
                "stoppedAt": self.stopped,
                "container": container or None,
                "arrayProperties": self.array_properties(),
                "jobDefinition": self.definition.arn,
                "isCancelled": self.is_cancelled,
                "isTerminated": self.is_terminated,
            }
        )

    def as_api(self) -> Json:
        """Return JobDetail."""
        spec, request = self.spec, self.request
        # while it waits for another attempt, the container is the last attempt's
        last = self.attempts[-1].container() if self.attempts else {}
        return present(
            {
                "jobArn": self.arn,
                "jobName": self.name,
                "jobId": self.id,
                "jobQueue": self.queue.arn,
                "status": self.state,
                "statusReason": self.reason,
                "attempts": [one.as_api() for one in self.attempts if one.outcome],
                "createdAt": self.created,
                "startedAt": self.started,
                "stoppedAt": self.stopped,
                "retryStrategy": {"attempts": 1, "evaluateOnExit": [], **spec.retry},
                "dependsOn": request.get("dependsOn") or [],
                "jobDefinition": self.definition.arn,
                "parameters": spec.parameters,
                "container": {**spec.container, **last},
                "arrayProperties": self.array_properties(),
                "timeout": (
                    None if spec.timeout is None else {"attemptDurationSeconds": spec.timeout}
                ),
                "tags": self.tags,
                "propagateTags": bool(request.get("propagateTags")),
                "platformCapabilities": ["EC2"],
                "isCancelled": self.is_cancelled,
                "isTerminated": self.is_terminated,
            }
        )

    def audit(self) -> Json:
        """Return what ``/localaws/batch/jobs`` tells of it."""
        return {
            "id": self.id,
            "name": self.name,
            "queue": self.queue.name,
            "state": self.state,
            "reason": self.reason,
            "created": self.created,
            "started": self.started,
            "stopped": self.stopped,
            "times": {
                "created": self.created / 1000,
                "told": self.told_to_end / 1000 if self.told_to_end else None,
                "ended": self.stopped / 1000 if self.stopped else None,
            },
            "tags": dict(self.tags),
            "parent": self.parent.id if self.parent else None,
            "index": self.index,
            "vcpus": self.spec.vcpus,
            "memory": self.spec.memory,
            "cancelled": self.is_cancelled,
            "terminated": self.is_terminated,
            "attempts": [
                {
                    "number": one.number,
                    "environment": one.environment.name,
                    "instance": one.instance_id,
                    "started": one.started,
                    "stopped": one.stopped,
                    "exit_code": one.outcome.exit_code if one.outcome else None,
                    "reason": one.outcome.reason if one.outcome else None,
                    "status_reason": one.outcome.status_reason if one.outcome else None,
                    "peak_memory_mib": round(one.peak_memory / 2**20, 1),
                }
                for one in self.attempts
            ],
        }
