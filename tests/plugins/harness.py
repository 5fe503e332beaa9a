"""A worker and a triggerer in miniature: they run an operator as Airflow does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.exceptions import TaskDeferred

from aws_jobs.polling import Sweep
from aws_jobs.triggers.shared import SharedTrigger
from localaws.process import LocalAws

QUEUE, FALLBACK_QUEUE, DEFINITION = "spot", "on-demand", "bash"


class TaskStateStore:
    """Airflow's task state store, in memory; its values are JSON and survive a try."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.on_set: Callable[[str, Any], None] = lambda key, value: None

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        # As Airflow's own, which refuses a tuple.
        assert value == json.loads(json.dumps(value)), f"{key} is no JSON: {value}"
        self.on_set(key, value)
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class TaskInstance:
    """A task instance over its tries, with what Airflow changes at a retry and at a clear."""

    def __init__(self, task_id: str = "task", retries: int = 2) -> None:
        self.dag_id = "dag"
        self.run_id = f"manual__{uuid4()}"
        self.task_id = task_id
        self.map_index = -1
        self.try_number = 1
        self.retries = retries
        self.max_tries = retries
        self.clear_number = 0
        self.store = TaskStateStore()
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    def retry(self) -> None:
        self.try_number += 1
        self.xcoms.clear()

    def clear(self, *, running: bool = False) -> None:
        self.clear_number += 1
        if not running:
            self.max_tries = self.try_number + self.retries
        self.try_number += 1
        self.xcoms.clear()

    def clear_of_another_task(self) -> None:
        self.clear_number += 1

    @property
    def context(self) -> dict[str, Any]:
        return {
            "ti": self,
            "dag_run": SimpleNamespace(
                clear_number=self.clear_number, run_id=self.run_id, run_type="manual"
            ),
            "task_state_store": self.store,
            "run_id": self.run_id,
            "params": {},
        }


def render(operator: Any, ti: TaskInstance) -> dict[str, Any]:
    context = ti.context
    operator.render_template_fields(context, operator.get_template_env())
    return context


def start(operator: Any, ti: TaskInstance) -> Any:
    """Run until the task returns, or defers: then return the deferral."""
    try:
        return operator.execute(render(operator, ti))
    except TaskDeferred as deferred:
        return deferred


def wait(deferred: TaskDeferred, timeout: float = 60.0) -> Any:
    """Run the trigger as another process would, from its serialized form, to its first event."""
    path, arguments = deferred.trigger.serialize()
    trigger = import_string(path)(**arguments)

    return asyncio.run(asyncio.wait_for(first_event(trigger), timeout))


async def first_event(trigger: SharedTrigger, stream: AsyncIterator[Sweep] | None = None) -> Any:
    events = trigger.run() if stream is None else trigger.filter_shared_stream(stream)
    async for event in events:
        return event.payload


async def wait_together(triggers: list[Any], *others: Any) -> list[Any]:
    """Run triggers on one shared stream, as the triggerer does."""
    queues: list[asyncio.Queue[Sweep]] = [asyncio.Queue() for _ in triggers]

    async def listen(queue: asyncio.Queue[Sweep]) -> AsyncIterator[Sweep]:
        while True:
            yield await queue.get()

    async def pump() -> None:
        _, kwargs = triggers[0].serialize()
        async for sweep in type(triggers[0]).open_shared_stream(kwargs):
            for queue in queues:
                queue.put_nowait(sweep)

    pumping = asyncio.create_task(pump())
    waits = [
        first_event(trigger, listen(queue)) for trigger, queue in zip(triggers, queues, strict=True)
    ]
    async with asyncio.timeout(60):
        events = await asyncio.gather(*waits, *others)
    pumping.cancel()
    return events[: len(triggers)]


def resume(operator: Any, ti: TaskInstance, deferred: TaskDeferred, event: Any) -> Any:
    kwargs = {**(deferred.kwargs or {}), "event": event}
    try:
        return operator.resume_execution(deferred.method_name, kwargs, render(operator, ti))
    except TaskDeferred as again:
        return again


def run(operator: Any, ti: TaskInstance) -> Any:
    """Run a task from its start to its end, with every wait in between."""
    result = start(operator, ti)
    while isinstance(result, TaskDeferred):
        result = resume(operator, ti, result, wait(result))
    return result


def job_flow(**overrides: Any) -> dict[str, Any]:
    """A small RunJobFlow request."""
    return {
        "Name": "test",
        "ReleaseLabel": "emr-7.12.0",
        "LogUri": "s3://localaws-data/elasticmapreduce/",
        "Instances": {
            "InstanceGroups": [
                {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1},
                {"InstanceRole": "CORE", "InstanceType": "m5.xlarge", "InstanceCount": 1},
            ],
            "KeepJobFlowAliveWhenNoSteps": True,
            "Ec2SubnetId": "subnet-0localaws",
        },
        "JobFlowRole": "local-emr-instance",
        "ServiceRole": "local-emr-service",
        "AutoTerminationPolicy": {"IdleTimeout": 600},
        **overrides,
    }


def bash_step(script: str, name: str = "step") -> dict[str, Any]:
    return {
        "Name": name,
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["bash", "-c", script]},
    }


def bash_job(script: str = "true", **overrides: Any) -> dict[str, Any]:
    """A SubmitJob request that runs a bash script."""
    return {
        "jobName": "test",
        "jobQueue": QUEUE,
        "jobDefinition": DEFINITION,
        "parameters": {"script": script},
        **overrides,
    }


def live_jobs(aws: LocalAws) -> list[dict[str, Any]]:
    """The jobs, an array as one, that have not ended."""
    jobs: list[dict[str, Any]] = aws.jobs()
    over = {"SUCCEEDED", "FAILED"}
    return [job for job in jobs if job["state"] not in over and not job["parent"]]
