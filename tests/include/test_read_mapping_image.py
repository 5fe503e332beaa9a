"""The mapping jobs' image holds what their tests run with."""

from __future__ import annotations

import re

from tests.include.mapping_cases import PACKAGE, ROOT

DOCKERFILE = (PACKAGE / "Dockerfile").read_text()


def versions(path):
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", path.read_text(), re.MULTILINE))


def test_the_image_has_the_versions_of_the_local_environment_and_no_engine_of_another_licence():
    image = versions(PACKAGE / "requirements.txt")
    local = versions(ROOT / "requirements-genomics.txt")

    assert {"boto3", "multiqc", "numpy", "pyarrow"} <= image.keys()
    assert image.items() <= local.items()
    assert "pycoverm" not in image


def test_each_module_that_the_image_makes_a_command_of_is_one():
    [modules] = re.findall(r"for module in ([a-z_ ]+);", DOCKERFILE)

    assert modules.split() == ["index_reference", "map_sample", "merge_coverage"]
    for module in modules.split():
        code = (PACKAGE / "read_mapping" / f"{module}.py").read_text()
        assert f'sys.exit(main("{module.replace("_", "-")}", run))' in code


def test_versions_are_pinned_and_nobody_is_root_in_the_end():
    packages = re.search(r"no-install-recommends \\\n(.*?)&&", DOCKERFILE, re.DOTALL)

    assert all("=" in line for line in packages[1].split() if line != "\\")
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)[-1] == "10001:10001"
