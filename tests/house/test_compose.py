"""docker-compose.yaml and Dockerfile, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.compose_env import compose_env
from scripts.local_env import Secrets, read_env_file
from scripts.stack import _AIRFLOW, POOLS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OF_AIRFLOW = ["api-server", "scheduler", "dag-processor", "triggerer"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def written_env(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / ".env"
    path.write_text(compose_env(Secrets.generate(), "not-a-default"))
    return read_env_file(path)


def test_the_services_are_what_make_up_starts():
    assert set(SERVICES) == {*OF_AIRFLOW, "init", "postgres", "localaws"}
    assert {name: SERVICES[name]["command"] for name in OF_AIRFLOW} == _AIRFLOW


@pytest.mark.parametrize("name", [*OF_AIRFLOW, "init"])
def test_airflows_settings_come_from_the_one_file(name):
    assert SERVICES[name]["env_file"] == "airflow.env"


def test_ports_are_published_on_loopback_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert len(ports) == 2
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_as_an_ordinary_user_without_capabilities(name):
    service = SERVICES[name]

    assert str(service["user"]).partition(":")[0] not in ("", "0", "root")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"init"}))
def test_a_service_that_goes_on_says_whether_it_is_healthy(name):
    test = SERVICES[name]["healthcheck"]["test"]

    assert test[0] == "CMD"
    if test[1] == "python":
        compile(test[3], name, "exec")


def test_nobody_starts_before_the_schema_is_there_and_localaws_answers():
    for name in OF_AIRFLOW:
        assert SERVICES[name]["depends_on"] == {
            "init": {"condition": "service_completed_successfully"},
            "localaws": {"condition": "service_healthy"},
        }
    assert SERVICES["init"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_the_pools_are_those_of_make_up():
    *_, last = SERVICES["init"]["command"][0].strip().splitlines()

    assert last == f"exec python -P -m airflow pools import {POOLS}"
    assert f"COPY {POOLS} ./" in DOCKERFILE
    for pool in json.loads((ROOT / POOLS).read_text()).values():
        # Without both, the import leaves a pool out.
        assert pool["slots"] > 0
        assert pool["description"]


def test_a_missing_secret_is_refused_with_what_to_do_and_the_helper_writes_them_all(tmp_path):
    required = set(re.findall(r"\$\{([A-Z_]+):\?missing, run: make compose-env\}", TEXT))
    optional = set(re.findall(r"\$\{([A-Z_]+):-", TEXT))

    assert required == set(written_env(tmp_path))
    assert optional == {"AIRFLOW_PORT", "LOCALAWS_PORT"}
    assert TEXT.count("${") == len(re.findall(r"\$\{[A-Z_]+:[?-]", TEXT))


def test_generated_secrets_differ_each_time_and_are_safe_in_a_url(tmp_path):
    first, second = written_env(tmp_path), written_env(tmp_path)

    secret = {name for name in first if name != "POSTGRES_PASSWORD"}
    assert all(first[name] != second[name] for name in secret)
    assert all(re.fullmatch(r"[A-Za-z0-9_=-]{12,}", value) for value in first.values())


def test_who_runs_other_peoples_code_cannot_sign_as_anybody():
    holders = {
        name
        for name, service in SERVICES.items()
        if "AIRFLOW__API_AUTH__JWT_SECRET" in service.get("environment", {})
    }

    assert holders == {"api-server", "scheduler"}


def test_images_are_pinned():
    images = [service["image"] for service in SERVICES.values() if "build" not in service]

    assert images
    assert [image for image in images if not re.search(r":\d+\.\d+", image)] == []
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.12-", DOCKERFILE, re.MULTILINE)


def test_both_images_end_as_the_user_that_compose_names():
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[2:]

    assert [stage.split()[2] for stage in stages] == ["airflow", "localaws"]
    assert [re.findall(r"^USER (\S+)", stage, re.MULTILINE) for stage in stages] == [
        ["50000:0"],
        ["50000:0"],
    ]
    assert {SERVICES[name]["user"] for name in [*OF_AIRFLOW, "init", "localaws"]} == {"50000:0"}


def test_the_builder_is_sent_what_it_copies_and_no_secret():
    sent = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = {
        source
        for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }

    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    assert {each for each in copied if not each.startswith("requirements")} <= set(sent)
    assert all((ROOT / each).exists() for each in copied)
    assert ".env" not in sent


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")

    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)

    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="no docker-compose on this machine")
def test_docker_compose_itself_takes_the_file_with_secrets_and_refuses_it_without(tmp_path):
    for name in ("docker-compose.yaml", "airflow.env"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["docker-compose", "config", "--quiet"]
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    without = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    environ.update(written_env(tmp_path))
    complete = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)

    assert without.returncode != 0
    assert "make compose-env" in without.stderr
    assert (complete.returncode, complete.stderr) == (0, "")
