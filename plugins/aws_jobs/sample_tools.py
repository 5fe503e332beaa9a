"""Look after a sample table from a shell: ``python -m aws_jobs.sample_tools --help``.

It speaks to AWS with the credentials at hand. Table, bucket, region and queues are those of
``AIRFLOW_VAR_AWS_JOBS`` where that is set. The exit code is 0 where all is well, 1 where
``reconcile`` leaves drift, and 2 where nothing was done because something is wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aws_jobs.exceptions import AwsJobsError
from aws_jobs.sample_claims import THREADS, SampleJobs, is_live
from aws_jobs.sample_drift import SETTLED_AFTER, STALE_AFTER, Reconciliation, is_past
from aws_jobs.sample_sheet import (
    SheetRow,
    list_reads,
    pair_problems,
    parse_sheet,
    row_problems,
    shared_reads,
    unreadable,
)
from aws_jobs.samples import Sample, SampleTable, Status
from aws_jobs.settings import Settings, parse_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_VARIABLE = "AIRFLOW_VAR_AWS_JOBS"
_COLUMNS = ("sample", "status", "arch", "attempt", "job", "updated", "reason")


class ToolError(Exception):
    """What keeps a tool from doing anything, a problem a line."""


@dataclass(frozen=True)
class Account:
    """Where the tools work."""

    table_name: str
    bucket: str
    region: str | None
    deployment_id: str
    queues: Sequence[str]

    @cached_property
    def table(self) -> SampleTable:
        """The sample table."""
        return SampleTable(self.client("dynamodb"), self.table_name, self.bucket)

    @cached_property
    def s3(self) -> Any:
        """A client of S3."""
        return self.client("s3")

    @cached_property
    def jobs(self) -> SampleJobs:
        """The jobs behind the samples."""
        return SampleJobs(self.client("batch"), self.deployment_id)

    def client(self, service: str) -> Any:
        """Return a client that makes each call once: what may be repeated is repeated by us."""
        import boto3
        from botocore.config import Config

        session: Any = boto3.session.Session()
        config = Config(retries={"total_max_attempts": 1})
        return session.client(service, region_name=self.region, config=config)


def register(
    account: Account,
    rows: Sequence[SheetRow],
    problems: Iterable[str] = (),
    *,
    replace: bool = False,
) -> str:
    """Put rows into the table: all of them, or none where anything is wrong.

    :param problems: what was wrong with the source of the rows.
    :param replace: whether a sample that is there may get other reads, and begin anew.
    :returns: what was done.
    :raises ToolError: with every problem.
    """
    problems = [*problems, *row_problems(rows)]
    well_formed = [row for row in rows if not pair_problems(row.r1, row.r2)]
    wrong = unreadable(account.s3, (uri for row in well_formed for uri in (row.r1, row.r2)))
    problems += [
        f"{row.place}: {wrong[uri]}"
        for row in well_formed
        for uri in (row.r1, row.r2)
        if uri in wrong
    ]
    there = {sample.name: sample for sample in account.table.all()}
    problems += _problems_with_others(rows, there)
    changed = {row.sample: row for row in rows if _differs(row, there.get(row.sample))}
    known = account.jobs.describe(there[name].job_id for name in changed if replace)
    for name, row in changed.items():
        if not replace:
            problems.append(
                f"{row.place}: {name} is there already with other reads, "
                f"{there[name].r1} and {there[name].r2}: --replace gives it these"
            )
        elif why := _busy(there[name], known):
            problems.append(f"{row.place}: {name} cannot be replaced, {why}")
    if problems:
        raise ToolError("\n".join(problems))
    new = [row for row in rows if row.sample not in there]
    lost = _write(new, lambda row: account.table.register(row.sample, row.r1, row.r2))
    lost += _write(
        changed.values(),
        lambda row: account.table.replace(there[row.sample], row.r1, row.r2),
    )
    if lost:
        names = ", ".join(row.sample for row in lost)
        raise ToolError(f"somebody else changed these at the same time, look again: {names}")
    same = len(rows) - len(new) - len(changed)
    return f"{len(new)} added, {len(changed)} replaced, {same} were there"


def reset(account: Account, patterns: Sequence[str], *, force: bool = False) -> str:
    """Put samples back to the beginning: all that are named, or none.

    :param force: also those that a run works on; our jobs on them are ended.
    :returns: what was done.
    :raises ToolError: with every problem.
    """
    samples, unmatched = account.table.select(patterns)
    problems = [f"there is no sample {pattern}" for pattern in unmatched]
    known = account.jobs.describe(sample.job_id for sample in samples.values())
    busy = {name: why for name, sample in samples.items() if (why := _busy(sample, known))}
    if not force:
        problems += [f"{name}: {why}; --force resets it all the same" for name, why in busy.items()]
    if problems:
        raise ToolError("\n".join(problems))
    lost = _write(samples.values(), account.table.reset)
    if lost:
        names = ", ".join(sample.name for sample in lost)
        raise ToolError(f"these changed at the same time, look again: {names}")
    for name in busy:
        job = known.get(samples[name].job_id or "")
        if job and is_live(job) and account.jobs.is_ours(job):
            account.jobs.terminate(job["jobId"], f"{name} was reset")
    return f"{len(samples)} reset"


def show(account: Account, patterns: Sequence[str], statuses: Sequence[Status]) -> list[Sample]:
    """Return samples, ordered by name.

    :param patterns: names or patterns; none for all.
    :param statuses: none for all.
    :raises ToolError: where a name or a pattern stands for none.
    """
    if patterns:
        samples, unmatched = account.table.select(patterns)
        if unmatched:
            raise ToolError("\n".join(f"there is no sample {pattern}" for pattern in unmatched))
        found = list(samples.values())
        return [each for each in found if not statuses or each.status in statuses]
    found = list(account.table.with_status(*statuses) if statuses else account.table.all())
    return sorted(found, key=lambda sample: sample.name)


def reconcile(account: Account, *, repair: bool, settled_after: timedelta) -> tuple[str, bool]:
    """Compare the table, Batch and S3.

    :returns: an account of it, and whether drift is left.
    """
    found = Reconciliation(
        account.table, account.s3, account.jobs, account.queues, settled_after
    ).find()
    lines, left = [], 0
    for drift in found:
        outcome = drift.remedy
        if repair and drift.repair:
            is_repaired = drift.repair()
            outcome = f"repaired: {drift.remedy}" if is_repaired else "it changed: look again"
            left += not is_repaired
        else:
            left += 1
        lines.append(f"{drift.sample}: {drift.kind}: {drift.text} -> {outcome}")
    lines.append(f"{len(found)} drifts, {left} left" if found else "no drift")
    return "\n".join(lines), bool(left)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a tool, and return its exit code."""
    from botocore.exceptions import BotoCoreError, ClientError

    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return _run(options, _account(options))
    except (ToolError, AwsJobsError, BotoCoreError, ClientError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, account: Account) -> int:
    if options.tool == "register":
        print(register(account, *_rows(options, account), replace=options.replace))
    elif options.tool == "reset":
        print(reset(account, options.names, force=options.force))
    elif options.tool == "show":
        samples = show(account, options.names, [Status(number) for number in options.status])
        if options.json:
            print(json.dumps([asdict(sample) for sample in samples], indent=2))
        else:
            print(_as_text(samples))
    else:
        settled_after = timedelta(seconds=options.settled_after)
        text, is_left = reconcile(account, repair=options.repair, settled_after=settled_after)
        print(text)
        return int(is_left)
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--table", help="the sample table")
    common.add_argument("--bucket", help="where reads are that are given as keys, and results")
    common.add_argument("--region", help="of AWS; the default is boto3's")
    common.add_argument("--deployment", help="whose jobs may be ended")
    common.add_argument("--queue", action="append", help="a job queue to look for orphans in")
    parser = argparse.ArgumentParser(prog="python -m aws_jobs.sample_tools", description=__doc__)
    tools = parser.add_subparsers(dest="tool", required=True)

    tool = tools.add_parser("register", parents=[common], help="put samples into the table")
    source = tool.add_mutually_exclusive_group(required=True)
    source.add_argument("sheet", nargs="?", help="CSV or TSV with the columns sample, r1, r2")
    source.add_argument("--listing", metavar="URI", help="s3://bucket/source/, to pair its reads")
    tool.add_argument("--replace", action="store_true", help="give samples other reads")

    tool = tools.add_parser("reset", parents=[common], help="put samples back to the beginning")
    tool.add_argument("names", nargs="+", help="names, or patterns such as 'S*'")
    tool.add_argument("--force", action="store_true", help="also what a run works on")

    tool = tools.add_parser("show", parents=[common], help="print samples")
    tool.add_argument("names", nargs="*", help="names, or patterns such as 'S*'; none for all")
    tool.add_argument("--status", action="append", default=[], type=_status, help="number or name")
    tool.add_argument("--json", action="store_true", help="all attributes, as JSON")

    tool = tools.add_parser(
        "reconcile", parents=[common], help="compare the table, Batch and S3 (exit code 1: drift)"
    )
    tool.add_argument("--repair", action="store_true", help="repair what is safe to repair")
    tool.add_argument(
        "--settled-after",
        type=float,
        default=SETTLED_AFTER.total_seconds(),
        metavar="SECONDS",
        help="how long ago a job must have ended before it counts as dead (%(default)s)",
    )
    return parser


def _account(options: argparse.Namespace) -> Account:
    settings = _settings()
    genomics = settings.genomics if settings else None
    table = options.table or (genomics and genomics.samples_table)
    bucket = options.bucket or (settings and settings.bucket)
    if not table or not bucket:
        raise ToolError(f"--table and --bucket are needed where {_VARIABLE} does not say")
    queues = [queue for queues in genomics.queues.values() for queue in queues] if genomics else []
    return Account(
        table_name=table,
        bucket=bucket,
        region=options.region or (settings.region if settings else None),
        deployment_id=options.deployment or (settings.deployment_id if settings else ""),
        queues=options.queue or queues,
    )


def _settings() -> Settings | None:
    text = os.environ.get(_VARIABLE)
    if not text:
        return None
    try:
        return parse_settings(json.loads(text))
    except ValueError as error:
        raise ToolError(f"{_VARIABLE} is no JSON: {error}") from None


def _rows(options: argparse.Namespace, account: Account) -> tuple[list[SheetRow], list[str]]:
    if options.listing:
        return list_reads(account.s3, options.listing)
    return parse_sheet(Path(options.sheet).read_text(encoding="utf-8"), account.bucket)


def _problems_with_others(rows: Sequence[SheetRow], there: Mapping[str, Sample]) -> list[str]:
    """Say which reads are those of a sample that the rows do not name."""
    named = {row.sample for row in rows}
    pairs = {sample.name: (sample.r1, sample.r2) for sample in there.values()}
    others = {name: pair for name, pair in pairs.items() if name not in named}
    used = {uri for pair in others.values() for uri in pair}
    suspects = {row.place: (row.r1, row.r2) for row in rows if used & {row.r1, row.r2}}
    shared = shared_reads({**others, **suspects})
    return [f"{place}: {shared[place]}" for place in suspects if place in shared]


def _differs(row: SheetRow, sample: Sample | None) -> bool:
    return sample is not None and (sample.r1, sample.r2) != (row.r1, row.r2)


def _busy(sample: Sample, known: Mapping[str, Any]) -> str | None:
    """Say who works on a sample; None where nobody does, as far as AWS can tell."""
    job = known.get(sample.job_id or "")
    if job and is_live(job):
        return f"job {sample.job_id} of {sample.owner} is {job['status']}"
    if sample.status == Status.TO_DO and sample.owner and not is_past(sample.claimed_at):
        return (
            f"{sample.owner} claimed it at {sample.claimed_at}, less than "
            f"{STALE_AFTER.total_seconds() / 3600:.0f} h ago, and its job may be about to start"
        )
    return None


def _write(things: Iterable[Any], write: Callable[[Any], bool]) -> list[Any]:
    """Write things, and return those that somebody else has changed meanwhile."""
    wanted = list(things)
    with ThreadPoolExecutor(THREADS) as pool:
        written = pool.map(write, wanted)
        return [each for each, is_written in zip(wanted, written, strict=True) if not is_written]


def _status(text: str) -> int:
    by_name = {status.words: status for status in Status}
    by_number = {str(int(status)): status for status in Status}
    found = by_name.get(text) or by_number.get(text)
    if found is None:
        names = ", ".join(f"{int(status)} or '{status.words}'" for status in Status)
        raise argparse.ArgumentTypeError(f"{text!r} is none of {names}")
    return int(found)


def _as_text(samples: Iterable[Sample]) -> str:
    rows = [
        (
            sample.name,
            sample.status_words,
            sample.arch or "",
            str(sample.attempt),
            sample.job_id or "",
            sample.updated_at or "",
            sample.reason or "",
        )
        for sample in samples
    ]
    lines = [tuple(name.upper() for name in _COLUMNS), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


if __name__ == "__main__":
    # Airflow's own set-up, which comes with its import, logs to where the answer goes.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    sys.exit(main())
