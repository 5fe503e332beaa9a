"""Versions of the tools that are called."""

from __future__ import annotations

import re
import subprocess

from read_mapping.exceptions import MappingError


def versions() -> dict[str, str]:
    """Give the versions of bwa and samtools, on which the BAM depends.

    >>> versions()
    {'bwa': '0.7.17-r1188', 'samtools': '1.16.1'}
    """
    # bwa has no option for it: called with nothing, it explains itself on stderr and ends with 1.
    return {
        "bwa": _search(r"^Version: (\S+)", ["bwa"]),
        "samtools": _search(r"^samtools (\S+)", ["samtools", "--version"]),
    }


def _search(pattern: str, command: list[str]) -> str:
    try:
        said = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise MappingError(f"{command[0]} cannot be started: {error.strerror}") from error
    text = (said.stdout + said.stderr).decode(errors="replace")
    match = re.search(pattern, text, re.MULTILINE)
    if not match:
        raise MappingError(f"{' '.join(command)} tells no version")
    return match[1]
