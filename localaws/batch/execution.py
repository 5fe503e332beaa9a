"""One attempt of a job as processes of this machine."""

from __future__ import annotations

import dataclasses
import fnmatch
import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from localaws.batch.joblogs import JobLog, group_exists
from localaws.batch.models import Job, Outcome
from localaws.batch.states import (
    EXITED,
    NO_COMMAND,
    NO_LOG_GROUP,
    NOT_STARTED_REASON,
    command_not_found,
    pull_failed,
)
from localaws.faults import FaultPlan
from localaws.runner import NOT_FOUND, Command, Runner, RunningCommand
from localaws.settings import Settings
from localaws.workspace import Workspace

log = logging.getLogger(__name__)

#: Seconds in which the processes that a job left behind must be gone.
KILL_TIMEOUT = 5.0


@dataclass(frozen=True)
class Machinery:
    """What jobs run on."""

    settings: Settings
    runner: Runner
    workspace: Workspace
    faults: FaultPlan


class NotStarted(Exception):
    """A container that could not be started; the message is its reason."""

    def __init__(self, reason: str, exit_code: int | None = None) -> None:
        super().__init__(reason)
        self.outcome = Outcome(NOT_STARTED_REASON, exit_code, reason)


class Execution:
    """Runs a job's current attempt. The service lock guards ``cause``; nothing else needs one."""

    def __init__(self, job: Job, machinery: Machinery) -> None:
        self.job = job
        self.attempt = job.attempt
        self.cause: Outcome | None = None
        """Why it was ended, if it did not end by itself."""
        self._machinery = machinery
        self._folder: Path | None = None
        self._process: RunningCommand | None = None
        self._log: JobLog | None = None

    @property
    def pid(self) -> int | None:
        """The process whose descendants are the job; None before it starts."""
        return self._process.supervisor_pid if self._process else None

    def start(self, when_over: Callable[[Execution, int | None], None]) -> None:
        """Start the command; ``when_over`` is called once no process of it is left.

        Raises:
            NotStarted: there is no such image, command or log group.
        """
        job, workspace = self.job, self._machinery.workspace
        search_path = self._pull()
        if not group_exists(job.queue.place, self.attempt.log_group):
            raise NotStarted(NO_LOG_GROUP)
        self._folder = workspace.folder("batch", self.attempt.task_id)
        home = workspace.folder("batch", self.attempt.task_id, "work")
        scratch = workspace.folder("batch", self.attempt.task_id, "scratch")
        env = {**workspace.environment(home, scratch), **self._environment()}
        env["PATH"] = os.pathsep.join(filter(None, [search_path, env["PATH"]]))
        _check_command(job.spec.command, home, env["PATH"])
        # one file for both: the lines keep their order
        output = self._folder / "output"
        output.touch()
        self._log = JobLog(output, self.attempt)

        def exited(process: RunningCommand) -> None:
            self._clean_up(process)
            when_over(self, process.exit_code)

        command = Command(job.spec.command, home, output, output, env)
        self._process = self._machinery.runner.start(command, exited)

    def _pull(self) -> str:
        """Return the folder of commands that stands for the image."""
        job, faults = self.job, self._machinery.faults
        image, images = job.spec.image, self._machinery.settings.batch_images
        subject = self.attempt.task_id
        if not faults.striking("pull_error", subject, job=job.name, queue=job.queue.name):
            for pattern, environment in images.items():
                if fnmatch.fnmatchcase(image, pattern):
                    return os.path.join(environment, "bin") if environment else ""
        raise NotStarted(pull_failed(image))

    def _environment(self) -> dict[str, str]:
        # https://docs.aws.amazon.com/batch/latest/userguide/job_env_vars.html
        job = self.job
        own = {
            "AWS_BATCH_JOB_ID": job.id,
            "AWS_BATCH_JOB_ATTEMPT": str(self.attempt.number),
            "AWS_BATCH_JQ_NAME": job.queue.name,
            "AWS_BATCH_CE_NAME": self.attempt.environment.name,
        }
        if job.parent is not None:
            own["AWS_BATCH_JOB_ARRAY_INDEX"] = str(job.index)
            own["AWS_BATCH_JOB_ARRAY_SIZE"] = str(len(job.parent.children))
        return {**job.spec.environment, **own}

    def _clean_up(self, process: RunningCommand) -> None:
        # a container ends with its command
        process.end()
        if not process.wait_until_gone(KILL_TIMEOUT):
            log.error("processes of job %s are still there", self.job.id)
        self.store_log(complete=True)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def store_log(self, *, complete: bool = False) -> None:
        """Store what it has printed since the last time."""
        try:
            if self._log:
                self._log.store(complete=complete)
        except Exception as error:
            log.warning("cannot store the log of job %s: %s", self.job.id, error)

    def stop(self, cause: Outcome) -> None:
        """Ask it to end, by SIGTERM; the first cause counts. The service lock is held."""
        self.cause = self.cause or cause
        if self._process:
            self._process.send_signal(signal.SIGTERM)

    def kill(self, cause: Outcome | None = None) -> None:
        """End all its processes, by SIGKILL; the first cause counts. The service lock is held."""
        self.cause = self.cause or cause
        if self._process:
            self._process.end()

    def outcome(self, exit_code: int | None) -> Outcome:
        """Return how it ended."""
        if self.cause is None:
            return Outcome(EXITED, exit_code)
        if self.cause.has_lost_host:
            # nobody is left to tell the exit code
            return self.cause
        return dataclasses.replace(self.cause, exit_code=exit_code)


def _check_command(command: list[str], home: Path, search_path: str) -> None:
    if not command:
        raise NotStarted(NO_COMMAND)
    name = command[0]
    found = shutil.which(str(home / name) if "/" in name else name, path=search_path)
    if found is None:
        raise NotStarted(command_not_found(name), NOT_FOUND)
