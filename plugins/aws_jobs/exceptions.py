"""Errors of aws_jobs.

AwsJobsError
├── SettingsError             what differs between accounts is missing or wrong
├── InvalidRequestError       a request that AWS would refuse, or that would cost money for nothing
├── InputError                the data of a run is missing or unusable
├── OutputError               what a run wrote does not add up
├── HousekeepingError         what lives at AWS could not all be looked at, or ended
├── UnknownOutcomeError       nobody can tell yet whether a submission took effect
└── ExternalJobError          a cluster, step or job ended otherwise than it should

TaskKilled stands apart: it is how ``on_kill`` stops ``execute``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_jobs.verdicts import Verdict


class AwsJobsError(AirflowException):
    """Base of the errors that a person on call reads."""


class _ProblemsError(AwsJobsError):
    """Several problems, reported at once."""

    def __init__(self, subject: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  - ".join([f"{subject}:", *self.problems]))


class SettingsError(_ProblemsError):
    """The Airflow variable ``aws_jobs`` is missing or wrong."""


class InvalidRequestError(_ProblemsError):
    """A request that is refused before AWS sees it."""


class InputError(_ProblemsError, AirflowFailException):
    """What a run is asked to work on cannot be used; another try would find the same."""


class OutputError(_ProblemsError, AirflowFailException):
    """What a run has written is not what it should be; another try would find the same."""


class HousekeepingError(_ProblemsError):
    """Not all that lives at AWS could be looked at, or that nobody needs be ended."""


class UnknownOutcomeError(AwsJobsError):
    """A submission's outcome could not be found out; the next try looks again before it submits."""


class ExternalJobError(AwsJobsError):
    """An external job ended otherwise than it should; ``verdict`` says how and why."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(verdict.summary)


class TaskKilled(BaseException):
    """Raised by ``on_kill`` so that ``execute`` stops and can end what it started.

    A BaseException, so that libraries that catch Exception let it pass.
    """
