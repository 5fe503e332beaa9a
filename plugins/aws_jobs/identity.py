"""Who an external job is for."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TAG_DEPLOYMENT = "aws-jobs:deployment"
TAG_DAG = "aws-jobs:dag"
TAG_RUN = "aws-jobs:run"
TAG_TASK = "aws-jobs:task"
TAG_MAP_INDEX = "aws-jobs:map-index"
TAG_RUN_KEY = "aws-jobs:run-key"
TAG_ATTEMPT = "aws-jobs:attempt"
TAG_ENDS_BY = "aws-jobs:ends-by"
TAG_POOL = "aws-jobs:pool"

# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-tags.html
_TAG_VALUE_LENGTH = 256
# `=` is what escapes begin with, so it is escaped too.
# https://docs.aws.amazon.com/tag-editor/latest/userguide/tagging.html
_NOT_IN_TAGS = re.compile(r"[^\w .:/+\-@]")
_ESCAPES = re.compile(r"(?:=[0-9A-F]{2})+")
# No escape ends with it, so a value that was cut is no value.
_CUT = "="


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
            TAG_ATTEMPT: self.attempt,
        }
        return {key: tag_value(value) for key, value in tags.items()}

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> RunKey | None:
        """Read back whose an external job is.

        :returns: None for tags that are not whole, or not as ``tags`` wrote them: the digest tells.
        """
        try:
            epoch, generation, *born = tags[TAG_ATTEMPT].split(".")
            run_key = cls(
                deployment_id=tags[TAG_DEPLOYMENT],
                dag_id=untagged(tags[TAG_DAG]),
                run_id=untagged(tags[TAG_RUN]),
                task_id=untagged(tags[TAG_TASK]),
                map_index=int(tags[TAG_MAP_INDEX]),
                epoch=int(epoch),
                generation=int(generation),
                born="".join(born),
            )
        except (KeyError, ValueError):
            return None
        return run_key if run_key.digest == tags.get(TAG_RUN_KEY) else None

    def next_generation(self) -> RunKey:
        """Return the key of the next submission for the same task instance and epoch."""
        return replace(self, generation=self.generation + 1)


def tag_value(text: str) -> str:
    """Write a text as the value of a tag, from which ``untagged`` reads it back.

    What tags do not take is escaped. A text too long for a tag is cut, and cannot be read back.

    >>> tag_value("scheduled__2013-01-01T00:00:00+00:00"), tag_value("a~b")
    ('scheduled__2013-01-01T00:00:00+00:00', 'a=7Eb')
    """
    value = _NOT_IN_TAGS.sub(_escape, text)
    return value if len(value) <= _TAG_VALUE_LENGTH else value[: _TAG_VALUE_LENGTH - 1] + _CUT


def untagged(value: str) -> str:
    """Read back what ``tag_value`` has written.

    :raises ValueError: where it was cut, or is no such value.
    """
    text = _ESCAPES.sub(lambda found: bytes.fromhex(found[0].replace("=", "")).decode(), value)
    if value.endswith(_CUT) or tag_value(text) != value:
        raise ValueError(f"{value!r} was cut, or is no tag of this project's")
    return text


def _escape(found: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in found[0].encode())


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
