"""What FailureDetails says of a failed step: the reason, the line that tells, and the log's place.

https://docs.aws.amazon.com/emr/latest/APIReference/API_FailureDetails.html
"""

from __future__ import annotations

import re
from pathlib import Path

#: Reasons that EMR knows by a step's output; anything else is an unknown error.
KNOWN_REASONS = (
    (
        re.compile(r"FileAlreadyExistsException|path .* already exists"),
        "Output directory already exists.",
    ),
    (re.compile(r"ClassNotFoundException"), "Main Class not found."),
)
UNKNOWN_REASON = "Unknown Error."
MAX_MESSAGE = 1000
_TAIL = 64 * 1024

_JAVA = re.compile(r"^(Exception in thread .*|Caused by: .*|[\w.$]+(?:Exception|Error): .*)$", re.M)
_PYTHON = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)+(\S.*)$", re.M)


def failure_details(stdout: Path, stderr: Path, log_prefix: str | None) -> dict[str, str]:
    """Describe why a step failed.

    A driver's Python traceback stands in stdout (Spark in client mode joins both streams of the
    driver there), an executor's in stderr: both are searched.
    """
    texts = {"stderr": _tail(stderr), "stdout": _tail(stdout)}
    place, message = _telling_line(texts)
    details = {"Reason": _reason(message), "Message": message[:MAX_MESSAGE]}
    if log_prefix:
        details["LogFile"] = f"{log_prefix}/{place}.gz"
    return {key: value for key, value in details.items() if value}


def _telling_line(texts: dict[str, str]) -> tuple[str, str]:
    for pattern in (_PYTHON, _JAVA):
        for place, text in texts.items():
            found = pattern.findall(text)
            if found:
                return place, found[-1].strip()
    last = [line for line in texts["stderr"].splitlines() if line.strip()][-1:]
    return "stderr", last[0].strip() if last else ""


def _reason(message: str) -> str:
    for pattern, reason in KNOWN_REASONS:
        if pattern.search(message):
            return reason
    return UNKNOWN_REASON


def _tail(path: Path) -> str:
    data = path.read_bytes()[-_TAIL:] if path.exists() else b""
    return data.decode("utf-8", "replace")
