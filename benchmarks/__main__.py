"""Run the benchmarks one after the other and write docs/benchmarks.md.

python -m benchmarks                        all
python -m benchmarks dag_parse backfill     some; of the others the page keeps the last run
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.report import REPORT_FILE, Report

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RECORDS = ROOT / ".cache" / "benchmarks"
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

Made by `make bench`; `make bench NAMES=backfill` runs one of them and keeps the figures of the
others. `python -m benchmarks.NAME`, below each table, only prints.
"""


@dataclass(frozen=True)
class Run:
    """A benchmark that was run to its end.

    :ivar made: the day.
    :ivar busy: percent of the machine's CPU time that others took just before.
    """

    report: Report
    made: str
    seconds: float
    busy: float

    def markdown(self, name: str) -> str:
        """Give its section of the page."""
        took = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        how = f"`python -m benchmarks.{name}`, {self.made}, {took}"
        return f"{self.report.markdown()}\n{how}; CPU in use before: {self.busy:.0f} %\n"

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read what was recorded."""
        said = json.loads(path.read_text())
        return cls(**said | {"report": Report.of(said["report"])})


def run(name: str, quick: bool) -> Run | None:
    """Run a benchmark in a process of its own; None when it fails."""
    print(f"== {name}", flush=True)
    busy = psutil.cpu_percent(interval=5)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-report-") as folder:
        file = Path(folder) / "report.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
        environ = {**os.environ, REPORT_FILE: str(file)}
        code = subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode
        seconds = time.monotonic() - began
        print(f"== {name} {'has failed' if code else 'is done'} after {seconds:.0f} s", flush=True)
        if code:
            return None
        report = Report.of(json.loads(file.read_text()))
    return Run(report, f"{datetime.now(UTC):%Y-%m-%d}", seconds, busy)


def machine() -> str:
    """Describe this machine."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in cpus if line.startswith("model name")}
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({', '.join(models) or platform.machine()}), {memory:.0f} GiB"


def page(runs: dict[str, Run]) -> str:
    """Write the page."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    made = f"{machine()}, {system}, {versions}.\n"
    targets = [target for each in runs.values() for target in each.report.targets]
    missed = [f"- {target.sentence()}" for target in targets if not target.met]
    summary = f"Of {len(targets)} targets {len(targets) - len(missed)} were met"
    summary = "\n".join([f"{summary}; these were not:\n", *missed] if missed else [f"{summary}."])
    sections = [run.markdown(name) for name, run in runs.items()]
    return "\n".join([INTRO, made, f"{summary}\n", *sections])


def main() -> None:
    """Run what is named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="small sizes, printed only")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*NAMES}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    RECORDS.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in arguments.names or NAMES:
        made = run(name, arguments.quick)
        if not made:
            failed.append(name)
        elif not arguments.quick:
            (RECORDS / f"{name}.json").write_text(json.dumps(asdict(made)))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    if arguments.quick:
        return
    if missing := [name for name in NAMES if not (RECORDS / f"{name}.json").exists()]:
        print(f"no page yet: {', '.join(missing)} not run in full")
    else:
        PAGE.write_text(page({name: Run.read(RECORDS / f"{name}.json") for name in NAMES}))
        print(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
