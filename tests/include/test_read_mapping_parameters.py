"""What a mapping may be asked for: each refusal with its reason, all of them at once."""

from __future__ import annotations

import pytest

from tests.include.mapping_cases import load

exceptions, item, objects, parameters = (
    load(name) for name in ("exceptions", "item", "objects", "parameters")
)


class NoStore:
    """A job that is given its item itself asks for nothing."""


def parsed(**given):
    found, problems = parameters.parse_parameters(given)
    assert problems == []
    return found


def refused(**given):
    found, problems = parameters.parse_parameters(given)
    assert found is None
    return problems


def test_nothing_given_is_what_was_published():
    found = parsed()

    assert (found.min_identity, found.min_aligned) == ("0.95", "0.75")
    assert not found.exclude_supplementary
    assert (found.trim_min, found.trim_max, found.contig_end_exclusion) == ("0.1", "0.9", 75)
    assert found.warnings == ()


SHARES = {"0.95": "0.95", "0.950": "0.95", 0.95: "0.95", 95: "0.95", "95": "0.95", "12.5": "0.125"}
SHARES |= {"100": "1", 0: "0", "1e-6": "0.000001", "1.5": "0.015"}


@pytest.mark.parametrize(("given", "share"), SHARES.items())
def test_shares_are_read_as_coverm_reads_them(given, share):
    assert parsed(min_identity=given).min_identity == share


def test_one_is_refused_because_it_means_one_percent():
    [problem] = refused(min_identity=1)

    assert problem == "min_identity: 1 means 1 % to CoverM; write 100 for all, or 0.01"
    assert refused(trim_max="1.0") == [
        "trim_max: 1 means 1 % to CoverM; write 100 for all, or 0.01"
    ]


@pytest.mark.parametrize("given", ["", "x", "101", "-0.1", None, True, "nan", "inf", [1]])
def test_what_is_no_share_is_refused(given):
    [problem] = refused(min_aligned=given)

    assert problem.startswith("min_aligned: ")


def test_more_decimals_than_can_be_exact_are_refused():
    assert "decimals" in refused(min_identity="0.9512345678901")[0]


def test_trims_without_the_method_that_reads_them_are_warned_about():
    found = parsed(methods=["mean"], trim_min="0.2")

    assert found.warnings == ("no effect of trim_min: trimmed_mean is not among the methods",)
    assert parsed(methods=["mean"]).warnings == ()


def test_a_second_weaker_cut_off_is_refused_because_it_does_nothing():
    [problem] = refused(min_read_aligned_percent=70)

    assert "already applied" in problem


def test_no_cut_off_at_all_is_refused_because_coverm_then_judges_pairs():
    [problem] = refused(min_identity=0, min_aligned="0")

    assert "proper pair" in problem


def test_everything_that_is_wrong_is_told_at_once():
    problems = refused(
        min_identity=1,
        min_aligned="x",
        methods=["mean", "median", "mean"],
        contig_end_exclusion=-1,
        exclude_supplementary="no",
        threads=64,
    )

    assert len(problems) == 7
    assert [problem.partition(":")[0] for problem in problems] == [
        "threads",
        "min_identity",
        "min_aligned",
        "methods",
        "methods",
        "contig_end_exclusion",
        "exclude_supplementary",
    ]


def test_trims_that_leave_nothing_are_refused():
    assert "nothing would be left" in refused(trim_min="0.5", trim_max="50")[0]


@pytest.mark.parametrize(
    "name", ["x'; rm -rf /", "../S1", "", "-S1", "S 1", "S1\n", "S" * 64, "S1;ls", "$(id)", "été"]
)
def test_a_name_that_could_be_more_than_a_name_is_refused(name):
    assert not item.SAMPLE.fullmatch(name)


NO_KEYS = ["", "a b", "a\n", "-x", "a;b", "$(id)", "a\tb"]


@pytest.mark.parametrize(
    "uri", ["s3://bucket", "http://b/k", "s3://B_/k", *(f"s3://bucket/{key}" for key in NO_KEYS)]
)
def test_an_address_that_is_no_plain_one_is_refused(uri):
    assert not objects.URI.fullmatch(uri)


def test_an_item_may_be_given_in_place_of_its_manifest():
    assert item.read_line(NoStore(), '{"sample": "S1"}') == {"sample": "S1"}


def test_an_item_that_is_cut_off_is_refused():
    with pytest.raises(exceptions.InputDataError, match="the item is no JSON"):
        item.read_line(NoStore(), '{"sample": "S1"')
