"""Who an external job is for."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

TAG_DEPLOYMENT = "aws-jobs:deployment"
TAG_DAG = "aws-jobs:dag"
TAG_RUN = "aws-jobs:run"
TAG_TASK = "aws-jobs:task"
TAG_MAP_INDEX = "aws-jobs:map-index"
TAG_RUN_KEY = "aws-jobs:run-key"
TAG_ENDS_BY = "aws-jobs:ends-by"

# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-tags.html
_TAG_VALUE_LENGTH = 256
# https://docs.aws.amazon.com/tag-editor/latest/userguide/tagging.html
_NOT_IN_TAGS = re.compile(r"[^\w\s.:/=+\-@]")


@dataclass(frozen=True)
class RunKey:
    """One submission of one task instance.

    ``epoch`` grows when the task is cleared and stays on a retry; ``generation`` grows with each
    resubmission within an epoch. ``born`` is when the task instance made its first claim, in whole
    seconds: a run that is deleted and made again under the same id is another.
    """

    deployment_id: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    epoch: int = 0
    generation: int = 0
    born: str = ""

    @property
    def attempt(self) -> str:
        """How early or late this submission is among those of its task; compares as text."""
        return ".".join([f"{self.epoch:04d}", f"{self.generation:04d}", *filter(None, [self.born])])

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that travel in names, where a listing shows them."""
        parts = (
            self.deployment_id,
            self.dag_id,
            self.run_id,
            self.task_id,
            str(self.map_index),
            str(self.epoch),
            str(self.generation),
            *filter(None, [self.born]),
        )
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

    @property
    def tags(self) -> dict[str, str]:
        """Tags by which an external job is traced back to its task instance."""
        tags = {
            TAG_DEPLOYMENT: self.deployment_id,
            TAG_DAG: self.dag_id,
            TAG_RUN: self.run_id,
            TAG_TASK: self.task_id,
            TAG_MAP_INDEX: str(self.map_index),
            TAG_RUN_KEY: self.digest,
        }
        return {
            key: _NOT_IN_TAGS.sub("_", value)[:_TAG_VALUE_LENGTH] for key, value in tags.items()
        }

    def next_generation(self) -> RunKey:
        """Return the key of the next submission for the same task instance and epoch."""
        return replace(self, generation=self.generation + 1)


def named(name: str, run_key: RunKey, *, index: int | None = None, limit: int = 256) -> str:
    """Append the run key's digest to a name, cutting the name where the whole is too long.

    >>> named("ingest", RunKey("prod", "etl", "r1", "ingest", -1))
    'ingest [4ca033f191e1339d]'
    """
    suffix = f" {mark(run_key, index=index)}"
    return f"{name[: limit - len(suffix)]}{suffix}"


def mark(run_key: RunKey, *, index: int | None = None) -> str:
    """Return the part of a name by which a listing is searched."""
    return f"[{run_key.digest}]" if index is None else f"[{run_key.digest}/{index}]"
