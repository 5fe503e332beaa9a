"""Much that is done one by one: what fails hides nothing else, and is told in the end."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from aws_jobs.aws_errors import error_code
from aws_jobs.exceptions import AwsJobsError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

log = logging.getLogger(__name__)

# An error's text may be a whole page of HTML.
_LONGEST_TEXT = 400


@dataclass
class Attempts:
    """What is done until time is up.

    :param seconds: after which nothing more is begun.
    :param problems: what failed, each once.
    """

    seconds: float = 1500.0
    problems: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def make(self, what: str, call: Callable[[], T]) -> T | None:
        """Do something; None where it fails, or time is up.

        What nobody foresaw is logged, with its place in the code.

        :param what: the problem that it is then.
        """
        if time.monotonic() - self._began > self.seconds:
            self._note(f"not everything was done within {self.seconds / 60:.0f} minutes")
            return None
        try:
            return call()
        except Exception as error:
            self._note(f"{what}: {error_line(error)}")
            if not _is_foreseen(error):
                log.error("%s", what, exc_info=error)
            return None

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def error_line(error: Exception) -> str:
    """Return an error's text as one line that is not too long."""
    return " ".join(str(error).split())[:_LONGEST_TEXT]


def _is_foreseen(error: Exception) -> bool:
    from botocore.exceptions import BotoCoreError

    return bool(error_code(error)) or isinstance(error, AwsJobsError | BotoCoreError)
