"""Set-up names what is missing with the command that mends it, and does nothing twice."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import setup_env

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 14)])
def test_a_python_that_does_not_fit_is_refused_with_what_to_do(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))

    with pytest.raises(SystemExit) as refusal:
        setup_env.refuse_unfit_python()

    assert f"Python {version[0]}.{version[1]}" in str(refusal.value)
    assert "make PYTHON=" in str(refusal.value)


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_a_python_without_ensurepip_is_refused_with_debians_package(monkeypatch, minor):
    monkeypatch.setattr(sys, "version_info", (3, minor, 0, "final", 0))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ensurepip" else found(name)
    )

    with pytest.raises(SystemExit, match=rf"sudo apt install python3\.{minor}-venv"):
        setup_env.refuse_unfit_python()


def test_an_environment_that_is_up_to_date_is_left_alone(tmp_path, monkeypatch, capsys):
    requirements = tmp_path / "some.txt"
    requirements.write_text("a==1\n")
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / ".ready").write_text(setup_env.fingerprint(requirements))
    monkeypatch.setattr(setup_env, "run", lambda *_, **__: pytest.fail("installed again"))
    monkeypatch.setattr(sys, "argv", ["setup_env", str(tmp_path / "env"), str(requirements)])

    setup_env.main()

    assert capsys.readouterr().out == ""


def test_an_environment_of_other_requirements_is_brought_up_to_date(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://pypi.org/simple")
    requirements = tmp_path / "some.txt"
    requirements.write_text("a==1\n")
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / ".ready").write_text(setup_env.fingerprint(requirements))
    requirements.write_text("a==2\n")
    commands: list[list[str]] = []
    monkeypatch.setattr(setup_env, "run", lambda command, *_, **__: commands.append(command))
    monkeypatch.setattr(sys, "argv", ["setup_env", str(tmp_path / "env"), str(requirements)])

    setup_env.main()

    assert [command[-1] for command in commands][-1] == str(requirements)
    assert all("--require-hashes" in command for command in commands)
    assert (tmp_path / "env" / ".ready").read_text() == setup_env.fingerprint(requirements)


def test_an_environment_that_was_interrupted_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://pypi.org/simple")
    requirements = tmp_path / "some.txt"
    requirements.write_text("a==1\n")
    env = tmp_path / "env"
    env.mkdir()
    (env / "half").touch()
    commands: list[list[str]] = []

    def made(command: list[str], *_: object, **__: object) -> None:
        commands.append(command)
        env.mkdir(exist_ok=True)

    monkeypatch.setattr(setup_env, "run", made)
    monkeypatch.setattr(sys, "argv", ["setup_env", str(env), str(requirements)])

    setup_env.main()

    assert commands[0][1:] == ["-m", "venv", str(env)]
    assert not (env / "half").exists()


def test_a_failed_command_ends_the_set_up_with_its_name():
    with pytest.raises(SystemExit, match=r"set-up failed \(exit 3\): bash -c exit 3"):
        setup_env.run(["bash", "-c", "exit 3"])


def test_an_index_that_pip_is_told_of_is_uvs_too(monkeypatch):
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")

    assert setup_env.index_of_pip([sys.executable, "-m", "pip"]) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple"
    }


def test_the_script_is_readable_to_an_old_python():
    import ast

    source = (ROOT / "scripts" / "setup_env.py").read_text()

    assert ast.parse(source, feature_version=(3, 7))


def test_make_refuses_a_python_that_is_not_there_with_what_to_do():
    said = subprocess.run(
        ["make", "PYTHON=python3.99", "setup"], cwd=ROOT, capture_output=True, text=True
    )

    assert said.returncode != 0
    assert "sudo apt install python3 python3-venv" in said.stderr
