"""What is left of a task's items after each submission, and how the next one asks for them."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aws_jobs.verdicts import FailureClass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_jobs.batch_attempts import Attempt

# An interface: tasks that are under way during a deploy have stored it.
STATE_KEY = "batch_progress"

# No other attempt can help.
_STOP = frozenset(
    {FailureClass.IMAGE, FailureClass.INPUT, FailureClass.STUCK, FailureClass.TIMEOUT}
)


@dataclass(frozen=True)
class Escalation:
    """How a job is submitted again that failed for want of something.

    :param memory_factor: a job that ran out of memory is given this many times as much.
    :param memory_cap_mib: but no more than this; None to give it no more.
    :param losses_before_fallback: after how many losses of its host an item goes to the next queue.
    :param most_losses: after how many losses the task's own retries decide.
    :param queues: how many queues there are.
    """

    memory_factor: float = 1.5
    memory_cap_mib: int | None = None
    losses_before_fallback: int = 2
    most_losses: int = 6
    queues: int = 1

    def more_memory(self, memory_mib: int | None) -> int | None:
        """Return what follows an amount of memory, in MiB, or None at the cap."""
        if memory_mib is None or self.memory_cap_mib is None:
            return None
        more = min(self.memory_cap_mib, math.ceil(memory_mib * self.memory_factor))
        return more if more > memory_mib else None


@dataclass(frozen=True)
class Progress:
    """The items of one task instance, by their names, within one epoch.

    :param pending: what is submitted, or next, in the order of the array.
    :param failed: what the task's next try submits.
    :param given_up: what no other attempt can help.
    :param done: what has succeeded, with its job's id.
    :param queue: which of the queues is next.
    :param memory_mib: what is asked for, where it is more than the request says.
    :param queues: every queue in which a job of this task may be.
    :param clear_number: how often the run had been cleared when this was written.
    :param judged: the jobs whose ends are in here.
    :param attempts: the record of each attempt, with the item's name as ``item``.
    """

    epoch: int
    pending: tuple[str, ...]
    failed: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()
    done: Mapping[str, str] = field(default_factory=dict)
    queue: int = 0
    memory_mib: int | None = None
    queues: tuple[str, ...] = ()
    clear_number: int = 0
    judged: tuple[str, ...] = ()
    attempts: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def recall(cls, store: Any) -> Progress | None:
        """Read the task's memory; unknown fields are those of a newer version and are left out."""
        stored = store.get(STATE_KEY)
        if not stored:
            return None
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value := stored[key], list) else value
            for key in cls.__dataclass_fields__
            if key in stored
        }
        return cls(**known)

    def remember(self, store: Any) -> Progress:
        """Write the task's memory, for good: a run may be cleared long after it ended."""
        from airflow.sdk.execution_time.context import NEVER_EXPIRE

        # The store takes JSON's own types only: no tuple.
        store.set(STATE_KEY, json.loads(json.dumps(asdict(self))), retention=NEVER_EXPIRE)
        return self

    @property
    def names(self) -> set[str]:
        """The names of all items."""
        return {*self.pending, *self.failed, *self.given_up, *self.done}

    def next_try(self, clear_number: int = 0) -> Progress:
        """Return what another try of the task submits.

        :param clear_number: a task that is cleared while it runs goes on in the same epoch; what
            was given up is then tried again too.
        """
        pending, given_up = (*self.pending, *self.failed), self.given_up
        if clear_number > self.clear_number:
            pending, given_up = (*pending, *given_up), ()
        return replace(
            self, pending=pending, failed=(), given_up=given_up, clear_number=clear_number
        )

    def after(
        self, job_id: str, ends: Mapping[str, Sequence[Attempt]], escalation: Escalation
    ) -> Progress:
        """Return what follows the end of a job.

        :param ends: the attempts of each pending item.
        """
        records = [
            {"item": item, **attempt.as_dict()} for item in self.pending for attempt in ends[item]
        ]
        progress = replace(
            self,
            pending=(),
            judged=(*self.judged, job_id),
            attempts=(*self.attempts, *records),
        )
        failures = Counter((record["item"], record["failure"]) for record in progress.attempts)
        for item in self.pending:
            progress = progress._with_end(item, ends[item][-1], escalation, failures)
        losses = [failures[item, FailureClass.CAPACITY] for item in progress.pending]
        fallback = max(losses, default=0) // escalation.losses_before_fallback
        return replace(progress, queue=max(self.queue, min(fallback, escalation.queues - 1)))

    def _with_end(
        self,
        item: str,
        last: Attempt,
        escalation: Escalation,
        failures: Counter[tuple[str, str | None]],
    ) -> Progress:
        """Put an item where its last attempt leads.

        :param failures: how often each item failed of what.
        """
        if last.outcome == "succeeded":
            return replace(self, done={**self.done, item: last.job_id})
        failure = last.failure_class
        again = replace(self, pending=(*self.pending, item))
        if failure is FailureClass.MEMORY:
            more = escalation.more_memory(last.memory_mib)
            if more is None:
                return replace(self, given_up=(*self.given_up, item))
            return replace(again, memory_mib=max(more, self.memory_mib or 0))
        most = {FailureClass.CAPACITY: escalation.most_losses, FailureClass.LOST: 2}
        if failures[item, failure] < most.get(failure, 0):
            return again
        if failure in _STOP:
            return replace(self, given_up=(*self.given_up, item))
        return replace(self, failed=(*self.failed, item))
