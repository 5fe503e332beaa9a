"""From a step's jar and arguments to the command that this machine runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from localaws.emr.models import Cluster, Step
from localaws.own_s3 import OwnS3
from localaws.runner import Command
from localaws.spark import spark_environment
from localaws.workspace import Workspace

COMMAND_RUNNER = "command-runner.jar"
SCRIPT_RUNNER = "script-runner.jar"


class StepNotPossible(Exception):
    """A step that cannot even start; the message goes to its stderr."""


@dataclass(frozen=True)
class Logs:
    """The three log files of a step or a bootstrap action."""

    folder: Path
    controller: Path = field(init=False)
    stdout: Path = field(init=False)
    stderr: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in ("controller", "stdout", "stderr"):
            object.__setattr__(self, name, self.folder / name)
            (self.folder / name).touch()

    def upload(self, s3: OwnS3, prefix: str | None) -> None:
        """Store them as ``.gz`` objects below ``prefix``."""
        if prefix is None:
            return
        for path in (self.controller, self.stdout, self.stderr):
            s3.upload_gzipped(path, f"{prefix}/{path.name}.gz")


def step_command(
    step: Step, cluster: Cluster, workspace: Workspace, s3: OwnS3, logs: Logs
) -> Command:
    """Prepare a step: its empty working folder, its environment, its script.

    Raises:
        StepNotPossible: the jar is not one that runs here, or its script is not in S3.
    """
    home = workspace.folder(cluster.id, step.id, "work")
    scratch = workspace.folder(cluster.id, step.id, "scratch")
    settings, endpoint_url = workspace.settings, workspace.endpoint_url
    env = {
        **workspace.environment(home, scratch),
        **spark_environment(settings, endpoint_url, scratch, cluster.request),
        "EMR_CLUSTER_ID": cluster.id,
        "EMR_STEP_ID": step.id,
    }
    argv = _argv(step, scratch, s3)
    return Command(argv=argv, cwd=home, stdout=logs.stdout, stderr=logs.stderr, env=env)


def _argv(step: Step, scratch: Path, s3: OwnS3) -> list[str]:
    jar = PurePosixPath(urlsplit(step.jar).path).name
    if jar == COMMAND_RUNNER:
        if not step.args:
            raise StepNotPossible("command-runner.jar was given no command")
        return step.args
    if jar == SCRIPT_RUNNER:
        if not step.args:
            raise StepNotPossible("script-runner.jar was given no script")
        return [str(fetch_script(step.args[0], scratch, s3)), *step.args[1:]]
    raise StepNotPossible(
        f"localaws runs {COMMAND_RUNNER} and {SCRIPT_RUNNER}, not {step.jar!r}: "
        "give the program to spark-submit, or to bash, by command-runner.jar"
    )


def fetch_script(uri: str, folder: Path, s3: OwnS3) -> Path:
    """Download a script from S3 and make it executable.

    Raises:
        StepNotPossible: it cannot be fetched.
    """
    target = folder / PurePosixPath(urlsplit(uri).path).name
    try:
        s3.download(uri, target)
    except Exception as error:
        raise StepNotPossible(f"cannot download {uri}: {error}") from error
    target.chmod(0o755)
    return target
