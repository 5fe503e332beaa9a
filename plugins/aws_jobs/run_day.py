"""Which day a run is for: its logical date, or the day that a person asks for."""

from __future__ import annotations

import logging
from datetime import date
from typing import TYPE_CHECKING, Any

from aws_jobs.exceptions import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)


def run_day(dag_run: Any, params: Mapping[str, Any]) -> str:
    """Return the day of a run as ``YYYY-MM-DD``; a macro for templates.

    In a manual run the ``day`` parameter wins, because the form in the UI fills in the logical date
    with the present moment. A scheduled or backfilled run is for its own date, and a ``day`` is
    refused. The data interval is not used: for one and the same date it differs with the way a run
    was started.

    :raises InputError: where there is no day, two, or one that is not a date.
    """
    asked = params.get("day") or None
    logical_date = dag_run.logical_date
    run_type = str(getattr(dag_run.run_type, "value", dag_run.run_type))
    if asked is not None and run_type != "manual":
        raise InputError(
            f"The parameter day is {asked!r} in a {run_type} run",
            ["such a run is for its own date: leave day out, or trigger a run by hand"],
        )
    if asked is not None:
        log.info("The day is %s, from the parameter day", asked)
        return _checked(asked)
    if logical_date is None:
        raise InputError(
            "The run has neither a day nor a logical date",
            ['give one: {"day": "2013-01-01"}, or a logical date'],
        )
    day: str = logical_date.strftime("%Y-%m-%d")
    log.info("The day is %s, from the logical date %s of a %s run", day, logical_date, run_type)
    return day


def _checked(day: str) -> str:
    try:
        return date.fromisoformat(day).isoformat()
    except (TypeError, ValueError):
        raise InputError(
            f"The parameter day is {day!r}", ["it is a date like 2013-01-01"]
        ) from None
