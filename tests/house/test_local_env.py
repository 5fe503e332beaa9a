"""The local stack's environment: nothing of the person's account, secrets for them only."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from airflow.configuration import conf

from scripts.local_env import Places, Secrets, keep_secrets, local_environment, own_environment

ROOT = Path(__file__).parents[2]


def places(tmp_path: Path, **changes: object) -> Places:
    given = {
        "root": ROOT,
        "home": tmp_path,
        "dags_folders": [ROOT / "dags"],
        "database_url": "postgresql+psycopg2://postgres:@/postgres?host=/tmp/x",
        "airflow_port": 18080,
        "scheduler_health_port": 18974,
        "localaws_port": 14570,
    }
    return Places(**{**given, **changes})  # type: ignore[arg-type]


def test_a_persons_own_account_is_out_of_reach():
    outer = {
        "PATH": "/bin",
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL_EMR": "https://real",
        "AWS_SESSION_TOKEN": "real",
        "AIRFLOW__CORE__FERNET_KEY": "theirs",
        "AIRFLOW_CONN_AWS_DEFAULT": "theirs",
        "AWS_CA_BUNDLE": "/etc/ca.pem",
    }

    inner = own_environment(outer)

    assert {name: inner[name] for name in inner if name.lower() != "no_proxy"} == {
        "PATH": "/bin",
        "AWS_CA_BUNDLE": "/etc/ca.pem",
    }


def test_a_proxy_is_not_asked_for_this_machine():
    inner = own_environment({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "intern.example"})

    assert inner["NO_PROXY"] == inner["no_proxy"] == "intern.example,127.0.0.1,localhost"


def test_processes_get_airflow_env_the_places_and_the_secrets(tmp_path):
    kept = keep_secrets(tmp_path)

    environ = local_environment(places(tmp_path), kept, {"PATH": "/bin"})

    assert environ["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert environ["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:18080"
    assert environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:14570"
    assert environ["AIRFLOW__API_AUTH__JWT_SECRET"] == kept.jwt_secret
    unknown = [
        name
        for name in environ
        if name.startswith("AIRFLOW__")
        # the package's own section
        and not name.startswith("AIRFLOW__AWS_JOBS__")
        and name.lower().split("__", 2)[2]
        not in conf.configuration_description[name.lower().split("__", 2)[1]]["options"]
    ]
    assert unknown == []


def test_each_dags_folder_is_a_bundle_of_its_own_name(tmp_path):
    folders = [ROOT / "dags", tmp_path / "dags", tmp_path / "more"]

    environ = local_environment(
        places(tmp_path, dags_folders=folders), Secrets.generate(), {"PATH": "/bin"}
    )

    bundles = json.loads(environ["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert [bundle["kwargs"]["path"] for bundle in bundles] == [str(each) for each in folders]
    assert len({bundle["name"] for bundle in bundles}) == 3


def test_secrets_are_generated_once_and_only_their_owner_reads_them(tmp_path):
    first = keep_secrets(tmp_path / "home")

    again = keep_secrets(tmp_path / "home")

    assert again == first
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "home").iterdir()}
    assert modes == {"secrets.json": 0o600, "passwords.json": 0o600}
    login = json.loads((tmp_path / "home" / "passwords.json").read_text())
    assert login == {"admin": first.admin_password}


def test_no_two_deployments_share_a_secret():
    first, second = vars(Secrets.generate()), vars(Secrets.generate())

    assert [name for name in first if first[name] == second[name]] == []
    assert len(first["jwt_secret"]) >= 64
