"""Whether Batch can run a job at all: its queues, their compute environments, its definition."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently, error_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_BUDGET = 120.0
# What the processors of an architecture are called by EC2.
_PROCESSORS = {"graviton": "arm64", "x86": "x86_64"}
# Batch's own words for families that it chooses.
# https://docs.aws.amazon.com/batch/latest/APIReference/API_ComputeResource.html
_CHOSEN_BY_BATCH = frozenset({"optimal", "default_x86_64", "default_arm64"})


@dataclass(frozen=True)
class JobNeeds:
    """What a job asks for.

    :param queues: in the order in which the job falls back.
    :param definition: a job definition's name, ``name:revision`` or ARN.
    :param arch: ``graviton``, ``x86``, or None where both will do.
    :param memory_mib: what the job may be given at the most.
    """

    name: str
    queues: Sequence[str]
    definition: str
    arch: str | None = None
    vcpus: int = 1
    memory_mib: int = 1


@dataclass
class Findings:
    """What is wrong, and what might be."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Instance:
    name: str
    vcpus: int
    memory_mib: int
    processors: frozenset[str]


@dataclass(frozen=True)
class BatchCapacity:
    """Asks AWS once about everything that several jobs share.

    :param batch: a client of Batch, :param ec2: one of EC2.
    """

    batch: Any
    ec2: Any

    def check(self, jobs: Iterable[JobNeeds]) -> Findings:
        """Look for what would leave a job waiting for ever, or failing at once."""
        jobs = list(jobs)
        findings = Findings()
        queues = self._queues(sorted({queue for job in jobs for queue in job.queues}))
        environments = self._environments(queues.values())
        types = _instance_types(environments.values())
        instances = self._instances(types, findings)
        for job in jobs:
            findings.problems += self._definition_problems(job)
            for queue in job.queues:
                usable = _usable_environments(queue, queues.get(queue), environments, findings)
                if usable and instances is not None:
                    findings.problems += _fit_problems(job, queue, usable, instances)
        findings.problems = list(dict.fromkeys(findings.problems))
        findings.warnings = list(dict.fromkeys(findings.warnings))
        return findings

    def image(self, definition: str) -> str | None:
        """Return the image of a job definition's newest active revision."""
        found = self._definition(definition)
        return ((found or {}).get("containerProperties") or {}).get("image")

    def _queues(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        answer = self._ask(lambda: self.batch.describe_job_queues(jobQueues=list(names)))
        found: dict[str, dict[str, Any]] = {}
        for queue in answer["jobQueues"]:
            found[queue["jobQueueName"]] = found[queue["jobQueueArn"]] = queue
        return found

    def _environments(self, queues: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        names = {
            order["computeEnvironment"]
            for queue in queues
            for order in queue["computeEnvironmentOrder"]
        }
        if not names:
            return {}
        answer = self._ask(
            lambda: self.batch.describe_compute_environments(computeEnvironments=sorted(names))
        )
        found: dict[str, dict[str, Any]] = {}
        for each in answer["computeEnvironments"]:
            found[each["computeEnvironmentName"]] = found[each["computeEnvironmentArn"]] = each
        return found

    def _definition(self, definition: str) -> dict[str, Any] | None:
        by_name = ":" not in definition
        request = (
            {"jobDefinitionName": definition, "status": "ACTIVE"}
            if by_name
            else {"jobDefinitions": [definition]}
        )
        pages = self.batch.get_paginator("describe_job_definitions").paginate(**request)
        found = self._ask(lambda: [each for page in pages for each in page["jobDefinitions"]])
        active = [each for each in found if each.get("status", "ACTIVE") == "ACTIVE"]
        return max(active, key=lambda each: int(each["revision"]), default=None)

    def _definition_problems(self, job: JobNeeds) -> list[str]:
        found = self._definition(job.definition)
        if found is None:
            return [f"{job.name}: there is no active job definition {job.definition}"]
        if found.get("type") != "container":
            return [f"{job.name}: the job definition {job.definition} is of type {found['type']}"]
        platform = (found.get("containerProperties") or {}).get("runtimePlatform") or {}
        processor = platform.get("cpuArchitecture")
        if job.arch and processor and processor.lower() != _PROCESSORS[job.arch]:
            return [
                f"{job.name}: the job definition {job.definition} is for {processor}, "
                f"not for {job.arch}"
            ]
        return []

    def _instances(self, types: Sequence[str], findings: Findings) -> list[_Instance] | None:
        """Ask EC2 about instance types and families; None where it does not say."""
        if not types:
            return None
        patterns = [name if "." in name else f"{name}.*" for name in types]
        wanted = [{"Name": "instance-type", "Values": patterns}]
        pages = self.ec2.get_paginator("describe_instance_types").paginate(Filters=wanted)
        try:
            found = self._ask(lambda: [each for page in pages for each in page["InstanceTypes"]])
            return [_instance(each) for each in found]
        except Exception as error:
            findings.warnings.append(
                f"Whether the jobs fit {', '.join(types)} is not known: EC2 did not say, "
                f"{error_message(error)}"
            )
            return None

    def _ask(self, call: Callable[[], Any]) -> Any:
        return call_patiently(call, budget=_BUDGET)


def _usable_environments(
    name: str,
    queue: dict[str, Any] | None,
    environments: dict[str, dict[str, Any]],
    findings: Findings,
) -> list[dict[str, Any]]:
    """Return the compute environments that can take a queue's jobs, and note what cannot."""
    if queue is None:
        findings.problems.append(f"there is no job queue {name}")
        return []
    if why := _unusable(queue):
        findings.problems.append(f"the job queue {name} is {why}")
        return []
    usable, unusable = [], []
    for order in queue["computeEnvironmentOrder"]:
        arn = order["computeEnvironment"]
        found = environments.get(arn)
        why = _unusable(found) if found else "not there"
        if why or not found:
            unusable.append(f"{arn.rsplit('/', 1)[-1]} is {why}")
        else:
            usable.append(found)
    if unusable:
        text = f"the job queue {name}: the compute environment {', '.join(unusable)}"
        (findings.warnings if usable else findings.problems).append(text)
    return usable


def _unusable(found: dict[str, Any]) -> str:
    """Say why a queue or a compute environment takes no jobs; empty where it does."""
    why = [
        found[field].lower()
        for field, good in (("state", "ENABLED"), ("status", "VALID"))
        if found.get(field) not in (good, None)
    ]
    reason = found.get("statusReason") or ""
    return " and ".join(why) + (f" ({reason})" if why and reason else "")


def _fit_problems(
    job: JobNeeds,
    queue: str,
    environments: Sequence[dict[str, Any]],
    instances: Sequence[_Instance],
) -> list[str]:
    """Say why no compute environment of a queue can ever hold a job, or none of the kind asked."""
    problems = []
    for environment in environments:
        resources = environment.get("computeResources") or {}
        types = resources.get("instanceTypes") or []
        name = environment["computeEnvironmentName"]
        if not types or not _CHOSEN_BY_BATCH.isdisjoint(types):
            return []
        candidates = [each for each in instances if _is_one_of(each.name, types)]
        wanted = _PROCESSORS.get(job.arch or "")
        fitting = [each for each in candidates if wanted is None or wanted in each.processors]
        if not fitting:
            problems.append(f"{name} ({', '.join(types)}) has no {job.arch or 'known'} instances")
        elif resources.get("maxvCpus", job.vcpus) < job.vcpus:
            problems.append(f"{name} has {resources['maxvCpus']} vCPUs at the most")
        elif not any(
            each.vcpus >= job.vcpus and each.memory_mib > job.memory_mib for each in fitting
        ):
            largest = max(fitting, key=lambda each: (each.memory_mib, each.vcpus))
            problems.append(
                f"the largest instance of {name}, {largest.name}, has {largest.vcpus} vCPUs and "
                f"{largest.memory_mib} MiB"
            )
        else:
            return []
    if not problems:
        return []
    return [
        f"{job.name}: a job of {job.vcpus} vCPUs and up to {job.memory_mib} MiB would wait for "
        f"ever in {queue}: {'; '.join(problems)}"
    ]


def _instance_types(environments: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(
        {
            name
            for environment in environments
            for name in (environment.get("computeResources") or {}).get("instanceTypes") or []
            if name not in _CHOSEN_BY_BATCH
        }
    )


def _is_one_of(name: str, types: Iterable[str]) -> bool:
    return any(name == each or re.match(rf"{re.escape(each)}\.", name) for each in types)


def _instance(answer: dict[str, Any]) -> _Instance:
    return _Instance(
        name=answer["InstanceType"],
        vcpus=answer["VCpuInfo"]["DefaultVCpus"],
        memory_mib=answer["MemoryInfo"]["SizeInMiB"],
        processors=frozenset(answer["ProcessorInfo"]["SupportedArchitectures"]),
    )
