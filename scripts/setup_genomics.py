"""Build the mapping jobs' environment on this machine, once: .venv-genomics.

    python -m scripts.setup_genomics

localaws puts its ``bin/`` before PATH for each Batch job, as the image of include/genomics does it
in AWS: python with the packages of requirements-genomics.txt, the tools, and the jobs' commands.
A tool that is on PATH is used; else Debian's package is fetched and unpacked here, without root.
Its libraries are for its own processes only, so each tool is started by a script that names them.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from scripts import debian_packages, setup_env

ROOT = Path(__file__).resolve().parent.parent
ENV = ROOT / ".venv-genomics"
REQUIREMENTS = ROOT / "requirements-genomics.txt"
# Each has its name in Debian too.
TOOLS = ("bwa", "samtools", "mawk")
JOBS = {
    "map-sample": "read_mapping.map_sample",
    "merge-coverage": "read_mapping.merge_coverage",
    "index-reference": "read_mapping.index_reference",
}


def main() -> None:
    """Build what is missing; a second run finds all in place and does nothing."""
    on_path = find_tools(os.environ.get("PATH", ""))
    wanted = fingerprint(on_path)
    mark = ENV / ".ready"
    if mark.exists() and mark.read_text() == wanted:
        return
    started = time.monotonic()
    mark.unlink(missing_ok=True)
    setup_env.build(ENV, REQUIREMENTS, ENV / ".packages")
    try:
        tools = {**on_path, **fetch_tools(set(TOOLS) - set(on_path), ENV / "debian")}
    except debian_packages.DebianError as error:
        sys.exit(complaint(set(TOOLS) - set(on_path), error))
    for name, command in {**tools, **job_commands()}.items():
        write_launcher(ENV / "bin" / name, command)
    setup_env.say(f"{ENV.name}: {', '.join(versions(ENV / 'bin'))}")
    mark.write_text(wanted)
    setup_env.say(f"{ENV.name}: complete after {time.monotonic() - started:.0f} s")


def find_tools(path: str) -> dict[str, str]:
    """Find the tools that PATH has, beside the launchers of an earlier run."""
    others = [folder for folder in path.split(os.pathsep) if Path(folder) != ENV / "bin"]
    found = {name: shutil.which(name, path=os.pathsep.join(others)) for name in TOOLS}
    return {name: f"exec {shlex.quote(place)}" for name, place in found.items() if place}


def fingerprint(on_path: Mapping[str, str]) -> str:
    """Name what the environment is made of: Python, packages, place, tools of PATH, this code."""
    code = b"".join(Path(path).read_bytes() for path in (__file__, debian_packages.__file__))
    rest = hashlib.sha256(code + f"{ENV} {sorted(on_path.items())}".encode()).hexdigest()
    return setup_env.fingerprint(REQUIREMENTS) + rest + "\n"


def fetch_tools(names: set[str], folder: Path) -> dict[str, str]:
    """Unpack Debian's packages of tools and give the shell commands that start them.

    :raises DebianError: when they cannot be had.
    """
    if not names:
        return {}
    packages = sorted(names)
    setup_env.say(f"{ENV.name}: fetching {', '.join(packages)} from Debian, without installing")
    shutil.rmtree(folder, ignore_errors=True)
    archives = debian_packages.fetch(packages, with_needs=True)
    debian_packages.unpack(archives, folder)
    libraries = shlex.quote(debian_packages.library_path(folder))
    return {
        name: f"LD_LIBRARY_PATH={libraries} exec {shlex.quote(str(folder / 'usr' / 'bin' / name))}"
        for name in names
    }


def job_commands() -> dict[str, str]:
    """Give the shell commands that start the jobs of include/genomics, the tools on their PATH."""
    binaries, code = ENV / "bin", ROOT / "include" / "genomics"
    # -P: the folder that a job stands in is not importable.
    start = f"PATH={shlex.quote(str(binaries))}:$PATH PYTHONPATH={shlex.quote(str(code))} exec"
    return {
        name: f"{start} {shlex.quote(str(binaries / 'python'))} -P -m {module}"
        for name, module in JOBS.items()
    }


def write_launcher(path: Path, command: str) -> None:
    """Write a script that becomes the command: the same process, so a signal reaches it."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(f'#!/bin/sh\n{command} "$@"\n')
    draft.chmod(0o755)
    draft.replace(path)


def versions(binaries: Path) -> list[str]:
    """Start bwa and samtools, which shows that their libraries are there, and give the versions."""
    bwa = _said([str(binaries / "bwa")])
    samtools = _said([str(binaries / "samtools"), "--version"])
    return [f"bwa {_after('Version: ', bwa)}", _after("", samtools)]


def _said(command: list[str]) -> str:
    # samtools prints the compiler's flags in whatever coding the packager had.
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout + done.stderr


def _after(start: str, text: str) -> str:
    """Give the rest of the first line that begins so.

    :raises SystemExit: when there is none: the tool did not run.
    """
    for line in text.splitlines():
        if line.startswith(start):
            return line.removeprefix(start)
    sys.exit(f"setup_genomics: a tool does not run here: {text.strip() or 'it said nothing'}")


def complaint(missing: set[str], reason: Exception) -> str:
    """Say which tools are missing and which commands help."""
    packages = " ".join(sorted(missing))
    return (
        f"setup_genomics: not on PATH: {', '.join(sorted(missing))}; and {reason}\n"
        "Any of these puts them there:\n"
        f"  sudo apt install {packages}\n"
        f"  conda install --channel bioconda {packages}"
    )


if __name__ == "__main__":
    main()
