"""A command's run: what it says, what it uses, and how it ends."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial

from read_mapping import termination
from read_mapping.exceptions import MappingError, Terminated
from read_mapping.resources import Stages

# As sysexits.h has it.
USAGE = 64


class Job:
    """One run of a command, which speaks on stderr."""

    def __init__(self, command: str) -> None:
        self._command = command
        self.subject = ""
        self.stages = Stages()

    def say(self, what: str) -> None:
        """Print a line, which names the sample as soon as it is known."""
        words = [self._command, *([self.subject] if self.subject else []), what]
        print(": ".join(words), file=sys.stderr, flush=True)

    def run(self, work: Callable[[Job], str]) -> int:
        """Do the work; return the exit code. The last line says why it failed, in one sentence."""
        signal.signal(signal.SIGTERM, termination.handle)
        code = 0
        try:
            with self.stages:
                end = work(self)
        except (MappingError, Terminated) as error:
            end, code = str(error), error.exit_code
        except Exception as error:
            traceback.print_exc()
            end, code = f"{type(error).__name__}: {error}", MappingError.exit_code
        print(f"{self._command}: peak memory {self.stages.peak_rss_mib} MiB", file=sys.stderr)
        self.say(" ".join(end.split()))
        return code


def main(command: str, work: Callable[[str, Job], str]) -> int:
    """Run a command on the URI that its command line gives; return the exit code."""
    match sys.argv[1:]:
        case [uri]:
            return Job(command).run(partial(work, uri))
    print(f"usage: {command} s3://bucket/key", file=sys.stderr)
    return USAGE
