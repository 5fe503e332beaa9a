"""Debian's packages without root: apt fetches and checks them, dpkg unpacks them, nothing installs.

apt works with the machine's own sources and keys, in folders of ours. It checks each package
against the lists that the distribution has signed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "debian"
# What the machine has installed: apt leaves it out of what a package needs beside itself.
INSTALLED = Path("/var/lib/dpkg/status")
LISTS_LAST_SECONDS = 24 * 3600


class DebianError(RuntimeError):
    """A package cannot be had; the message says why and what to do."""


def fetch(packages: Sequence[str], *, with_needs: bool, cache: Path = CACHE) -> list[Path]:
    """Fetch packages and give their files; what the cache has is not fetched again.

    :param with_needs: fetch as well what they need and the machine lacks, such as libraries.
    :raises DebianError: when this is no Debian or Ubuntu, or apt fails, with what it said.
    """
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing or not INSTALLED.exists():
        raise DebianError("this is no Debian or Ubuntu: there is no apt to fetch packages with")
    archives = cache / "archives"
    for folder in (cache / "lists" / "partial", archives / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    _refresh_lists(cache)
    needs = _needs(packages, cache) if with_needs else []
    names = sorted({*packages, *needs})
    _apt_get(cache, "--quiet", "download", *names, cwd=archives)
    return [archives / name for name in _file_names(names, cache)]


def unpack(archives: Iterable[Path], folder: Path) -> None:
    """Unpack packages into a folder as if it were the root of the machine."""
    for archive in archives:
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder)], check=True)


def library_path(folder: Path) -> str:
    """Give the ``LD_LIBRARY_PATH`` for the programs of an unpacked folder."""
    found = [*folder.glob("usr/lib/*-linux-gnu*"), *folder.glob("lib/*-linux-gnu*")]
    return ":".join(str(each) for each in sorted(found))


def _refresh_lists(cache: Path) -> None:
    """Ask the distribution what it has, unless it was asked within a day."""
    mark = cache / "lists.fresh"
    if mark.exists() and time.time() - mark.stat().st_mtime < LISTS_LAST_SECONDS:
        return
    try:
        _apt_get(cache, "--quiet", "update")
    except DebianError:
        # One of several sources may be out of reach, or all, with old lists at hand.
        if not list((cache / "lists").glob("*_Packages*")):
            raise
        return
    mark.touch()


def _needs(packages: Sequence[str], cache: Path) -> list[str]:
    planned = _apt_get(cache, "install", "--simulate", "--no-install-recommends", *packages)
    return re.findall(r"^Inst (\S+)", planned, re.MULTILINE)


def _file_names(packages: Sequence[str], cache: Path) -> list[str]:
    """Give the names of the files that ``apt-get download`` writes: ``'URI' NAME SIZE HASH``."""
    planned = _apt_get(cache, "download", "--print-uris", *packages)
    return re.findall(r"^'[^']+' (\S+\.deb) \d+", planned, re.MULTILINE)


def _apt_get(cache: Path, *arguments: str, cwd: Path | None = None) -> str:
    options = {
        "Dir::State": cache,
        "Dir::State::Lists": cache / "lists",
        "Dir::State::status": INSTALLED,
        "Dir::Cache": cache,
        # The locks are root's; the user that apt drops its rights to may not enter our folders.
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
    }
    command = ["apt-get", *(f"--option={name}={value}" for name, value in options.items())]
    done = subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-10:])
        raise DebianError(f"apt-get {' '.join(arguments)} failed:\n{said}")
    return done.stdout
