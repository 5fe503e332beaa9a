"""What is done to a task process, and when: the plan that ``inject`` carries out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

ACTIONS = ("KILL", "TERM", "HOST", "HOLD")


@dataclass(frozen=True)
class Strike:
    """Something done, once, to the process of one task at one point of its life.

    :param at: ``before`` or ``after`` and an event: ``state_set:<key>`` (the task state store's
        set), ``call:<Operation>`` (a call of AWS, made or answered). Or an event that has one side
        only: ``start`` (the process begins its task), ``resume`` (it begins one that had been
        deferred), ``defer`` (it is to be deferred, which is not reported yet), ``return`` (its work
        is done, which is not reported yet), ``reported`` (its end or deferral is reported).
    :param action: ``KILL``: SIGKILL to the process. ``TERM``: SIGTERM, and SIGKILL after 5 s, as an
        eviction. ``HOST``: SIGKILL to its supervisor and to itself, as a lost host. ``HOLD``: it
        stands still until it is let go.
    :param nth: the how many-th such event of the process.
    :param try_number: of that try only; None for whichever comes there first.
    """

    at: str
    action: str
    task_id: str
    nth: int = 1
    try_number: int | None = None
    map_index: int = -1


class Plan:
    """The strikes of one run: a folder with a file for each, which the process struck renames.

    :param folder: of this run alone; the processes find it by the run's id.
    """

    def __init__(self, folder: Path, strikes: Iterable[Strike]) -> None:
        self.folder = folder
        self.strikes = list(strikes)
        folder.mkdir(parents=True)
        for number, strike in enumerate(self.strikes):
            assert strike.action in ACTIONS, strike
            (folder / f"{number}.json").write_text(json.dumps(asdict(strike)))

    def struck(self, strike: Strike) -> bool:
        """Whether a process has got there."""
        return self._file(strike, "struck").exists()

    def missed(self) -> list[Strike]:
        """Return the strikes whose point no process has come to."""
        return [strike for strike in self.strikes if not self.struck(strike)]

    def not_held(self) -> list[Strike]:
        """Return the strikes that are to hold a process, and to whose point none has come."""
        return [strike for strike in self.missed() if strike.action == "HOLD"]

    def let_go(self) -> None:
        """Let the processes that stand still, or would later, go on."""
        for strike in self.strikes:
            self._file(strike, "go").touch()

    def _file(self, strike: Strike, suffix: str) -> Path:
        return self.folder / f"{self.strikes.index(strike)}.{suffix}"
