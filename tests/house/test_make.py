"""The Makefile says what it can do, and what other files say of it is true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def test_help_lists_every_target_with_what_it_does():
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)

    listed = dict(re.findall(r"^  make ([a-z-]+) +(.+)$", said.stdout, re.MULTILINE))

    assert set(listed) == targets()
    assert {"demo", "test", "up", "down", "status", "lint", "bench", "requirements"} <= set(listed)


def test_no_target_is_taken_for_a_file():
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)

    assert phony
    assert set(phony[1].replace("\\", "").split()) == targets()


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "docker-compose.yaml", "airflow.env", ".ci/run"]
)
def test_a_target_that_another_file_names_is_there(name):
    text = (ROOT / name).read_text()

    named = set(re.findall(r"(?:^|`|: |\$ )make (?:[A-Z]+=\S+ )?([a-z][a-z-]*)", text, re.M))

    assert named - targets() == set()


def test_make_test_runs_every_folder_of_tests():
    parts = re.search(r"^PARTS := \$\(addprefix tests/,(.*)\)$", MAKEFILE, re.MULTILINE)

    assert parts
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    whole_airflows = {"e2e", "faults"}
    assert folders == {*parts[1].split(), *whole_airflows}
    for folder in whole_airflows:
        assert re.search(rf"^\t\$\(RUN\) -m pytest .*tests/{folder}", MAKEFILE, re.MULTILINE)


def test_ci_runs_what_the_readme_tells_a_newcomer_to_run():
    script = (ROOT / ".ci" / "run").read_text()

    assert re.search(r"for target in test lint;", script)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
