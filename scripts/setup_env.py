"""Build a virtual environment from a compiled requirements file, once.

    python3 scripts/setup_env.py .venv requirements-dev.txt
    .venv/bin/python scripts/setup_env.py .venv-spark requirements-spark.txt

Runs on whatever Python the machine has, before anything is installed: standard library only, and
syntax that an old Python can still read, so that it can say that it is too old.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

OLDEST = (3, 11)
TOO_NEW = (3, 14)
ROOT = Path(__file__).resolve().parent.parent
INSTALLER = ROOT / "requirements-uv.txt"


def main() -> None:
    """Build the environment named on the command line unless it is up to date."""
    parser = argparse.ArgumentParser(description="Build a virtual environment, once.")
    parser.add_argument("env", type=Path, help="folder of the environment")
    parser.add_argument("requirements", type=Path, help="compiled requirements, with hashes")
    arguments = parser.parse_args()
    refuse_unfit_python()
    build(arguments.env, arguments.requirements, arguments.env / ".ready")


def build(env: Path, requirements: Path, mark: Path) -> None:
    """Build an environment unless its mark says that it is up to date.

    :param mark: a file in the environment, written when all is installed.
    """
    wanted = fingerprint(requirements)
    if mark.exists() and mark.read_text() == wanted:
        return
    started = time.monotonic()
    count = sum("==" in line for line in requirements.read_text().splitlines())
    made_for = f"{requirements.name} (Python {running_python()})"
    say(f"{env.name}: installing {count} packages of {made_for}")
    make_env(env, mark)
    install(env, requirements)
    mark.write_text(wanted)
    say(f"{env.name}: ready after {time.monotonic() - started:.0f} s")


def refuse_unfit_python() -> None:
    """Exit, naming the command that mends it, when this Python cannot build an environment."""
    version = sys.version_info[:2]
    if not OLDEST <= version < TOO_NEW:
        sys.exit(
            f"Python {running_python()} ({sys.executable}) does not fit: this project needs 3.11,"
            " 3.12 or 3.13.\n"
            "  sudo apt install python3.12 python3.12-venv   # or 3.11, 3.13: what apt has\n"
            "  make PYTHON=python3.12 setup"
        )
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        package = f"python{version[0]}.{version[1]}-venv"
        sys.exit(
            f"{sys.executable} has no {' and no '.join(missing)}: Debian and Ubuntu ship them in a"
            f" package of their own.\n  sudo apt install {package}"
        )


def fingerprint(requirements: Path) -> str:
    """Name what an environment was made of: the Python and the content of the requirements.

    >>> fingerprint(ROOT / "requirements-uv.txt").split()[0].count(".")
    1
    """
    digest = hashlib.sha256(requirements.read_bytes() + INSTALLER.read_bytes()).hexdigest()
    return f"{running_python()} {digest}\n"


def running_python() -> str:
    """Give this Python's version, such as 3.11."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def made_with(mark: Path) -> str:
    """Read from an environment's mark which Python made it."""
    return mark.read_text().split()[0]


def make_env(env: Path, mark: Path) -> None:
    """Make the environment with pip in it; a half-made one, or another Python's, is replaced."""
    if mark.exists() and made_with(mark) == running_python():
        mark.unlink()
        return
    shutil.rmtree(env, ignore_errors=True)
    # The base interpreter: this script may itself run from the environment that it replaces.
    python = getattr(sys, "_base_executable", sys.executable)
    run([python, "-m", "venv", str(env)])


def install(env: Path, requirements: Path) -> None:
    """Make the environment hold exactly the requirements, every file checked by its hash."""
    pip = [str(env / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", "-q", "--require-hashes", "-r", str(INSTALLER)])
    run(
        [str(env / "bin" / "uv"), "pip", "sync", "--require-hashes", str(requirements)],
        environ={**os.environ, **index_of_pip(pip), "VIRTUAL_ENV": str(env.resolve())},
        hide=(" + ", " - ", " ~ "),  # one line for each of some 200 packages says nothing
    )


def index_of_pip(pip: list[str]) -> dict[str, str]:
    """Tell uv of the package index that pip is configured for (a company's mirror), if any."""
    if "UV_DEFAULT_INDEX" in os.environ or "UV_INDEX_URL" in os.environ:
        return {}
    answer = subprocess.run(
        [*pip, "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    index = os.environ.get("PIP_INDEX_URL") or answer.stdout.strip()
    return {"UV_DEFAULT_INDEX": index} if index else {}


def run(
    command: list[str], environ: dict[str, str] | None = None, hide: tuple[str, ...] = ()
) -> None:
    """Run one command of the set-up and pass on what it says, less the lines that start so."""
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if not (hide and line.startswith(hide)):
            say(f"  {line.rstrip()}")
    if process.wait():
        sys.exit(f"set-up failed (exit {process.returncode}): {' '.join(command)}")


def say(line: str) -> None:
    """Print one line of progress at once, also into a pipe."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
