"""Tags tell whose an external job is, or nothing."""

from __future__ import annotations

import pytest

from aws_jobs.identity import TAG_ATTEMPT, TAG_DAG, TAG_RUN, RunKey, tag_value, untagged

RUN = "scheduled__2013-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("run_id", "value"),
    [
        (RUN, RUN),
        ("manual__a~b", "manual__a=7Eb"),
        ("a=b", "a=3Db"),
        ("a=7Eb", "a=3D7Eb"),
        ("naïve 日本", "naïve 日本"),
        ("tab\there", "tab=09here"),
        ("(😀)", "=28=F0=9F=98=80=29"),
        ("r" * 256, "r" * 256),
    ],
)
def test_a_text_comes_back_from_its_tag(run_id: str, value: str) -> None:
    assert tag_value(run_id) == value
    assert untagged(value) == run_id


@pytest.mark.parametrize("run_id", ["r" * 257, "~" * 100, "a" + "~" * 85 + "é" * 2])
def test_a_text_too_long_for_a_tag_does_not_come_back_as_another(run_id: str) -> None:
    value = tag_value(run_id)

    assert len(value) == 256
    with pytest.raises(ValueError, match="was cut"):
        untagged(value)


@pytest.mark.parametrize("value", ["a=", "a=7", "a=7e", "a=ZZ", "a=41", "a~b", "=FF"])
def test_what_was_not_written_as_a_tag_is_not_read_as_one(value: str) -> None:
    with pytest.raises(ValueError, match=r"was cut|decode"):
        untagged(value)


@pytest.mark.parametrize(
    "run_key",
    [
        RunKey("prod", "etl", RUN, "create", -1),
        RunKey("prod", "etl", "manual__a~b", "group.map", 12, epoch=3, generation=4, born="1e9"),
    ],
)
def test_a_run_key_comes_back_from_its_tags(run_key: RunKey) -> None:
    assert RunKey.from_tags(run_key.tags) == run_key


@pytest.mark.parametrize(
    "changed",
    [
        {TAG_RUN: "manual__b"},
        {TAG_DAG: "another"},
        {TAG_ATTEMPT: "0001.0000"},
        {TAG_ATTEMPT: "first"},
        # As a version of this project wrote it that replaced what tags do not take.
        {TAG_RUN: "manual__a_b"},
    ],
)
def test_tags_that_somebody_changed_are_nobody_s(changed: dict[str, str]) -> None:
    tags = {**RunKey("prod", "etl", "manual__a~b", "create", -1).tags, **changed}

    assert RunKey.from_tags(tags) is None


@pytest.mark.parametrize("missing", RunKey("prod", "etl", RUN, "create", -1).tags)
def test_tags_that_are_not_whole_are_nobody_s(missing: str) -> None:
    tags = RunKey("prod", "etl", RUN, "create", -1).tags
    del tags[missing]

    assert RunKey.from_tags(tags) is None
