"""The sample table: one DynamoDB item a sample, written on conditions only.

A sample has at most one owner, a run. Whoever writes says for whom: what a run or its job reports
holds only as long as the sample is still theirs, so a run that was overtaken changes nothing.
"""

from __future__ import annotations

import fnmatch
import random
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently, error_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

STATUS_INDEX = "status-index"
# A name is part of object keys and of columns' names, never of a command.
SAMPLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html
_KEYS_A_CALL = 100
# A table on demand doubles what it takes within minutes.
_BUDGET = 300.0
_REASON_LENGTH = 1000


class Status(IntEnum):
    """How far a sample is. The numbers are stored, and grow within an attempt."""

    FAILED = -1
    TO_DO = 0
    STARTED = 1
    MAPPED = 2
    BAM_STORED = 3
    FINISHED = 4

    @property
    def words(self) -> str:
        """What a person reads in place of the number."""
        return _WORDS[self]


_WORDS = {
    Status.FAILED: "failed",
    Status.TO_DO: "to do",
    Status.STARTED: "started",
    Status.MAPPED: "BAM on the node",
    Status.BAM_STORED: "BAM in S3",
    Status.FINISHED: "finished",
}
# A sample that moves while the table is asked status by status is seen once at least.
_IN_ORDER = (
    Status.TO_DO,
    Status.STARTED,
    Status.MAPPED,
    Status.BAM_STORED,
    Status.FINISHED,
    Status.FAILED,
)
# What a claim forgets of the attempts before.
_OF_AN_ATTEMPT = ("attempt_key", "reason", "job_id", "started_at", "finished_at", "outputs")
# What must not have changed since a sample was read by whoever decides upon it.
_IDENTIFYING = ("status", "owner", "job_id", "attempt_key")


@dataclass(frozen=True)
class Sample:
    """One item of the table, as it was read.

    :param r1: the forward reads, ``s3://...``.
    :param r2: the reverse reads.
    :param status: a number of ``Status``, or None where the item has none.
    :param attempt: how many jobs have started for it.
    :param owner: ``<deployment>/<dag_id>/<run_id>`` of the run that claimed it last.
    :param job_id: the Batch job that started last, ``<id>`` or ``<array job's id>:<index>``.
    :param attempt_key: the owner's attempt which that job is; compares as text.
    :param outputs: the manifest of a finished sample's outputs, ``s3://...``.
    """

    name: str
    r1: str
    r2: str
    status: int | None = None
    arch: str | None = None
    attempt: int = 0
    owner: str | None = None
    job_id: str | None = None
    attempt_key: str | None = None
    claimed_at: str | None = None
    started_at: str | None = None
    updated_at: str | None = None
    finished_at: str | None = None
    reason: str | None = None
    outputs: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the table says that its outputs are complete."""
        return self.status == Status.FINISHED

    @property
    def status_words(self) -> str:
        """The status as a person reads it."""
        try:
            return Status(self.status).words if self.status is not None else "without status"
        except ValueError:
            return f"unknown status {self.status}"


@dataclass(frozen=True)
class SampleTable:
    """The samples of one table.

    :param dynamodb: a client that makes each call once; what may be repeated is repeated here.
    :param name: the table's.
    :param bucket: where reads are that are stored as keys.
    """

    dynamodb: Any
    name: str
    bucket: str

    def get(self, names: Iterable[str]) -> dict[str, Sample]:
        """Read samples as they are now; one that the table lacks is left out."""
        wanted = sorted({name for name in names if name})
        found = {}
        for start in range(0, len(wanted), _KEYS_A_CALL):
            keys = [{"sample": {"S": name}} for name in wanted[start : start + _KEYS_A_CALL]]
            for item in self._batch_get(keys):
                sample = self._sample(item)
                found[sample.name] = sample
        return found

    def with_status(self, *statuses: int) -> Iterator[Sample]:
        """Read the samples of some statuses through the index, which lags by moments."""
        for status in statuses:
            yield from self._pages(
                self.dynamodb.query,
                IndexName=STATUS_INDEX,
                KeyConditionExpression="#status = :status",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={":status": {"N": str(int(status))}},
            )

    def all(self) -> Iterator[Sample]:
        """Read the whole table, also what the index lacks: for a person's look, not for work."""
        yield from self._pages(self.dynamodb.scan, ConsistentRead=True)

    def select(self, patterns: Sequence[str]) -> tuple[dict[str, Sample], list[str]]:
        """Return the samples that names or patterns such as ``S*`` stand for, ordered by name.

        :returns: the samples, and the names and patterns for which there is none.
        """
        globs = [pattern for pattern in patterns if is_pattern(pattern)]
        names = [pattern for pattern in patterns if not is_pattern(pattern)]
        found = self.get(names)
        unmatched = [name for name in names if name not in found]
        matched: set[str] = set()
        for sample in self.with_status(*_IN_ORDER) if globs else ():
            matches = [glob for glob in globs if fnmatch.fnmatchcase(sample.name, glob)]
            matched.update(matches)
            if matches and sample.name not in names:
                found[sample.name] = sample
        unmatched += [glob for glob in globs if glob not in matched]
        return dict(sorted(found.items())), unmatched

    def register(self, name: str, r1: str, r2: str) -> bool:
        """Add a sample; False where there is one of this name."""
        return self._update(
            name,
            "attribute_not_exists(#sample)",
            changes={"r1": r1, "r2": r2, "status": Status.TO_DO, "attempt": 0},
        )

    def replace(self, read: Sample, r1: str, r2: str) -> bool:
        """Give a sample other reads and begin it anew; False where it changed since it was read."""
        return self._update_as_read(
            read,
            changes={"r1": r1, "r2": r2, "status": Status.TO_DO},
            removed=(*_OF_AN_ATTEMPT, "owner", "claimed_at", "arch"),
        )

    def reset(self, read: Sample) -> bool:
        """Put a sample back to the beginning; False where it changed since it was read."""
        return self._update_as_read(
            read,
            changes={"status": Status.TO_DO},
            removed=(*_OF_AN_ATTEMPT, "owner", "claimed_at", "arch"),
        )

    def claim(self, read: Sample, owner: str, arch: str, *, recompute: bool = False) -> bool:
        """Make a run the owner of a sample that nobody owns, the run itself, or who was read.

        The caller has made sure that whoever was read is gone. A sample that this very run has
        finished stays finished, recomputed or not.

        :returns: False where the sample is finished, or another's by now.
        """
        unfinished = "(attribute_not_exists(#status) OR #status <> :finished"
        unfinished += " OR attribute_not_exists(#owner) OR #owner <> :me)" if recompute else ")"
        values: dict[str, Any] = {"finished": Status.FINISHED, "me": owner}
        free = "attribute_not_exists(#owner) OR #owner = :me"
        if read.owner not in (None, owner):
            unchanged, read_values = _unchanged(read, ("owner", "job_id"))
            free += f" OR ({unchanged})"
            values |= read_values
        return self._update(
            read.name,
            f"attribute_exists(#sample) AND {unfinished} AND ({free})",
            changes={"owner": owner, "claimed_at": now(), "arch": arch, "status": Status.TO_DO},
            removed=_OF_AN_ATTEMPT,
            values=values,
        )

    def finish(self, name: str, owner: str, outputs: str) -> bool:
        """Say that a sample's outputs are complete; False where it is another's."""
        return self._update(
            name,
            "#owner = :me",
            changes={"status": Status.FINISHED, "outputs": outputs},
            defaults={"finished_at": now()},
            removed=("reason",),
            values={"me": owner},
        )

    def finish_as_read(self, read: Sample, outputs: str) -> bool:
        """Say that a sample's outputs are complete; False where it changed since it was read."""
        return self._update_as_read(
            read,
            changes={"status": Status.FINISHED, "outputs": outputs, "finished_at": now()},
            removed=("reason",),
        )

    def fail(self, name: str, owner: str, reason: str) -> bool:
        """Say why a sample failed; False where it is another's, or finished after all."""
        return self._update(
            name,
            "#owner = :me AND #status <> :finished",
            changes=_failure(reason),
            values={"me": owner, "finished": Status.FINISHED},
        )

    def fail_as_read(self, read: Sample, reason: str) -> bool:
        """Say why a sample failed; False where it changed since it was read."""
        return self._update_as_read(read, changes=_failure(reason))

    def _update_as_read(
        self, read: Sample, *, changes: Mapping[str, Any], removed: Iterable[str] = ()
    ) -> bool:
        unchanged, values = _unchanged(read, _IDENTIFYING)
        condition = f"attribute_exists(#sample) AND {unchanged}"
        return self._update(read.name, condition, changes=changes, removed=removed, values=values)

    def _update(
        self,
        name: str,
        condition: str,
        *,
        changes: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        removed: Iterable[str] = (),
        values: Mapping[str, Any] | None = None,
    ) -> bool:
        """Change an item where the condition holds.

        :param defaults: attributes that are set where they are missing.
        :param values: what the condition's ``:names`` stand for.
        """
        defaults = defaults or {}
        changes = {**changes, "updated_at": now()}
        parts = [f"#{key} = :new_{key}" for key in changes]
        parts += [f"#{key} = if_not_exists(#{key}, :new_{key})" for key in defaults]
        update = f"SET {', '.join(parts)}"
        if removed:
            update += f" REMOVE {', '.join(f'#{key}' for key in removed)}"
        stored = {f":new_{key}": _stored(value) for key, value in {**changes, **defaults}.items()}
        stored |= {f":{key}": _stored(value) for key, value in (values or {}).items()}
        try:
            self._call(
                self.dynamodb.update_item,
                Key={"sample": {"S": name}},
                UpdateExpression=update,
                ConditionExpression=condition,
                # Some of the names are words of DynamoDB's own, so each has a placeholder.
                ExpressionAttributeNames={
                    f"#{key}": key for key in re.findall(r"#(\w+)", f"{update} {condition}")
                },
                ExpressionAttributeValues=stored,
            )
        except Exception as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def _batch_get(self, keys: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        pending: dict[str, Any] = {self.name: {"Keys": keys, "ConsistentRead": True}}
        pause, give_up = 0.1, time.monotonic() + _BUDGET
        while pending:
            answer = call_patiently(
                partial(self.dynamodb.batch_get_item, RequestItems=pending), budget=_BUDGET
            )
            yield from answer["Responses"].get(self.name, [])
            pending = answer.get("UnprocessedKeys") or {}
            if pending:
                if time.monotonic() > give_up:
                    raise TimeoutError(f"The table {self.name} is throttled for {_BUDGET:.0f} s")
                time.sleep(random.uniform(0, pause))  # noqa: S311 - jitter
                pause = min(5.0, 2 * pause)

    def _pages(self, call: Callable[..., Any], **request: Any) -> Iterator[Sample]:
        start: dict[str, Any] = {}
        while True:
            answer = self._call(call, **request, **start)
            yield from map(self._sample, answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def _call(self, call: Callable[..., Any], **request: Any) -> Any:
        return call_patiently(partial(call, TableName=self.name, **request), budget=_BUDGET)

    def _sample(self, item: Mapping[str, Mapping[str, str]]) -> Sample:
        known = {key: value for key, value in item.items() if key in Sample.__dataclass_fields__}
        plain: dict[str, Any] = {key: _plain(value) for key, value in known.items()}
        reads = {key: reads_uri(plain.get(key) or "", self.bucket) for key in ("r1", "r2")}
        return Sample(name=item["sample"]["S"], **{**plain, **reads})


def is_pattern(text: str) -> bool:
    """Whether a filter stands for any number of names."""
    return any(character in text for character in "*?[")


def name_problem(name: str) -> str | None:
    """Say why a text is no sample's name, or return None."""
    if SAMPLE_NAME.fullmatch(name):
        return None
    return (
        f"{name!r} is no name: it has up to 63 letters, digits, '.', '_' and '-', and begins with "
        "a letter or a digit"
    )


def reads_uri(text: str, bucket: str) -> str:
    """Return the address of reads that may be stored as a key of the bucket.

    >>> reads_uri("source/S1_1.fastq.gz", "data")
    's3://data/source/S1_1.fastq.gz'
    """
    return text if not text or "://" in text else f"s3://{bucket}/{text.lstrip('/')}"


def now() -> str:
    """Return the time as the table holds it: UTC, in seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _failure(reason: str) -> dict[str, Any]:
    return {"status": Status.FAILED, "reason": reason[:_REASON_LENGTH], "finished_at": now()}


def _unchanged(read: Sample, attributes: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Return the condition that attributes are as they were read, and its values."""
    present = {name: getattr(read, name) for name in attributes}
    conditions = [
        f"attribute_not_exists(#{name})" if value is None else f"#{name} = :read_{name}"
        for name, value in present.items()
    ]
    values = {f"read_{name}": value for name, value in present.items() if value is not None}
    return " AND ".join(conditions), values


def _stored(value: Any) -> dict[str, str]:
    return {"N": str(int(value))} if isinstance(value, int) else {"S": str(value)}


def _plain(value: Mapping[str, str]) -> Any:
    ((kind, text),) = value.items()
    return int(text) if kind == "N" else text
