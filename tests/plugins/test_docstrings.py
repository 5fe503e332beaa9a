"""What the docstrings show is what happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import aws_jobs


def test_the_examples_in_docstrings_hold() -> None:
    names = [module.name for module in pkgutil.walk_packages(aws_jobs.__path__, "aws_jobs.")]
    results = [doctest.testmod(importlib.import_module(name)) for name in names]

    assert sum(result.attempted for result in results) >= 4
    assert [result for result in results if result.failed] == []
