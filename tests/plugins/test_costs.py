"""Costs are a share of a machine's list price, from a file that says of when and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from aws_jobs.costs import job_cost, read_prices
from aws_jobs.exceptions import SettingsError
from tests.plugins.mapping_runs import PRICES_FILE, prices


def test_the_price_file_says_when_where_and_from_whom():
    found = prices()

    assert found.region == "us-east-1"
    assert found.as_of >= "2026-01-01"
    assert all(source.startswith("https://aws.amazon.com/") for source in found.sources)
    assert {name: each.usd_per_hour for name, each in found.machines.items()} == {
        "graviton": 3.2256,
        "x86": 4.032,
    }


def test_the_two_machines_are_alike_but_for_their_price():
    machines = prices().machines.values()

    assert {(each.vcpus, each.memory_mib) for each in machines} == {(64, 512 * 1024)}


def test_a_job_that_fills_its_machine_costs_the_machine_and_its_disk():
    hour = job_cost(prices(), "graviton", vcpus=64, memory_mib=500_000, seconds=3600)

    assert hour == pytest.approx(3.2256 + 200 * 0.08 / 730)


@pytest.mark.parametrize(
    ("vcpus", "memory_mib", "share"),
    [(16, 1000, 0.25), (1, 262_144, 0.5), (96, 1000, 1.0)],
    ids=["by vCPUs", "by memory", "never more than a machine"],
)
def test_a_smaller_job_costs_its_larger_share(vcpus, memory_mib, share):
    whole = job_cost(prices(), "x86", vcpus=64, memory_mib=524_288, seconds=60)

    part = job_cost(prices(), "x86", vcpus=vcpus, memory_mib=memory_mib, seconds=60)

    assert part == pytest.approx(share * whole)


def test_an_attempt_that_never_started_costs_nothing():
    assert job_cost(prices(), "x86", vcpus=64, memory_mib=500_000, seconds=None) == 0


def test_everything_that_is_wrong_in_a_price_file_is_told(tmp_path: Path):
    wrong = PRICES_FILE.read_text().replace("3.2256", "-1").replace('"2026', '"26')
    path = tmp_path / "prices.yaml"
    path.write_text(wrong)

    with pytest.raises(SettingsError) as caught:
        read_prices(path)

    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "as_of",
        "machines.graviton.usd_per_hour",
    ]
