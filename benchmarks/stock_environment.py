"""Where the stock operators find aiobotocore, without which they cannot be deferred."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-stock"


def stock_environment() -> dict[str, str]:
    """Give what lays `.venv-stock` over the environment of an Airflow process.

    Both columns run so, on the same botocore.

    :raises SystemExit: where it was not made.
    """
    if not (FOLDER / ".ready").exists():
        raise SystemExit("the stock operators' environment is not there:  make setup-stock")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = FOLDER / "lib" / version / "site-packages"
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))
    }
