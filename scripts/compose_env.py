"""Write .env for docker compose: generated secrets, readable by their owner only."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from scripts.local_env import ADMIN, Secrets, write_private

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write the file unless there is one: another password would not open the old database."""
    path = ROOT / ".env"
    if path.exists():
        sys.exit(f"{path} is there already; remove it, and the volumes, to start anew")
    write_private(path, compose_env(Secrets.generate(), secrets.token_urlsafe(24)))
    print(f"{path} written. Log in as {ADMIN}; the password is AIRFLOW_ADMIN_PASSWORD in it.")


def compose_env(made: Secrets, postgres_password: str) -> str:
    """Give the file's text; no value has a character that compose expands or that ends a URL."""
    values = {
        "AIRFLOW_ADMIN_PASSWORD": made.admin_password,
        "AIRFLOW_JWT_SECRET": made.jwt_secret,
        "AIRFLOW_API_SECRET_KEY": made.api_secret_key,
        "AIRFLOW_FERNET_KEY": made.fernet_key,
        "POSTGRES_PASSWORD": postgres_password,
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


if __name__ == "__main__":
    main()
