"""Settings name all their problems at once."""

from __future__ import annotations

import json
import os

import pytest

from aws_jobs.exceptions import SettingsError
from aws_jobs.settings import load_settings, parse_settings

LOCAL = json.loads(os.environ["AIRFLOW_VAR_AWS_JOBS"])


def test_the_local_ones_fit_localaws() -> None:
    assert load_settings().bucket == "localaws-data"


def test_there_is_no_default_deployment() -> None:
    with pytest.raises(SettingsError, match="deployment_id"):
        parse_settings({name: value for name, value in LOCAL.items() if name != "deployment_id"})


def test_all_problems_come_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings({**LOCAL, "bucket": "No Bucket", "region": "Mars", "colour": "red"})

    assert len(refused.value.problems) == 3


@pytest.mark.parametrize("raw", [None, "text", []])
def test_a_missing_variable_says_where_it_comes_from(raw: object) -> None:
    with pytest.raises(SettingsError, match="include/infra"):
        parse_settings(raw)
