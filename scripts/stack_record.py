"""What is written down about a local stack, for whoever has to end it or start it again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from scripts.component import Identity, end_all
from scripts.postgres import stop_postgres

LOCALAWS = "localaws"
_AIRFLOW_PATIENCE = 8.0  # seconds; a running task's on_kill gets 5 of them
_LOCALAWS_PATIENCE = 30.0  # seconds; it writes down its state, 100 MB on a busy machine


@dataclass
class Record:
    """What is written down about a stack, for whoever has to end it."""

    airflow_url: str = ""
    localaws_url: str = ""
    components: dict[str, Identity] = field(default_factory=dict)
    embedded_postgres: bool = True
    schema_of: str = ""

    @classmethod
    def read(cls, home: Path) -> Record | None:
        """Read the record of a home; None when nothing was ever started there."""
        path = home / "stack.json"
        if not path.exists():
            return None
        content = json.loads(path.read_text())
        identities = {name: Identity(**each) for name, each in content.pop("components").items()}
        return cls(components=identities, **content)

    def write(self, home: Path) -> None:
        """Write it down; a reader sees the old one or the new one."""
        path = home / "stack.json"
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n")
        unfinished.replace(path)

    def living(self) -> list[str]:
        """Name the components that run."""
        return [name for name, identity in self.components.items() if identity.is_alive()]


def stop_recorded(home: Path) -> bool:
    """End what is written down in a home: first Airflow, then what it works with.

    :returns: whether anything was running.
    """
    record = Record.read(home)
    if record is None:
        return False
    living = record.living()
    of_airflow = [each for name, each in record.components.items() if name != LOCALAWS]
    end_all(of_airflow, _AIRFLOW_PATIENCE)
    end_all(
        [each for name, each in record.components.items() if name == LOCALAWS], _LOCALAWS_PATIENCE
    )
    if record.embedded_postgres:
        stop_postgres(home / "postgres")
    record.components = {}
    record.write(home)
    return bool(living)


def why_data_are_lost(data: Path) -> str | None:
    """Tell why what localaws kept is not what Airflow's history refers to; None if it is.

    :param data: the folder of localaws, whose ``snapshot.json`` says whether it stopped in order.
    """
    path = data / "snapshot.json"
    if not path.exists():
        return "localaws has never stopped in order and kept nothing"
    said = json.loads(path.read_text())
    if not said["clean"]:
        return (
            "localaws did not stop in order the last time, and what it kept is older than its end"
        )
    if said["moto"] != version("moto"):
        return f"what localaws kept is of moto {said['moto']}, and this is moto {version('moto')}"
    return None
