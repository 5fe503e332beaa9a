"""Who may import what: the table in CONTRIBUTING.md, held."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"aws_jobs", "benchmarks", "dags", "include", "localaws", "plugins", "scripts", "tests"}
# What the code of include/ finds where AWS runs it: EMR's image, and ours of the mapping jobs.
SHIPS_WITH = {
    "spark": {"boto3", "botocore", "pyspark"},
    "genomics": {"boto3", "botocore", "numpy", "pyarrow", "pycoverm", "read_mapping"},
}
# Half a CPU second at every parse of a DAG file and at every start of a task.
SLOW = ("boto3", "botocore", "s3transfer", "airflow.providers.amazon")


@dataclass(frozen=True)
class Import:
    """One import statement: of what, in which line, and whether it runs when the module does."""

    module: str
    line: int
    at_import: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def imports_of(source: str) -> list[Import]:
    return list(_walk(ast.parse(source), at_import=True))


def _walk(node: ast.AST, *, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(name.name, child.lineno, at_import) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield Import("." * child.level + (child.module or ""), child.lineno, at_import)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _walk(child, at_import=False)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for part in child.body:
                yield from _walk(ast.Module([part], []), at_import=False)
            yield from _walk(ast.Module(child.orelse, []), at_import=at_import)
        else:
            yield from _walk(child, at_import=at_import)


def offences(folder: str, allowed: object) -> list[str]:
    """List the imports of a folder's files that ``allowed`` refuses."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"no Python file in {folder}: the test would hold nothing"
    return [
        f"{path.relative_to(ROOT)}:{each.line} imports {each.module}"
        for path in files
        for each in imports_of(path.read_text())
        if not allowed(each)  # type: ignore[operator]
    ]


def is_standard(each: Import) -> bool:
    return each.top in sys.stdlib_module_names


def test_dags_import_only_airflow_and_aws_jobs():
    def allowed(each: Import) -> bool:
        return is_standard(each) or each.top in ("airflow", "aws_jobs")

    assert offences("dags", allowed) == []


def test_plugins_import_nothing_else_of_ours():
    def allowed(each: Import) -> bool:
        return each.top == "aws_jobs" or each.top not in OURS

    assert offences("plugins", allowed) == []


def test_plugins_import_what_is_slow_inside_functions_only():
    def allowed(each: Import) -> bool:
        slow = any(each.module == name or each.module.startswith(f"{name}.") for name in SLOW)
        return not (slow and each.at_import)

    assert offences("plugins/aws_jobs", allowed) == []


@pytest.mark.parametrize(("folder", "packages"), SHIPS_WITH.items())
def test_what_aws_runs_needs_nothing_of_ours_and_nothing_that_it_lacks_there(folder, packages):
    def allowed(each: Import) -> bool:
        return is_standard(each) or each.top in packages

    assert offences(f"include/{folder}", allowed) == []


def test_each_folder_that_aws_runs_code_of_has_its_packages_named():
    folders = {path.relative_to(ROOT / "include").parts[0] for path in ROOT.glob("include/**/*.py")}

    assert folders == set(SHIPS_WITH)


def test_localaws_imports_nothing_else_of_ours_and_no_airflow():
    def allowed(each: Import) -> bool:
        return each.top == "localaws" or each.top not in OURS | {"airflow"}

    assert offences("localaws", allowed) == []


def test_no_relative_imports_since_airflow_loads_files_under_made_up_names():
    folders = ["dags", "plugins", "include", "localaws", "scripts", "tests"]

    found = [each for folder in folders for each in offences(folder, lambda each: each.top)]

    assert found == []


@pytest.mark.parametrize(
    ("source", "module", "at_import"),
    [
        ("import boto3", "boto3", True),
        ("from airflow.providers.amazon.aws import x", "airflow.providers.amazon.aws", True),
        ("def f():\n    import boto3", "boto3", False),
        ("class A:\n    import boto3", "boto3", True),
        ("class A:\n    async def f(self):\n        import boto3", "boto3", False),
        ("if TYPE_CHECKING:\n    import boto3", "boto3", False),
        ("if typing.TYPE_CHECKING:\n    from boto3 import x", "boto3", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import boto3", "boto3", True),
        ("try:\n    import boto3\nexcept ImportError:\n    pass", "boto3", True),
        ("from . import x", ".", True),
    ],
)
def test_an_import_is_found_with_the_moment_at_which_it_runs(source, module, at_import):
    assert [(each.module, each.at_import) for each in imports_of(source)] == [(module, at_import)]
