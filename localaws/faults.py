"""The fault plan: how localaws is told to misbehave.

A fault is a JSON object; the plan is a list of them, set by ``PUT /localaws/faults``:

========= ======================================================================================
service   AWS service (``emr``), or ``*``
operation operation (``DescribeCluster``), or ``*``
kind      ``throttle``: refused, no effect. ``error``: a 5xx, no effect. ``reset``: the connection
          is closed, no effect. ``lost_answer``: the effect is taken, the answer is lost: the
          connection is closed, or a ``status`` that is given is answered. ``delay``: the call
          takes effect ``seconds`` late, and is answered then. ``late_answer``: the effect is taken
          at once, the answer comes ``seconds`` late. ``listing_lag``: what was created in the last
          ``seconds`` does not show in a ``List*`` answer, nor in ``DescribeJobs``
share     share of the calls that it strikes, 0..1 (1.0); drawn from ``seed``
count     strikes at most so many calls (no limit)
skip      lets the first so many calls pass (0)
burst,    ``throttle`` as a token bucket, as AWS does it: ``burst`` calls at once, ``refill`` calls
refill    a second; the rest is refused. ``share`` is not used then
seconds   of ``delay``, ``late_answer`` and ``listing_lag``
status,   of ``error``, and of ``lost_answer`` if given (500, InternalServerError)
code
========= ======================================================================================

Other kinds strike Batch jobs, not calls (``service`` may be left out or ``batch``). ``share``,
``count``, ``skip`` and ``seed`` then count attempts, or jobs for ``stuck`` and ``vanish``:

============= ==================================================================================
job, queue    names that it strikes, patterns with ``*`` (all)
seconds       how long an attempt has run, or since a job was submitted, before it strikes (0)
kind          ``spot_loss``: the instance of a running attempt is reclaimed. ``out_of_memory``: the
              attempt is killed once its processes have ``mebibytes`` (0). ``pull_error``: the
              image cannot be pulled. ``stuck``: the job stays RUNNABLE with the statusReason
              ``reason`` as long as this plan is in force. ``vanish``: DescribeJobs and ListJobs do
              not know the job; it goes on
============= ==================================================================================

Others strike EMR's clusters and steps, each once or not at all:

=============== ================================================================================
cluster, step   names that it strikes, patterns with ``*`` (all)
state           in which it strikes a cluster: STARTING, BOOTSTRAPPING, RUNNING or WAITING (any)
seconds         how long a cluster has been in its state, or a step has run, before it strikes (0)
reason          the message of StateChangeReason (EMR's own words for the code)
kind            ``cluster_failure``: the cluster ends by itself, with ``code``
                (INSTANCE_FAILURE). ``core_loss``: ``nodes`` of its core nodes on spot (all)
                are reclaimed while it runs or waits. Without any core node left EMR ends the
                cluster; with some left its running steps fail and it goes on. ``step_failure``: a
                running step ends as ``becomes``: FAILED, CANCELLED or INTERRUPTED (FAILED).
                ``slow_start``: a cluster is STARTING for ``seconds`` longer
=============== ================================================================================
"""

from __future__ import annotations

import fnmatch
import random
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CALL_KINDS = ("throttle", "error", "lost_answer", "late_answer", "delay", "listing_lag", "reset")
#: Kinds that strike Batch jobs, whoever calls what.
JOB_KINDS = ("spot_loss", "out_of_memory", "pull_error", "stuck", "vanish")
#: Kinds that strike clusters and steps.
CLUSTER_KINDS = ("cluster_failure", "core_loss", "step_failure", "slow_start")
KINDS = CALL_KINDS + JOB_KINDS + CLUSTER_KINDS
#: Kinds that answer in place of the service; the first one that strikes wins.
REFUSALS = ("throttle", "error", "reset")

_NUMBERS: dict[str, tuple[float, float | None]] = {
    "share": (0, 1),
    "count": (0, None),
    "skip": (0, None),
    "seconds": (0, None),
    "status": (400, 599),
    "burst": (0, None),
    "refill": (0, None),
    "seed": (0, None),
    "mebibytes": (0, None),
    "nodes": (1, None),
}
#: What is told of a job, cluster or step that may be struck, each by a pattern.
_PATTERNS = ("job", "queue", "cluster", "state", "step")
_TEXTS = ("service", "operation", "code", "reason", "becomes", *_PATTERNS)
_WHOLE = ("count", "skip", "status", "burst", "seed", "nodes")
#: Values of a field, where only some can be meant.
_CHOICES = {
    # https://docs.aws.amazon.com/emr/latest/APIReference/API_ClusterStatus.html
    ("cluster_failure", "state"): ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"),
    ("core_loss", "state"): ("RUNNING", "WAITING"),
    # https://docs.aws.amazon.com/emr/latest/APIReference/API_ClusterStateChangeReason.html
    ("cluster_failure", "code"): (
        "INTERNAL_ERROR",
        "VALIDATION_ERROR",
        "INSTANCE_FAILURE",
        "INSTANCE_FLEET_TIMEOUT",
        "BOOTSTRAP_FAILURE",
        "USER_REQUEST",
        "STEP_FAILURE",
        "ALL_STEPS_COMPLETED",
    ),
    # https://docs.aws.amazon.com/emr/latest/APIReference/API_StepStatus.html
    ("step_failure", "becomes"): ("FAILED", "CANCELLED", "INTERRUPTED"),
}


class FaultPlanError(ValueError):
    """A fault plan that cannot be meant; the message lists everything that is wrong."""


@dataclass
class Fault:
    """One fault and how far it has got."""

    spec: dict[str, Any]
    seen: int = 0
    struck: int = 0
    tokens: float = 0.0
    refilled_at: float = 0.0
    random: random.Random = field(default_factory=random.Random)
    judged: dict[str, bool] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    """The subjects of strikes that are over at once."""

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Fault:
        """Make a fault of a checked plan entry."""
        return cls(
            spec,
            tokens=float(spec.get("burst") or 0),
            refilled_at=time.monotonic(),
            random=random.Random(spec.get("seed", 0)),  # noqa: S311 - repeatable on purpose
        )

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        return str(self.spec["kind"])

    @property
    def seconds(self) -> float:
        """Length of a delay or of a lag, or the age at which a job or a cluster is struck."""
        return float(self.spec.get("seconds") or 0)

    def is_for(self, service: str, operation: str) -> bool:
        """Say whether a call is this fault's business."""
        if self.kind not in CALL_KINDS:
            return False
        is_listing = operation.startswith("List") or operation == "DescribeJobs"
        if self.kind == "listing_lag" and not is_listing:
            return False
        return self.spec.get("service", "*") in ("*", service) and self.spec.get(
            "operation", "*"
        ) in ("*", operation)

    def fits(self, kind: str, traits: Mapping[str, str]) -> bool:
        """Say whether a job, a cluster or a step is this fault's business."""
        return self.kind == kind and all(
            fnmatch.fnmatchcase(value, self.spec.get(trait) or "*")
            for trait, value in traits.items()
        )

    def strikes_once(self, subject: str) -> bool:
        """Say whether the fault strikes a job, an attempt, a cluster or a step.

        The answer is the same whenever it is asked.
        """
        if subject not in self.judged:
            self.judged[subject] = self.strikes()
        return self.judged[subject]

    def strikes(self) -> bool:
        """Take note of one more call and say whether the fault strikes it."""
        self.seen += 1
        if self.seen <= (self.spec.get("skip") or 0):
            return False
        count = self.spec.get("count")
        if count is not None and self.struck >= count:
            return False
        if not (self._bucket_is_empty() if self._is_bucket else self._is_drawn()):
            return False
        self.struck += 1
        return True

    @property
    def _is_bucket(self) -> bool:
        return self.kind == "throttle" and self.spec.get("burst") is not None

    def _is_drawn(self) -> bool:
        share = self.spec.get("share")
        return self.random.random() < (1.0 if share is None else float(share))

    def _bucket_is_empty(self) -> bool:
        now = time.monotonic()
        refill = float(self.spec.get("refill") or 0)
        burst = float(self.spec["burst"])
        self.tokens = min(burst, self.tokens + (now - self.refilled_at) * refill)
        self.refilled_at = now
        if self.tokens < 1:
            return True
        self.tokens -= 1
        return False


@dataclass(frozen=True)
class Verdict:
    """What the plan has in store for one call."""

    refusal: Fault | None = None
    lost_answer: Fault | None = None
    delay: float = 0.0
    late: float = 0.0
    listing_lag: float = 0.0


class FaultPlan:
    """The faults now in force."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def replace(self, specs: Any) -> None:
        """Put another plan in force.

        Raises:
            FaultPlanError: the plan is not valid; the old one stays in force.
        """
        problems = plan_problems(specs)
        if problems:
            raise FaultPlanError("; ".join(problems))
        faults = [Fault.from_spec(dict(spec)) for spec in specs]
        with self._lock:
            self._faults = faults

    def as_list(self) -> list[dict[str, Any]]:
        """Return the plan, each fault with how many calls it saw and struck."""
        with self._lock:
            return [{**f.spec, "seen": f.seen, "struck": f.struck} for f in self._faults]

    def judge(self, service: str, operation: str) -> Verdict:
        """Decide about one call; every fault that it concerns takes note of it."""
        with self._lock:
            struck = [f for f in self._faults if f.is_for(service, operation) and f.strikes()]
        return Verdict(
            refusal=_first(f for f in struck if f.kind in REFUSALS),
            lost_answer=_first(f for f in struck if f.kind == "lost_answer"),
            delay=sum(f.seconds for f in struck if f.kind == "delay"),
            late=sum(f.seconds for f in struck if f.kind == "late_answer"),
            listing_lag=max((f.seconds for f in struck if f.kind == "listing_lag"), default=0.0),
        )

    def striking(self, kind: str, subject: str, age: float = 0.0, **traits: str) -> Fault | None:
        """Return the fault of a kind that strikes a job, an attempt, a cluster or a step.

        Args:
            kind: one of :data:`JOB_KINDS` or :data:`CLUSTER_KINDS`.
            subject: its id: each is struck once or not at all.
            age: seconds since it began to run, was submitted, or entered its state.
            **traits: what the plan's patterns are held against: ``job`` and ``queue``, or
                ``cluster``, ``state`` and ``step``.
        """
        with self._lock:
            for fault in self._faults:
                concerns = fault.fits(kind, traits) and age >= fault.seconds
                if concerns and fault.strikes_once(subject):
                    return fault
        return None

    def strikes_clusters(self) -> bool:
        """Say whether the plan has something in store for clusters or steps."""
        return any(fault.kind in CLUSTER_KINDS for fault in self._faults)


def plan_problems(specs: Any) -> list[str]:
    """Return all that is wrong with a plan, in words."""
    if not isinstance(specs, list):
        return ["a fault plan is a JSON list"]
    return [problem for place, spec in enumerate(specs) for problem in _problems(place, spec)]


def _problems(place: int, spec: Any) -> Iterable[str]:
    if not isinstance(spec, dict):
        yield f"fault {place} is not a JSON object"
        return
    if spec.get("kind") not in KINDS:
        yield f"fault {place}: kind must be one of {', '.join(KINDS)}, not {spec.get('kind')!r}"
    known = {"kind", *_TEXTS, *_NUMBERS}
    for name in sorted(set(spec) - known):
        yield f"fault {place}: {name} is not known (known: {', '.join(sorted(known))})"
    if spec.get("kind") == "stuck" and not spec.get("reason"):
        yield f"fault {place}: stuck needs the reason that DescribeJobs gives"
    for name in _TEXTS:
        if not isinstance(spec.get(name, ""), str | None):
            yield f"fault {place}: {name} must be a string"
    for (kind, name), choices in _CHOICES.items():
        value = spec.get(name)
        if spec.get("kind") == kind and value is not None and value not in choices:
            yield f"fault {place}: {name} must be one of {', '.join(choices)}, not {value!r}"
    for name, (least, most) in _NUMBERS.items():
        value = spec.get(name)
        if value is None:
            continue
        wanted: Any = int if name in _WHOLE else int | float
        if isinstance(value, bool) or not isinstance(value, wanted):
            yield f"fault {place}: {name} must be a {'whole ' if name in _WHOLE else ''}number"
        elif value < least or (most is not None and value > most):
            yield f"fault {place}: {name} must be at least {least:g}" + (
                f" and at most {most:g}" if most is not None else ""
            )


def _first(faults: Iterable[Fault]) -> Fault | None:
    return next(iter(faults), None)
