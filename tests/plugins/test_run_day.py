"""A run's day comes from its logical date or from the person who asks, never from the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from aws_jobs.exceptions import InputError
from aws_jobs.run_day import run_day

JANUARY_2 = datetime(2013, 1, 2, tzinfo=UTC)


def dag_run(run_type: str, logical_date: datetime | None = JANUARY_2) -> Any:
    return SimpleNamespace(run_type=run_type, logical_date=logical_date)


@pytest.mark.parametrize("run_type", ["scheduled", "backfill", "manual"])
def test_the_logical_date_is_the_day(run_type: str) -> None:
    assert run_day(dag_run(run_type), {"day": None}) == "2013-01-02"


def test_in_a_run_by_hand_the_parameter_wins() -> None:
    assert run_day(dag_run("manual"), {"day": "2013-05-06"}) == "2013-05-06"


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_elsewhere_the_parameter_is_refused(run_type: str) -> None:
    with pytest.raises(InputError, match=run_type):
        run_day(dag_run(run_type), {"day": "2013-05-06"})


def test_a_run_without_any_day_is_refused() -> None:
    with pytest.raises(InputError, match="neither"):
        run_day(dag_run("manual", None), {})


@pytest.mark.parametrize("day", ["yesterday", "2013-02-30", "2013-01-01; rm -rf /"])
def test_what_is_no_date_is_refused(day: str) -> None:
    with pytest.raises(InputError, match="2013-01-01"):
        run_day(dag_run("manual"), {"day": day})
