"""End a local stack whose owner is gone.

The owner holds the other end of this process's standard input. However the owner ends, SIGKILL
included, the system closes it, and what the owner has not ended is ended here.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from scripts.stack_record import stop_recorded


def main() -> None:
    """Wait for the end of the owner, then end the stack of the home given as argument."""
    # Only the end of the owner counts, not a signal that was meant for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.buffer.read()
    stop_recorded(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
