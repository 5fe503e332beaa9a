"""End clusters and Batch jobs that nobody needs any more, from a shell.

    export PYTHONPATH=plugins
    python -m aws_jobs.reaper          # shows what it would end, and changes nothing
    python -m aws_jobs.reaper --end

It speaks to AWS with the credentials at hand (HousekeepingPolicy of include/infra/airflow.yaml), as
the deployment of AIRFLOW_VAR_AWS_JOBS, and asks the Airflow of AIRFLOW_API_URL, with
AIRFLOW_API_TOKEN, or AIRFLOW_API_USERNAME and AIRFLOW_API_PASSWORD. Where Airflow cannot be asked,
only what is past its time is ended.

What it shows is to

    end now   its time is up: ended at once, whoever needs it
    end       nobody needs it: ended, if that is still so after the grace
    release   some who share it are gone: their leases are given back after the grace
    leave     nobody can tell whether it is needed: for a person to look at
    keep      somebody needs it

Where Airflow does not tell since when an owner has been gone, --end waits for the grace. The exit
code is 0 where nothing is left to do, 1 where something is left that nobody needs or that a person
has to look at, and 2 where not everything could be looked at or ended. More: docs/housekeeping.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from aws_jobs.exceptions import AwsJobsError, SettingsError
from aws_jobs.reaper_attempts import error_line
from aws_jobs.reaper_decision import GRACE, Action
from aws_jobs.reaper_owners import AirflowSilentError, RestOwners, airflow_session
from aws_jobs.reaper_round import Reaper, deployment_at
from aws_jobs.settings import Settings, parse_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from io import TextIOWrapper

    from aws_jobs.reaper_decision import Owner
    from aws_jobs.reaper_owners import Owners
    from aws_jobs.reaper_round import Finding, Look, Outcome

_VARIABLE = "AIRFLOW_VAR_AWS_JOBS"
_LONGEST_GRACE = 86_400.0
_COLUMNS = ("to do", "what", "id", "state", "whose", "why")


@dataclass(frozen=True)
class SilentOwners:
    """Stands in for an Airflow that cannot be asked."""

    why: str

    def run_owner(self, dag_id: str, run_id: str) -> Owner:
        """Say nothing of a run."""
        raise AirflowSilentError(self.why)

    def task_owner(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> Owner:
        """Say nothing of a task."""
        raise AirflowSilentError(self.why)

    def forget(self) -> None:
        """Stay silent."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    from botocore.exceptions import BotoCoreError, ClientError

    options = _parser().parse_args(arguments)
    # A terminal that cannot show a run's id must not keep its cluster alive.
    cast("TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")
    try:
        settings = _settings(os.environ)
        client = partial(_client, region=settings.region)
        new_owners = _new_owners(os.environ, settings, client)
        reaper = Reaper.of(settings, client, new_owners, timedelta(seconds=options.grace))
        return run(reaper, end=options.end)
    except (AwsJobsError, BotoCoreError, ClientError) as error:
        print(error, file=sys.stderr)
        return 2


def run(reaper: Reaper, *, end: bool, sleep: Callable[[float], None] = time.sleep) -> int:
    """Look, print what was found, and end what nobody needs if that is asked for.

    :returns: the exit code.
    """
    look = reaper.look()
    print(as_text(look))
    left, problems = look.left, look.problems
    if end:
        for outcome in _end(reaper, look, sleep):
            _tell(outcome)
            left, problems = [*left, *outcome.left], [*problems, *outcome.problems]
    else:
        left = [*look.overdue, *look.orphans, *left]
        print(f"Nothing was ended. {len(left) - len(look.left)} would be, with --end.")
    for problem in dict.fromkeys(problems):
        print(f"PROBLEM: {problem}", file=sys.stderr)
    return 2 if problems else 1 if left else 0


def _end(reaper: Reaper, look: Look, sleep: Callable[[float], None]) -> Iterator[Outcome]:
    """End at once what is past its time, and the rest once its owners have had their grace."""
    yield reaper.end(each.key for each in look.overdue)
    if look.waits(reaper.grace):
        print(f"Looking again in {reaper.grace}: when their owners went is not known.", flush=True)
        sleep(reaper.grace.total_seconds())
    yield reaper.end(each.key for each in look.orphans)


def as_text(look: Look) -> str:
    """Return what was found as a table, what is to end first."""
    order = list(reversed(Action))
    found = sorted(look.findings, key=lambda each: order.index(each.judgement.action))
    lines = [tuple(name.upper() for name in _COLUMNS), *map(_cells, found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    rows = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*rows, _summary(look)])


def _cells(finding: Finding) -> tuple[str, ...]:
    job, judgement = finding.job, finding.judgement
    return (
        judgement.action.value,
        job.kind.value,
        job.external_id,
        job.state,
        finding.owner,
        judgement.why,
    )


def _summary(look: Look) -> str:
    counts = [f"{len(look.with_action(action))} {action.value}" for action in reversed(Action)]
    return f"{', '.join(counts)}; {look.others} that are not this deployment's"


def _tell(outcome: Outcome) -> None:
    for finding in outcome.ended:
        print(f"ended {finding}")
    for finding in outcome.released:
        print(f"gave back leases: {finding}")
    for spared in outcome.spared:
        print(f"not ended: {spared}")
    for finding in outcome.left:
        print(f"left alone: {finding}")


def _client(service: str, region: str) -> Any:
    """Return a client with the credentials at hand, that makes each call once."""
    import boto3
    from botocore.config import Config

    session: Any = boto3.session.Session()  # Any: types know each service by its name only
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20)
    return session.client(service, region_name=region, config=config)


def _settings(environ: Mapping[str, str]) -> Settings:
    try:
        return parse_settings(json.loads(environ.get(_VARIABLE) or "null"))
    except ValueError as error:
        raise SettingsError(f"{_VARIABLE} is no JSON", [str(error)]) from None


def _new_owners(
    environ: Mapping[str, str], settings: Settings, client: Callable[[str], Any]
) -> Callable[[], Owners]:
    """Log in once; an Airflow that cannot be asked must not keep a cluster past its time alive."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        http = airflow_session(environ)
        return partial(RestOwners, http, deployment_at(settings, client("sts")))
    except (AirflowSilentError, BotoCoreError, ClientError) as error:
        return partial(SilentOwners, error_line(error))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _LONGEST_GRACE:
        raise ValueError
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aws_jobs.reaper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--end", action="store_true", help="end what nobody needs")
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=GRACE.total_seconds(),
        metavar="SECONDS",
        help="how long its owner must have been gone: 0 to 86400 (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    # Airflow's own set-up, which comes with its import, logs to where the answer goes.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    sys.exit(main())
