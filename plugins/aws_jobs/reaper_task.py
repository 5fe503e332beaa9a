"""What the tasks of the housekeeping DAG do."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from aws_jobs.aws_clients import aws_client
from aws_jobs.exceptions import HousekeepingError
from aws_jobs.reaper_decision import GRACE, Action, Kind, utc_now
from aws_jobs.reaper_owners import DEPLOYMENT_KEY, TaskOwners
from aws_jobs.reaper_round import Reaper
from aws_jobs.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

log = logging.getLogger(__name__)

_BACKSTOP = timedelta(hours=1)


def find_orphans(ti: Any, aws_conn_id: str | None = "aws_default") -> dict[str, Any]:
    """Look at all that lives, and return what nobody needs; nothing is ended.

    :returns: ``orphans``, ``left`` to a person, and ``problems``; ``at`` is when the look was over.
    """
    ti.xcom_push(key=DEPLOYMENT_KEY, value=load_settings().deployment_id)
    look = _reaper(aws_conn_id).look()
    left = look.with_action(Action.LEAVE)
    for finding in look.orphans:
        log.warning("Nobody needs %s", finding)
    for finding in left:
        log.warning("Left alone: %s", finding)
    kept = len(look.with_action(Action.KEEP))
    log.info("%d are needed, %d are not this deployment's", kept, look.others)
    now = utc_now()
    return {
        "at": now.isoformat(),
        "waits": any(each.judgement.waits(now, GRACE) for each in look.orphans),
        "orphans": [[each.job.kind.value, each.job.external_id] for each in look.orphans],
        "left": [str(finding) for finding in left],
        "problems": look.problems,
    }


class EndOrphansOperator(BaseOperator):
    """Wait for the grace, look again at what nobody needed, and end what nobody needs still.

    It is skipped where there is nothing to do. It fails where something could not be looked at or
    ended, after it has ended the rest; its retry looks again.

    :param found: what ``find_orphans`` returned. (templated)
    :param grace_minutes: how long an owner must have been gone. (templated)
    """

    template_fields: Sequence[str] = ("found", "grace_minutes")
    template_fields_renderers: ClassVar[dict[str, str]] = {"found": "json"}
    ui_color = "#f9c6b0"

    def __init__(
        self,
        *,
        found: Any,
        grace_minutes: float | str = GRACE.total_seconds() / 60,
        aws_conn_id: str | None = "aws_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.found = found
        self.grace_minutes = grace_minutes
        self.aws_conn_id = aws_conn_id

    @property
    def grace(self) -> timedelta:
        """How long an owner must have been gone."""
        return timedelta(minutes=float(self.grace_minutes))

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Wait until the grace has passed since the first look, then end.

        :raises HousekeepingError: with all that could not be looked at or ended.
        """
        if not self.found["orphans"] and not self.found["problems"]:
            raise AirflowSkipException("There is nothing that nobody needs")
        due = datetime.fromisoformat(self.found["at"])
        if self.found["waits"]:
            due += self.grace
        if utc_now() < due:
            self._wait(due)
        return self._end()

    def execute_complete(self, context: Context, event: Any) -> dict[str, list[str]]:
        """End, once the grace has passed."""
        return self._end()

    def _end(self) -> dict[str, list[str]]:
        orphans = [(Kind(kind), external_id) for kind, external_id in self.found["orphans"]]
        outcome = _reaper(self.aws_conn_id, self.grace).end(orphans)
        for finding in outcome.ended:
            log.warning("Ended %s", finding)
        for finding in outcome.released:
            log.warning("Gave back leases: %s", finding)
        for spared in outcome.spared:
            log.info("Not ended: %s", spared)
        if problems := [*self.found["problems"], *outcome.problems]:
            raise HousekeepingError("Housekeeping is not complete", problems)
        return {
            "ended": [str(finding) for finding in outcome.ended],
            "released": [str(finding) for finding in outcome.released],
            "spared": outcome.spared,
        }

    def _wait(self, due: datetime) -> NoReturn:
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        self.log.info("Looking again at %s", due)
        trigger = DateTimeTrigger(due.astimezone(UTC))
        self.defer(trigger=trigger, method_name="execute_complete", timeout=self.grace + _BACKSTOP)


def _reaper(aws_conn_id: str | None, grace: timedelta = GRACE) -> Reaper:
    settings = load_settings()
    return Reaper.of(
        settings,
        lambda service: aws_client(service, aws_conn_id, settings.region),
        TaskOwners,
        grace,
    )
