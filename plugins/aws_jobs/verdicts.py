"""What the end of an external job means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureClass(StrEnum):
    """Why an external job failed, by what is to be done about it."""

    CAPACITY = "capacity"
    MEMORY = "memory"
    BOOTSTRAP = "bootstrap"
    IMAGE = "image"
    INPUT = "input"
    TIMEOUT = "timeout"
    STUCK = "stuck"
    LOST = "lost"
    CANCELLED = "cancelled"
    CLUSTER_LOST = "cluster lost"
    REFUSED = "refused"
    APPLICATION = "application"


# What the person on call should do, by class.
NEXT_STEPS = {
    FailureClass.CAPACITY: "EC2 had no capacity, or took it back: run again, or allow other "
    "instance types or zones.",
    FailureClass.MEMORY: "Memory ran out: give it more, then run again.",
    FailureClass.BOOTSTRAP: "A bootstrap action failed: mend its script; a retry makes a new "
    "cluster.",
    FailureClass.IMAGE: "The image cannot be run: mend its name, its permissions or its "
    "architecture; no retry can help.",
    FailureClass.INPUT: "The input cannot be used: mend what the log names; no retry can help.",
    FailureClass.STUCK: "AWS will not place it as it is: ask for less, or let the compute "
    "environment have larger instances.",
    FailureClass.TIMEOUT: "The time budget of the task is used up: see why it took so long, or "
    "raise the budget.",
    FailureClass.LOST: "AWS does not know it any more: look at what it wrote before it runs again.",
    FailureClass.CANCELLED: "Somebody cancelled it: clear the task to run it again.",
    FailureClass.CLUSTER_LOST: "The cluster is gone: clear this task, and a new cluster, this step "
    "and what follows run again.",
    FailureClass.REFUSED: "AWS refused the request: mend what the message names.",
    FailureClass.APPLICATION: "The application failed: see its log; a retry runs it again.",
}


@dataclass(frozen=True)
class Verdict:
    """How an external job failed.

    :param job: what and which, as ``step s-1 of cluster j-1``.
    :param state: AWS's state.
    :param reason: AWS's own words, as one line.
    :param log_uri: where its log is, or why there is none.
    :param cause: the lines of the log that matter first.
    :param tail: the last lines of the log.
    """

    job: str
    state: str
    failure: FailureClass
    reason: str = ""
    log_uri: str = ""
    cause: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line: what failed, how and why, and what to do next."""
        why = f": {self.reason.rstrip('.')}" if self.reason else ""
        first = f" Cause: {self.cause[-1].strip().rstrip('.')}." if self.cause else ""
        return (
            f"{self.job} ended {self.state} ({self.failure}){why}.{first} "
            f"{NEXT_STEPS[self.failure]}"
        )

    @property
    def report(self) -> str:
        """The task log's account: the cause, the end of the log, and where the rest of it is."""
        lines = [f"{self.job} ended {self.state} ({self.failure})"]
        if self.reason:
            lines.append(f"reason: {self.reason}")
        if self.cause:
            lines += ["probable cause:", *(f"    {line}" for line in self.cause)]
        if self.tail:
            lines += ["end of its log:", *(f"    {line}" for line in self.tail)]
        if self.log_uri:
            lines.append(f"log: {self.log_uri}")
        lines.append(f"next: {NEXT_STEPS[self.failure]}")
        return "\n".join(lines)
