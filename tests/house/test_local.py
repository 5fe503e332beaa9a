"""What `make` says when there is nothing to work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.local import MODULES, run_module, status


@pytest.mark.parametrize("module", MODULES.values())
def test_a_command_line_needs_a_stack(tmp_path: Path, module: str) -> None:
    with pytest.raises(SystemExit, match="make up starts it"):
        run_module(tmp_path, module, ["--help"])


def test_a_stack_that_is_down_is_not_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not status(tmp_path)
    assert "make up starts it" in capsys.readouterr().out
