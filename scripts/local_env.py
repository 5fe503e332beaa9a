"""Airflow's environment on this machine: airflow.env, what depends on the place, and the secrets.

The processes of the local stack see none of the person's own ``AWS_*`` and ``AIRFLOW_*`` names, so
that an exported profile or endpoint can never turn a local run against a real account.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ADMIN = "admin"
JWT_SECRET = "AIRFLOW__API_AUTH__JWT_SECRET"  # noqa: S105 - the name of a setting
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FOREIGN = ("AWS_", "AIRFLOW_")
# A bundle of certificates is the machine's, not an account's.
_KEPT = frozenset({"AWS_CA_BUNDLE"})


class EnvFileError(ValueError):
    """A line of an env file that its readers would not all understand in the same way."""


def read_env_file(path: Path) -> dict[str, str]:
    """Read ``NAME=value`` lines as docker's env_file has them.

    Quotes around a value, ``$`` and a `` #`` in it mean different things to docker, to compose and
    to a shell, so they are refused.

    :raises EnvFileError: naming the file, the line and what is wrong with it.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if problem := _problem(name, equals, value, values):
            raise EnvFileError(f"{path}:{number}: {problem}")
        values[name] = value
    return values


def _problem(name: str, equals: str, value: str, seen: Mapping[str, str]) -> str | None:
    if not equals or not _NAME.fullmatch(name):
        return "not NAME=value"
    if name in seen:
        return f"{name} is set twice"
    if value != value.strip() or value[:1] in ("'", '"') or "$" in value or " #" in value:
        return f"{name}: no quotes around the value, no $, no ' #' and no blanks at its ends"
    return None


@dataclass(frozen=True)
class Secrets:
    """What a deployment of Airflow keeps to itself; generated, never a default."""

    admin_password: str
    jwt_secret: str
    api_secret_key: str
    fernet_key: str

    @classmethod
    def generate(cls) -> Secrets:
        """Make new ones from the system's source of randomness."""
        return cls(
            admin_password=secrets.token_urlsafe(12),
            jwt_secret=secrets.token_urlsafe(64),  # HS512 wants 64 bytes
            api_secret_key=secrets.token_urlsafe(32),
            fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        )

    def settings(self) -> dict[str, str]:
        """Give the Airflow settings that hold them."""
        return {
            JWT_SECRET: self.jwt_secret,
            "AIRFLOW__API__SECRET_KEY": self.api_secret_key,
            "AIRFLOW__CORE__FERNET_KEY": self.fernet_key,
        }


def keep_secrets(folder: Path) -> Secrets:
    """Read the secrets kept in ``folder``, generating them at the first time.

    They lie in ``secrets.json``, and the login beside it in the form that Airflow's simple auth
    manager reads (``passwords.json``), both for their owner only.
    """
    path = folder / "secrets.json"
    if path.exists():
        return Secrets(**json.loads(path.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    made = Secrets.generate()
    write_private(passwords_file(folder), json.dumps({ADMIN: made.admin_password}) + "\n")
    write_private(path, json.dumps(vars(made), indent=2) + "\n")
    return made


def passwords_file(folder: Path) -> Path:
    """Where the simple auth manager finds the login."""
    return folder / "passwords.json"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first moment on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


@dataclass(frozen=True)
class Places:
    """What differs from one local stack to another."""

    root: Path
    home: Path
    dags_folders: Sequence[Path]
    database_url: str
    airflow_port: int
    scheduler_health_port: int
    localaws_port: int

    @property
    def airflow_url(self) -> str:
        """Address of the UI and the REST API."""
        return f"http://127.0.0.1:{self.airflow_port}"

    @property
    def localaws_url(self) -> str:
        """Address of AWS on this machine."""
        return f"http://127.0.0.1:{self.localaws_port}"


def local_environment(places: Places, kept: Secrets, outer: Mapping[str, str]) -> dict[str, str]:
    """Build the whole environment of the local stack's processes.

    ``outer`` is the environment of who starts them: PATH, HOME and the like come from it.
    """
    return {
        **own_environment(outer),
        **read_env_file(places.root / "airflow.env"),
        **_of_the_place(places),
        **kept.settings(),
    }


def own_environment(outer: Mapping[str, str]) -> dict[str, str]:
    """Leave out what could lead to a real account, and keep loopback out of any proxy."""
    kept = {
        name: value
        for name, value in outer.items()
        if not name.startswith(_FOREIGN) or name in _KEPT
    }
    loopback = ",".join(filter(None, [outer.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    return {**kept, "NO_PROXY": loopback, "no_proxy": loopback}


def _of_the_place(places: Places) -> dict[str, str]:
    bundles = [
        {
            "name": folder.name if number == 0 else f"{folder.name}-{number}",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(folder)},
        }
        for number, folder in enumerate(places.dags_folders)
    ]
    return {
        "AIRFLOW_HOME": str(places.home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(places.dags_folders[0]),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(places.root / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords_file(places.home)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{places.airflow_url}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": places.database_url,
        "AIRFLOW__API__PORT": str(places.airflow_port),
        "AIRFLOW__API__BASE_URL": places.airflow_url,
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(places.scheduler_health_port),
        "AWS_ENDPOINT_URL": places.localaws_url,
    }
