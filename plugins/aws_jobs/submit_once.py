"""The one way an external job is started: whatever dies, one submission has one external job.

Airflow's ``ResumableJobMixin`` reconnects a retried task to the job that it remembers. Three gaps
are closed here: a task that died between the submission and its memory looks the job up by its run
key before it submits; a cleared task starts anew, and first ends what it left; and it works for
tasks that defer. Method names and metrics are the mixin's.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from aws_jobs.aws_errors import (
    call_patiently,
    is_outcome_unknown,
    is_passing,
    is_without_effect,
)
from aws_jobs.exceptions import TaskKilled, UnknownOutcomeError
from aws_jobs.identity import RunKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow.sdk import Context

log = logging.getLogger(__name__)

# An interface: tasks that are under way during a deploy have stored it.
STATE_KEY = "external_job"

# How far AWS's clock and a worker's may be apart.
_CLOCK_MARGIN = timedelta(minutes=5)


class ExternalJob(Protocol):
    """What ``submit_once`` has to know about a kind of external job.

    A job may be several that are submitted by one call, so its external ids are a sequence.
    """

    @property
    def scope(self) -> str:
        """Where the job lives: the cluster of a step. A job of another scope is another job."""

    def submit_job(self, run_key: RunKey) -> list[str]:
        """Make the mutating call, once, and return the external ids."""

    def find_job(self, run_key: RunKey, since: datetime) -> list[str] | None:
        """Look for a job with this run key among what was created since then."""

    def get_job_status(self, external_ids: Sequence[str]) -> str | None:
        """Return AWS's state, or None where AWS does not know the ids."""

    def is_job_active(self, status: str) -> bool:
        """Whether the job goes on and nobody has ended it."""

    def is_job_succeeded(self, status: str) -> bool:
        """Whether the job has done its work."""

    def end_job(self, external_ids: Sequence[str]) -> None:
        """End the job; a job that has ended already is no error."""

    def at(self, scope: str) -> ExternalJob:
        """Return the same kind of job in another scope, to find or end what was left there."""


@dataclass(frozen=True)
class Submission:
    """What a task remembers of its external job in the task state store."""

    epoch: int
    generation: int
    max_tries: int
    clear_number: int
    claimed_at: str
    scope: str
    digest: str
    external_ids: list[str] | None = None
    finished: bool = False
    born: str = ""

    @classmethod
    def recall(cls, store: Any) -> Submission | None:
        """Read the task's memory; unknown fields are those of a newer version and are left out."""
        stored = store.get(STATE_KEY)
        if not stored:
            return None
        return cls(**{key: stored[key] for key in cls.__dataclass_fields__ if key in stored})

    def remember(self, store: Any) -> Submission:
        """Write the task's memory, for good: a run may be cleared long after it ended."""
        from airflow.sdk.execution_time.context import NEVER_EXPIRE

        store.set(STATE_KEY, asdict(self), retention=NEVER_EXPIRE)
        return self


class Interruption:
    """Turns ``on_kill`` into TaskKilled, but not between a call and the memory of its result.

    Nor in the middle of what a task says to its supervisor: an answer that nobody has read would be
    taken for that to the next question.
    """

    def __init__(self) -> None:
        self._held = 0
        self._pending = False

    def kill(self) -> None:
        """Stop the task now, or as soon as what must not be torn apart is over."""
        if self._held:
            self._pending = True
            return
        raise TaskKilled("The task was killed")

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Keep a call and the memory of its result together."""
        self._held += 1
        try:
            yield
        except Exception as error:
            self._held -= 1
            self._heed(error)
            raise
        except BaseException:
            self._held -= 1
            raise
        self._held -= 1
        self._heed()

    def _heed(self, error: Exception | None = None) -> None:
        if self._pending and not self._held:
            self._pending = False
            raise TaskKilled("The task was killed") from error


class HeldStore:
    """The task state store, with each question asked and answered before a kill is heeded."""

    def __init__(self, store: Any, interruption: Interruption) -> None:
        self._store = store
        self._interruption = interruption

    def get(self, key: str) -> Any:
        """Read a value."""
        with self._interruption.held_back():
            return self._store.get(key)

    def set(self, key: str, value: Any, *, retention: Any) -> None:
        """Write a value."""
        with self._interruption.held_back():
            self._store.set(key, value, retention=retention)


@dataclass(frozen=True)
class Patience:
    """How long ``submit_once`` tries, in seconds."""

    lookup_grace: float = 30.0
    """A job of unknown outcome is looked for this long, because listings lag."""
    submit_budget: float = 900.0
    """A throttled submission is repeated this long."""
    read_budget: float = 300.0
    """A status call that is throttled is repeated this long."""


def submit_once(
    context: Context,
    job: ExternalJob,
    *,
    deployment_id: str,
    interruption: Interruption,
    patience: Patience,
) -> Submission:
    """Submit the job, or reconnect to the one that this task instance submitted before.

    :raises UnknownOutcomeError: where no look-up could be made after a submission of unknown
        outcome; the next try looks again.
    :raises botocore.exceptions.ClientError: where AWS refuses the submission.
    """
    store = HeldStore(context["task_state_store"], interruption)
    before = Submission.recall(store)
    epoch = _epoch(before, context)
    born = before.born if before else f"{time.time():.0f}"
    run_key = _run_key(context, deployment_id, epoch, born)

    if before is not None and before.epoch != epoch:
        _end_left_over(before, replace(run_key, epoch=before.epoch), job, patience)
        before = None
    if before is not None:
        _count("reconnect_attempt", job)
        run_key = replace(run_key, generation=before.generation)
        if before.scope != job.scope:
            log.info("What this task remembers belongs to %s, not to %s", before.scope, job.scope)
            _end_left_over(before, run_key, job, patience)
        else:
            before = _find_unremembered(before, run_key, job, patience, store)
            if before.external_ids is not None and _goes_on(before, job, patience):
                return before
        if before.external_ids is not None:
            run_key = run_key.next_generation()
    _count("fresh_submit", job)

    claim = _claim(context, run_key, job.scope).remember(store)
    return _submit(job, run_key, claim, store, interruption, patience)


def remembered_ids(context: Context, interruption: Interruption) -> list[str]:
    """Return the ids of the external job that this task instance has started."""
    submission = Submission.recall(HeldStore(context["task_state_store"], interruption))
    return list((submission and submission.external_ids) or [])


def current_epoch(context: Context, interruption: Interruption) -> int:
    """Return the epoch that a submission of this task instance would have now."""
    return _epoch(Submission.recall(HeldStore(context["task_state_store"], interruption)), context)


def finish(context: Context, interruption: Interruption) -> None:
    """Note that the job has done its work, so that only a clear starts another."""
    store = HeldStore(context["task_state_store"], interruption)
    if (submission := Submission.recall(store)) is not None:
        _, clear_number = _clear_marks(context)
        replace(submission, finished=True, clear_number=clear_number).remember(store)


def _epoch(before: Submission | None, context: Context) -> int:
    """Tell a retry from a clear.

    A clear of this task sets ``max_tries`` anew, except where it was running; then it has been
    ended by ``on_kill``, or had finished. ``clear_number`` grows with the clear of any task.
    """
    if before is None:
        return 0
    max_tries, clear_number = _clear_marks(context)
    cleared = max_tries != before.max_tries or (
        before.finished and clear_number > before.clear_number
    )
    return before.epoch + cleared


def _clear_marks(context: Context) -> tuple[int, int]:
    clear_number = getattr(context["dag_run"], "clear_number", 0) or 0
    return context["ti"].max_tries or 0, clear_number


def _run_key(context: Context, deployment_id: str, epoch: int, born: str) -> RunKey:
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return RunKey(deployment_id, ti.dag_id, ti.run_id, ti.task_id, map_index, epoch, born=born)


def _claim(context: Context, run_key: RunKey, scope: str) -> Submission:
    max_tries, clear_number = _clear_marks(context)
    return Submission(
        epoch=run_key.epoch,
        generation=run_key.generation,
        max_tries=max_tries,
        clear_number=clear_number,
        claimed_at=datetime.now(UTC).isoformat(),
        scope=scope,
        digest=run_key.digest,
        born=run_key.born,
    )


def _end_left_over(left: Submission, run_key: RunKey, job: ExternalJob, patience: Patience) -> None:
    """End what was left before a clear: the trigger's ``on_kill`` may come late, or never."""
    old_job = job.at(left.scope)
    external_ids = left.external_ids
    if external_ids is None:
        run_key = replace(run_key, generation=left.generation)
        external_ids = _look_up(old_job, run_key, left, patience)
    if external_ids:
        log.info("Ending %s, which an earlier try left", ", ".join(external_ids))
        call_patiently(lambda: old_job.end_job(external_ids), budget=patience.submit_budget)


def _find_unremembered(
    before: Submission, run_key: RunKey, job: ExternalJob, patience: Patience, store: Any
) -> Submission:
    """Complete the memory of a try that died while it submitted, where its job is found."""
    if before.external_ids is not None:
        return before
    log.info("The try before died while it submitted %s: looking for it", run_key.digest)
    found = _look_up(job, run_key, before, patience)
    if found is None:
        log.info("Nothing with run key %s was found: submitting", run_key.digest)
        return before
    return replace(before, external_ids=found).remember(store)


def _goes_on(before: Submission, job: ExternalJob, patience: Patience) -> bool:
    """Whether the job of the try before runs, or has done its work."""
    external_ids = before.external_ids or []
    names = ", ".join(external_ids)
    status = _known_status(job, external_ids, patience)
    if status is not None and job.is_job_active(status):
        _count("reconnect_success", job)
        log.info("Reconnecting to %s, which is %s", names, status)
        return True
    if status is not None and job.is_job_succeeded(status):
        _count("already_succeeded", job)
        log.info("%s has succeeded already", names)
        return True
    _count("terminal_resubmit", job)
    log.warning("%s is %s: submitting again", names, status or "unknown to AWS")
    return False


def _known_status(job: ExternalJob, external_ids: Sequence[str], patience: Patience) -> str | None:
    """Ask for the status; an id that AWS does not know yet is asked for until the grace is over."""
    give_up = time.monotonic() + patience.lookup_grace
    while True:
        status = call_patiently(
            lambda: job.get_job_status(external_ids), budget=patience.read_budget
        )
        if status is not None or time.monotonic() >= give_up:
            return status
        time.sleep(_pause(patience))


def _submit(
    job: ExternalJob,
    run_key: RunKey,
    claim: Submission,
    store: Any,
    interruption: Interruption,
    patience: Patience,
) -> Submission:
    """Submit until it took effect: refused calls are repeated, unknown outcomes looked up."""

    def attempt() -> Submission:
        with interruption.held_back():
            return replace(claim, external_ids=job.submit_job(run_key)).remember(store)

    give_up = time.monotonic() + patience.submit_budget
    while True:
        budget = max(0.0, give_up - time.monotonic())
        try:
            return call_patiently(attempt, budget=budget, repeat=is_without_effect)
        except Exception as error:
            if not is_outcome_unknown(error):
                raise
            log.warning("No good answer to the submission of %s: %s", run_key.digest, error)
            found = _look_up(job, run_key, claim, patience)
            if found is not None:
                return replace(claim, external_ids=found).remember(store)
            if time.monotonic() >= give_up:
                raise


def _look_up(
    job: ExternalJob, run_key: RunKey, claim: Submission, patience: Patience
) -> list[str] | None:
    """Look for the job until it shows, or a look succeeded after the grace was over.

    :raises UnknownOutcomeError: where no look succeeded within the budget for reads.
    """
    since = datetime.fromisoformat(claim.claimed_at) - _CLOCK_MARGIN
    grace_over = time.monotonic() + patience.lookup_grace
    give_up = grace_over + patience.read_budget
    while True:
        asked_at = time.monotonic()
        try:
            found = job.find_job(run_key, since)
        except Exception as error:
            if not is_passing(error):
                raise
            if asked_at >= give_up:
                raise UnknownOutcomeError(
                    f"Whether the submission with run key {run_key.digest} took effect could not "
                    f"be found out for {patience.lookup_grace + patience.read_budget:.0f} s, the "
                    f"last error being: {error}. The next try looks again before it submits; "
                    "where the task has none left, clear it once AWS answers."
                ) from error
        else:
            if found is not None:
                log.info("Found %s by run key %s", ", ".join(found), run_key.digest)
                return found
            if asked_at >= grace_over:
                return None
        time.sleep(_pause(patience))


def _pause(patience: Patience) -> float:
    """Seconds between two looks: ListClusters and ListSteps refill at one in two seconds."""
    return min(5.0, max(0.2, patience.lookup_grace / 6))


def _count(event: str, job: ExternalJob) -> None:
    from airflow.sdk.observability import stats

    stats.incr(f"resumable_job.{event}", tags={"operator": type(job).__name__})
