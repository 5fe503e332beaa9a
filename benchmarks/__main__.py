"""Run the benchmarks one after the other and write docs/benchmarks.md.

python -m benchmarks                        all
python -m benchmarks dag_parse backfill     some, printed only
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.report import REPORT_FILE, Report

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
NAMES = (
    "waiting_jobs",
    "waiting_steps",
    "mapped_samples",
    "dag_parse",
    "backfill",
    "mapping_pipeline",
)
PACKAGES = ("apache-airflow-core", "apache-airflow-providers-amazon", "moto")

INTRO = """\
# Benchmarks

What the project costs beside what one would take instead: the operators of
apache-airflow-providers-amazon at their best documented settings, deferred, with the same poll
interval. Both against the same AWS on this machine ([localaws](localaws.md)), in one run, side by
side or by turns. Read the ratios: the absolute figures are this machine's.

Made by `make bench`; one of them alone: `python -m benchmarks.NAME`, after `make setup-stock`,
which makes the environment that the deferred stock operators need.
"""


def run(name: str, quick: bool) -> tuple[Report, float]:
    """Run a benchmark in a process of its own and return what it told, and its seconds.

    :raises SystemExit: when it fails.
    """
    print(f"== {name}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-report-") as folder:
        file = Path(folder) / "report.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
        environ = {**os.environ, REPORT_FILE: str(file)}
        if subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode:
            raise SystemExit(f"{name} failed")
        seconds = time.monotonic() - began
        print(f"== {name} took {seconds:.0f} s", flush=True)
        return Report.read(file), seconds


def machine() -> str:
    """Describe this machine."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in cpus if line.startswith("model name")}
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({', '.join(models) or platform.machine()}), {memory:.0f} GiB"


def page(told: dict[str, tuple[Report, float]], load: float) -> str:
    """Write the page."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    made = f"""\
{datetime.now(UTC):%Y-%m-%d}, {machine()}, {platform.system()} {platform.release()}, Python
{platform.python_version()}, {versions}. The machine's load when it began: {load:.1f}.
"""
    targets = [target for report, _ in told.values() for target in report.targets]
    missed = [f"- {target.sentence()}" for target in targets if not target.met]
    summary = f"Of {len(targets)} targets {len(targets) - len(missed)} were met"
    summary = "\n".join([f"{summary}; these were not:\n", *missed] if missed else [f"{summary}."])
    sections = [
        f"{report.markdown()}\n`python -m benchmarks.{name}`, {seconds / 60:.0f} min\n"
        for name, (report, seconds) in told.items()
    ]
    return "\n".join([INTRO, made, f"{summary}\n", *sections])


def main() -> None:
    """Run what is named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="small sizes, printed only")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*NAMES}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    load = os.getloadavg()[0]
    told = {name: run(name, arguments.quick) for name in arguments.names or NAMES}
    if not arguments.names and not arguments.quick:
        PAGE.write_text(page(told, load))
        print(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
