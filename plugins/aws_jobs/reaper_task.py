"""What the tasks of the housekeeping DAG do."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from aws_jobs.aws_clients import aws_client
from aws_jobs.exceptions import HousekeepingError
from aws_jobs.reaper_attempts import error_line
from aws_jobs.reaper_decision import GRACE, Action, Kind, utc_now
from aws_jobs.reaper_owners import DEPLOYMENT_KEY, TaskOwners
from aws_jobs.reaper_round import Look, Outcome, Reaper, deployment_at
from aws_jobs.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow.sdk import Context

log = logging.getLogger(__name__)

_BACKSTOP = timedelta(hours=1)


def find_orphans(ti: Any, aws_conn_id: str | None = "aws_default") -> dict[str, Any]:
    """Look at all that lives, and return what nobody needs; nothing is ended.

    :returns: ``overdue`` and ``orphans``, ``left`` to a person, and ``problems``; ``at`` is when
        the look was over, and ``waits`` whether there are orphans to wait for.
    """
    _show_deployment(ti, aws_conn_id)
    look = _reaper(aws_conn_id).look()
    for finding in [*look.overdue, *look.orphans]:
        log.warning("Nobody needs %s", finding)
    for finding in look.left:
        log.warning("Left alone: %s", finding)
    for problem in look.problems:
        log.warning("Problem: %s", problem)
    kept = len(look.with_action(Action.KEEP))
    log.info("%d are needed, %d are not this deployment's", kept, look.others)
    return {
        "at": utc_now().isoformat(),
        "waits": look.waits(GRACE),
        "overdue": [[*map(str, each.key)] for each in look.overdue],
        "orphans": [[*map(str, each.key)] for each in look.orphans],
        "left": [str(finding) for finding in look.left],
        "problems": look.problems,
    }


class EndOrphansOperator(BaseOperator):
    """End what is past its time; wait for the grace; end what nobody needs still.

    It is skipped where there is nothing to do. Where the first look was not complete it looks at
    everything once more. It fails where something could not be looked at or ended now, after it
    has ended the rest; its retry looks again.

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
        if not any(self.found[each] for each in ("overdue", "orphans", "problems")):
            raise AirflowSkipException("There is nothing that nobody needs")
        due = datetime.fromisoformat(self.found["at"]) + self.grace
        if self.found["waits"] and utc_now() < due:
            # What fails now is tried again after the wait.
            self._end(_keys(self.found["overdue"]))
            self._wait(due)
        return self.execute_complete(context, None)

    def execute_complete(self, context: Context, event: Any) -> dict[str, list[str]]:
        """End, once the grace has passed."""
        look = _reaper(self.aws_conn_id).look() if self.found["problems"] else Look()
        overdue = [*_keys(self.found["overdue"]), *(each.key for each in look.overdue)]
        outcome = self._end(dict.fromkeys([*overdue, *_keys(self.found["orphans"])]))
        if problems := [*dict.fromkeys([*look.problems, *outcome.problems])]:
            raise HousekeepingError("Housekeeping is not complete", problems)
        return {
            "ended": [str(finding) for finding in outcome.ended],
            "released": [str(finding) for finding in outcome.released],
            "spared": outcome.spared,
            "left": [str(finding) for finding in outcome.left],
        }

    def _end(self, found: Iterable[tuple[Kind, str]]) -> Outcome:
        outcome = _reaper(self.aws_conn_id, self.grace).end(found)
        for finding in outcome.ended:
            log.warning("Ended %s", finding)
        for finding in outcome.released:
            log.warning("Gave back leases: %s", finding)
        for spared in outcome.spared:
            log.info("Not ended: %s", spared)
        for finding in outcome.left:
            log.warning("Left alone: %s", finding)
        return outcome

    def _wait(self, due: datetime) -> NoReturn:
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        self.log.info("Looking again at %s", due)
        trigger = DateTimeTrigger(due.astimezone(UTC))
        self.defer(trigger=trigger, method_name="execute_complete", timeout=self.grace + _BACKSTOP)


def _show_deployment(ti: Any, aws_conn_id: str | None) -> None:
    """Note whose Airflow this is, for those who ask it from elsewhere."""
    settings = load_settings()
    try:
        shown = deployment_at(settings, aws_client("sts", aws_conn_id, settings.region))
    except Exception as error:
        log.warning("The command line will not believe this Airflow: %s", error_line(error))
    else:
        ti.xcom_push(key=DEPLOYMENT_KEY, value=shown)


def _keys(found: Iterable[Sequence[str]]) -> list[tuple[Kind, str]]:
    return [(Kind(kind), external_id) for kind, external_id in found]


def _reaper(aws_conn_id: str | None, grace: timedelta = GRACE) -> Reaper:
    settings = load_settings()
    return Reaper.of(
        settings,
        lambda service: aws_client(service, aws_conn_id, settings.region),
        TaskOwners,
        grace,
    )
