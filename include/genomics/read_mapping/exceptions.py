"""Why a job ends otherwise than well, each kind with its exit code (sysexits.h).

MappingError           70  a tool, or AWS, failed
├── OutOfMemoryError  137  the kernel has killed a tool for the container's limit
├── InputDataError     65  the data, a name or a parameter cannot be used
├── MissingInputError  66  an object that must be there is not
└── SupersededError    75  another attempt owns the sample now

Terminated stands apart: it is how SIGTERM stops the main thread.
"""

from __future__ import annotations


class MappingError(Exception):
    """A tool, or AWS, failed; the message is one sentence."""

    exit_code = 70


class OutOfMemoryError(MappingError):
    """The kernel has killed a tool for the container's limit: more memory helps.

    It kills one process and not the container; the job ends as if it had been killed itself.
    """

    exit_code = 128 + 9


class InputDataError(MappingError):
    """The data, a name or a parameter cannot be used: another try ends the same way."""

    exit_code = 65


class MissingInputError(MappingError):
    """An object that must be there is not."""

    exit_code = 66


class SupersededError(MappingError):
    """Another attempt owns the sample now: nothing more is written."""

    exit_code = 75


class Terminated(BaseException):
    """SIGTERM: a Batch timeout, TerminateJob, or an instance that goes away.

    A BaseException, so that libraries that catch Exception let it pass.
    """

    exit_code = 128 + 15
