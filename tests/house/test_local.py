"""What `make` says when there is nothing to work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.local import airflow, status


def test_airflows_command_line_needs_a_stack(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make up starts it"):
        airflow(tmp_path, ["dags", "list"])


def test_a_stack_that_is_down_is_not_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not status(tmp_path)
    assert "make up starts it" in capsys.readouterr().out
