"""airflow.env: real options, each with its reason, nothing secret, understood alike by all."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from airflow.configuration import conf

from aws_jobs.settings import parse_settings, require_genomics
from scripts.local_env import EnvFileError, read_env_file

ROOT = Path(__file__).parents[2]
ENV_FILE = ROOT / "airflow.env"


# Read by the package itself.
OWN_SECTION = "AIRFLOW__AWS_JOBS__"


def options() -> list[str]:
    names = [name for name in read_env_file(ENV_FILE) if name.startswith("AIRFLOW__")]
    return [name for name in names if not name.startswith(OWN_SECTION)]


def is_option(name: str) -> bool:
    """Tell whether Airflow has the option that an ``AIRFLOW__SECTION__KEY`` sets."""
    _, section, key = name.lower().split("__", 2)
    return key in conf.configuration_description.get(section, {}).get("options", {})


@pytest.mark.parametrize("name", options())
def test_airflow_knows_the_option(name):
    assert is_option(name)


def test_an_option_that_airflow_does_not_know_is_noticed():
    assert not is_option("AIRFLOW__CORE__PARALELISM")
    assert not is_option("AIRFLOW__WORKER__MIN_HEARTBEAT_INTERVAL")


@pytest.mark.parametrize("name", read_env_file(ENV_FILE))
def test_each_value_has_its_reason_in_the_line_above(name):
    lines = ENV_FILE.read_text().splitlines()

    (above,) = [before for before, line in pairwise(lines) if line.startswith(f"{name}=")]

    assert re.fullmatch(r"# (?!---).*[a-z].*[.:]", above)


def test_nothing_secret_is_in_it():
    secret = re.compile(r"JWT|FERNET|PASSWORD|SECRET_KEY|SQL_ALCHEMY_CONN")

    assert [name for name in options() if secret.search(name)] == []


def test_credentials_in_it_are_localaws_own():
    values = read_env_file(ENV_FILE)

    assert values["AWS_ACCESS_KEY_ID"] == values["AWS_SECRET_ACCESS_KEY"] == "localaws"
    assert values["AWS_CONFIG_FILE"] == values["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"


def test_the_projects_settings_are_an_object_for_the_local_deployment():
    settings = json.loads(read_env_file(ENV_FILE)["AIRFLOW_VAR_AWS_JOBS"])

    assert settings["deployment_id"] == "local"
    assert settings["bucket"] == "localaws-data"


def test_the_genomics_part_is_valid_and_names_what_localaws_is_seeded_with():
    settings = parse_settings(json.loads(read_env_file(ENV_FILE)["AIRFLOW_VAR_AWS_JOBS"]))
    genomics = require_genomics(settings)

    queues = [queue for names in genomics.queues.values() for queue in names]
    names = [*queues, *genomics.job_definitions.values(), genomics.merge_job_definition]
    assert genomics.samples_table == "local-reads"
    assert [name for name in names if not name.startswith(f"{settings.deployment_id}-")] == []
    assert genomics.merge_queue in queues


def test_each_pool_that_an_operator_asks_for_is_made_at_start():
    pools = json.loads((ROOT / "airflow-pools.json").read_text())
    code = [*ROOT.glob("dags/*.py"), *ROOT.glob("plugins/**/*.py")]

    named = {name for path in code for name in re.findall(r'pool="(\w+)"', path.read_text())}

    assert named == set(pools)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A", "not NAME=value"),
        ("export A=1", "not NAME=value"),
        ("A=1\nA=2", "A is set twice"),
        ("A='1'", "no quotes"),
        ('A="1"', "no quotes"),
        ("A=$HOME", r"no \$"),
        ("A=1 # one", "no ' #'"),
        ("A= 1", "no blanks"),
    ],
)
def test_a_line_that_readers_understand_differently_is_refused_with_its_number(
    tmp_path, text, said
):
    path = tmp_path / "some.env"
    path.write_text(f"# fine\n{text}\n")

    with pytest.raises(EnvFileError, match=said) as refusal:
        read_env_file(path)

    assert f"{path}:{1 + len(text.splitlines())}:" in str(refusal.value)


def test_comments_and_blank_lines_are_skipped_and_the_value_is_taken_whole(tmp_path):
    path = tmp_path / "some.env"
    path.write_text('# why\n\nA={"x":"y=z"}\nB=\n')

    assert read_env_file(path) == {"A": '{"x":"y=z"}', "B": ""}
