"""Whether Batch tries a job again.

https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localaws.batch.models import Outcome
from localaws.batch.states import RETRY


def is_retried(strategy: Mapping[str, Any], attempts: int, outcome: Outcome) -> bool:
    """Decide after ``attempts`` attempts, the last of which failed."""
    if attempts >= int(strategy.get("attempts") or 1):
        return False
    for rule in strategy.get("evaluateOnExit") or []:
        if _applies(rule, outcome):
            return str(rule["action"]).upper() == RETRY
    # what no rule speaks of is tried again
    return True


def _applies(rule: Mapping[str, str], outcome: Outcome) -> bool:
    exit_code = "" if outcome.exit_code is None else str(outcome.exit_code)
    found = {
        "onStatusReason": outcome.status_reason,
        "onReason": outcome.reason or "",
        "onExitCode": exit_code,
    }
    return all(matches(rule[name], text) for name, text in found.items() if name in rule)


def matches(pattern: str, text: str) -> bool:
    """Match without regard to case; a ``*`` at the end of a pattern stands for any end.

    >>> matches("Host EC2*", "Host EC2 (instance i-0) terminated."), matches("1", "137")
    (True, False)
    """
    pattern, text = pattern.lower(), text.lower()
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern
