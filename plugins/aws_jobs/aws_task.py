"""What all operators and sensors of this package have in common."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.bases.operator import BaseOperatorMeta
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferralTimeout

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import call_patiently
from aws_jobs.exceptions import InputError, TaskKilled
from aws_jobs.settings import Settings, load_settings
from aws_jobs.submit_once import (
    Interruption,
    Patience,
    Submission,
    remembered_ids,
    submit_once,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import jinja2
    from airflow.sdk import BaseOperator, Context

    from aws_jobs.submit_once import ExternalJob

    _Operator = BaseOperator
else:
    # Operators and sensors have different bases, so what they share is mixed in.
    _Operator = object

# Airflow ends a deferral that its trigger has not ended itself by then.
_BACKSTOP = timedelta(hours=1)
# What AWS is asked only to explain a failure is not waited for longer than this, in seconds.
_EXPLAIN_BUDGET = 60.0

_leave = os._exit


class AwsTaskMixin(_Operator):
    """Connection, templates, submission and end of a task that AWS works for.

    :param values: names for the templates of this task, rendered in their order and before
        everything else; beside them ``settings`` is there.
    :param aws_conn_id: Airflow's AWS connection.
    :param poll_interval: how long the state may go unasked, at the most.
    """

    service: ClassVar[str]
    """botocore's name of the service that does the work."""

    # As Airflow's own ResumableJobMixin: default_args and partial() see the arguments of classes
    # whose __init__ is wrapped, and a mixin's is not by itself.
    @BaseOperatorMeta._apply_defaults  # type: ignore[type-var]
    def __init__(
        self,
        *,
        values: dict[str, str] | None = None,
        aws_conn_id: str | None = "aws_default",
        poll_interval: timedelta = timedelta(seconds=30),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.values = values or {}
        self.aws_conn_id = aws_conn_id
        self.poll_interval = poll_interval
        self.links: dict[str, str] = {}
        self.started: list[str] = []
        self.at_work = False
        self._urgent_client: Any = None

    @cached_property
    def settings(self) -> Settings:
        """What differs between accounts, read inside the task."""
        return load_settings()

    @cached_property
    def interruption(self) -> Interruption:
        """How this task is stopped."""
        return Interruption()

    @property
    def patience(self) -> Patience:
        """How long a submission is tried."""
        return Patience(lookup_grace=self.settings.lookup_grace_seconds)

    def client(self, service: str) -> Any:
        """Return a client of this task's connection in the settings' region."""
        return aws_client(service, self.aws_conn_id, self.settings.region)

    def on_kill(self) -> None:
        """Stop ``execute``, which ends the external job on its way out.

        Once ``execute`` is over, while Airflow notes the deferral or the result, an exception would
        tear what it says to its supervisor. Then the job is ended here, and the process with it:
        what it was about to report is not so any more.
        """
        if self.at_work or not self.started:
            self.interruption.kill()
        elif self._urgent_client is not None:
            self.urgently()
            if not isinstance(sys.exception(), AirflowTaskTimeout):
                _leave(128 + signal.SIGTERM)

    def submit(self, context: Context, job: ExternalJob) -> Submission:
        """Submit once, and know what was started from then on."""
        self.prepare_for_a_kill()
        submission = submit_once(
            context,
            job,
            deployment_id=self.settings.deployment_id,
            interruption=self.interruption,
            patience=self.patience,
        )
        self.started = list(submission.external_ids or [])
        return submission

    def prepare_for_a_kill(self) -> None:
        """Make the client for the last call now.

        In a signal handler it cannot be made: a connection is asked for from the supervisor, with
        whom the task may be talking at that moment.
        """
        region = self.settings.region
        self._urgent_client = aws_client(self.service, self.aws_conn_id, region, urgent=True)

    def recall(self, context: Context) -> None:
        """Know what this task instance has started, in this try or another."""
        self.started = remembered_ids(context, self.interruption) or self.started

    def end_started(self, client: Any) -> None:
        """End what this task has started, by one call; tasks that start nothing end nothing."""

    def urgently(self) -> None:
        """Make one last call before SIGKILL, which follows within seconds."""
        if not self.started:
            return
        try:
            if self._urgent_client is None:
                self.prepare_for_a_kill()
            self.end_started(self._urgent_client)
            self.log.info("Ended %s: the task was killed", ", ".join(self.started))
        except Exception as error:
            self.log.warning("The last call before the end failed: %s", error)

    def trigger_arguments(self, *, deadline: float, end_on_kill: bool) -> dict[str, Any]:
        """Return the arguments that all triggers take that share a stream."""
        return {
            "aws_conn_id": self.aws_conn_id,
            "region": self.settings.region,
            "quota_share": self.settings.quota_share,
            "deadline": deadline,
            "unseen_seconds": max(120.0, self.settings.lookup_grace_seconds),
            "interval": self.poll_interval.total_seconds(),
            "end_on_kill": end_on_kill,
        }

    @contextmanager
    def working(self) -> Iterator[None]:
        """Mark the time in which a kill stops this task by an exception."""
        self.at_work = True
        try:
            yield
        finally:
            self.at_work = False

    @contextmanager
    def ending_if_killed(self, context: Context) -> Iterator[None]:
        """Do a part of the task; where it is killed, or was left waiting, end its external job.

        After another fault the job goes on, and the retry reconnects to it.
        """
        with self.working():
            try:
                yield
            except (TaskKilled, TaskDeferralTimeout):
                self.recall(context)
                self.urgently()
                raise

    def describe(self, call: Callable[[], dict[str, Any]], key: str) -> dict[str, Any]:
        """Ask AWS for what only explains a failure; nothing where it does not answer in time."""
        try:
            answer = call_patiently(call, budget=_EXPLAIN_BUDGET)
        except Exception as error:
            self.log.warning("AWS could not be asked for the details: %s", error)
            return {}
        found: dict[str, Any] = answer[key]
        return found

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        """Render ``values`` first, and the other fields with them and the settings."""
        names: Any = dict(context)
        if parent is self:
            names["settings"] = self.settings
            for name, template in self.values.items():
                names[name] = self.render_template(template, names, jinja_env)
            self.values = {name: names[name] for name in self.values}
        super()._do_render_template_fields(parent, template_fields, names, jinja_env, seen_oids)


def require_id(value: Any, what: str) -> str:
    """Refuse an id that an upstream task did not hand over.

    :raises InputError: where it is empty.
    """
    if not isinstance(value, str) or not value.strip() or value == "None":
        raise InputError(
            f"{what} is {value!r}",
            ["the task that hands it over has not run, or was cleared: clear that one too"],
        )
    return value


def in_future(span: timedelta) -> float:
    """Return the Unix time after a span."""
    return time.time() + span.total_seconds()


def backstop(deadline: float) -> timedelta:
    """Return the deferral timeout that stands behind a trigger's own deadline."""
    return timedelta(seconds=max(0.0, deadline - time.time())) + _BACKSTOP
