"""The mapping jobs' environment: tools of this machine or of Debian, started by scripts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts import debian_packages, setup_env, setup_genomics
from scripts.debian_packages import DebianError

# As apt of Debian 12 prints it.
SIMULATED = """\
Reading package lists...
The following NEW packages will be installed:
  bwa libhts3 samtools
Inst libhts3 (1.16+ds-3 Debian:12.11/oldstable [amd64])
Inst samtools (1.16.1-1 Debian:12.11/oldstable [amd64])
Conf samtools (1.16.1-1 Debian:12.11/oldstable [amd64])
"""
URIS = """\
'http://deb.debian.org/debian/pool/main/h/htslib/libhts3_1.16_amd64.deb' libhts3_1.16_amd64.deb 3 x
'http://deb.debian.org/debian/pool/main/b/b/bwa_1%3a7_amd64.deb' bwa_1%3a7_amd64.deb 212428 SHA256:2
"""


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "genomics env"
    (folder / "bin").mkdir(parents=True)
    monkeypatch.setattr(setup_genomics, "ENV", folder)
    return folder


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an apt-get and a dpkg-deb on PATH that do what a test says."""
    for name in ("apt-get", "dpkg-deb"):
        path = program(tmp_path / "apt" / name, "")
        path.write_text(f"#!/bin/sh\n{script}\n")
    status = tmp_path / "status"
    status.touch()
    monkeypatch.setattr(debian_packages, "INSTALLED", status)
    monkeypatch.setenv("PATH", f"{tmp_path / 'apt'}:{os.environ['PATH']}")


def test_the_environment_is_there_with_tools_that_run():
    binaries = setup_genomics.ENV / "bin"

    said = {
        name: subprocess.run([binaries / name], capture_output=True, text=True).stderr
        for name in ("bwa", "samtools")
    }

    assert "Version: 0.7" in said["bwa"]
    assert "Usage:   samtools" in said["samtools"]
    assert all(os.access(binaries / name, os.X_OK) for name in setup_genomics.JOBS)


def test_a_second_run_does_nothing_and_says_nothing(env, monkeypatch, capsys):
    path = os.environ["PATH"]
    mark = setup_genomics.fingerprint(setup_genomics.find_tools(path))
    (env / ".ready").write_text(mark)
    monkeypatch.setattr(setup_env, "build", lambda *_: pytest.fail("built again"))

    setup_genomics.main()

    assert capsys.readouterr().out == ""


def test_an_interrupted_run_leaves_no_mark(env, monkeypatch):
    (env / ".ready").write_text("of another version")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup_genomics.main()

    assert not (env / ".ready").exists()


def test_a_tool_on_path_is_preferred_but_never_our_own_launcher(env, tmp_path):
    program(env / "bin" / "bwa", "ours")
    place = program(tmp_path / "their bin" / "samtools", "theirs")

    found = setup_genomics.find_tools(f"{env / 'bin'}:{tmp_path / 'their bin'}")

    assert found == {"samtools": f"exec '{place}'"}


def test_a_launcher_becomes_the_tool_in_whatever_folder_with_whatever_arguments(tmp_path):
    path = tmp_path / "a b" / "run"
    path.parent.mkdir()
    setup_genomics.write_launcher(
        path, "LD_LIBRARY_PATH='/x y' exec sh -c 'echo $$ $LD_LIBRARY_PATH $0'"
    )

    with subprocess.Popen([path, "one; two"], stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate()

    assert said == f"{process.pid} /x y one; two\n"


def test_a_job_runs_its_module_with_the_tools_on_its_path_and_not_where_it_stands(env, tmp_path):
    program(env / "bin" / "python", '"$PYTHONPATH" "$@" "${PATH%%:*}"')
    launcher = env / "bin" / "map-sample"
    setup_genomics.write_launcher(launcher, setup_genomics.job_commands()["map-sample"])

    said = subprocess.run([launcher, "s3://b/k"], cwd=tmp_path, capture_output=True, text=True)

    code = setup_genomics.ROOT / "include" / "genomics"
    assert said.stdout == f"{code} -P -m read_mapping.map_sample s3://b/k {env / 'bin'}\n"


def test_what_debian_has_is_unpacked_and_started_with_its_own_libraries(env, monkeypatch):
    def unpacked(archives: list[Path], folder: Path) -> None:
        (folder / "usr" / "lib" / "x86_64-linux-gnu").mkdir(parents=True)

    fetched: list[str] = []
    monkeypatch.setattr(debian_packages, "fetch", lambda names, **_: fetched.extend(names))
    monkeypatch.setattr(debian_packages, "unpack", unpacked)

    folder = env / "debian"
    commands = setup_genomics.fetch_tools({"bwa"}, folder)

    libraries = folder / "usr" / "lib" / "x86_64-linux-gnu"
    assert fetched == ["bwa"]
    assert commands == {"bwa": f"LD_LIBRARY_PATH='{libraries}' exec '{folder}/usr/bin/bwa'"}


def test_without_apt_the_missing_tools_and_the_commands_that_help_are_named(env, monkeypatch):
    monkeypatch.setattr(setup_env, "build", lambda *_: None)
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(SystemExit) as refusal:
        setup_genomics.main()

    assert str(refusal.value).splitlines() == [
        "setup_genomics: not on PATH: bwa, mawk, samtools; and this is no Debian or Ubuntu:"
        " there is no apt to fetch packages with",
        "Any of these puts them there:",
        "  sudo apt install bwa mawk samtools",
        "  conda install --channel bioconda bwa mawk samtools",
    ]


def test_a_tool_that_does_not_run_ends_the_set_up(env):
    for name in ("bwa", "samtools"):
        program(env / "bin" / name, "error while loading shared libraries: libhts.so.3")

    with pytest.raises(SystemExit, match="does not run here: error while loading"):
        setup_genomics.versions(env / "bin")


def test_apt_is_asked_for_what_the_machine_lacks_too(tmp_path, monkeypatch):
    apt(
        tmp_path,
        monkeypatch,
        f"""
        echo "$@" >>{tmp_path}/asked
        case "$*" in *--simulate*) cat <<'E'\n{SIMULATED}E
        ;; *--print-uris*) cat <<'E'\n{URIS}E
        esac""",
    )

    files = debian_packages.fetch(["bwa", "samtools"], with_needs=True, cache=tmp_path / "cache")
    again = debian_packages.fetch(["bwa"], with_needs=False, cache=tmp_path / "cache")

    asked = (tmp_path / "asked").read_text()
    assert [path.name for path in files] == ["libhts3_1.16_amd64.deb", "bwa_1%3a7_amd64.deb"]
    assert files == again
    assert "download bwa libhts3 samtools\n" in asked
    assert asked.count(" update") == 1
    assert f"--option=Dir::State={tmp_path / 'cache'} " in asked


def test_what_apt_complains_of_is_passed_on(tmp_path, monkeypatch):
    apt(tmp_path, monkeypatch, "echo 'E: Unable to locate package bwa' >&2; exit 100")

    with pytest.raises(DebianError, match="Unable to locate package bwa"):
        debian_packages.fetch(["bwa"], with_needs=True, cache=tmp_path / "cache")
