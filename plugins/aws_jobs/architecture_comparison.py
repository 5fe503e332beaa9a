"""The same samples on Graviton and on x86: time, price and results side by side.

With ``t = 1 - T_graviton / T_x86`` and ``p = 1 - price_graviton / price_x86``, a sample's saving is
``1 - (1 - t)(1 - p)``, and that of disks, whose price is the same, ``t``. T is from the start to
the end of the attempt that succeeded.

Numbers alone are no result. Only where each side ran on the machines that it is named after, with
the same inputs, parameters, tools and resources, and where both found the same coverage, does the
comparison come to a conclusion.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from statistics import fmean
from typing import TYPE_CHECKING, Any

from aws_jobs.report_page import Plot, duration, percent, plot_text, render_page
from aws_jobs.run_report import is_aws, put_text
from aws_jobs.sample_results import MACHINES, SampleResult, coverage_rows, read_results
from aws_jobs.settings import ARCHITECTURES
from aws_jobs.trace import sample_attempts, write_table, wrote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aws_jobs.costs import Prices

# Single floats that two instruction sets round apart agree to about seven digits.
TOLERANCE = 1e-6

_RESAMPLES = 2000
_LEVEL = 0.95
# Any number: the same measurements give the same interval.
_SEED = 20_200_310
_PLOTTED = 60
_NAMES = frozenset({"sample", "contig"})


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval; one value has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class CoverageCheck:
    """How far two coverage tables are apart.

    :param identical: they are equal byte by byte.
    :param largest: the largest relative difference of two numbers.
    :param where: contig and column of it, or what else is different.
    """

    identical: bool
    largest: float = 0.0
    where: str = ""

    def within(self, tolerance: float) -> bool:
        """Whether both tables say the same."""
        return self.identical or self.largest <= tolerance


@dataclass(frozen=True)
class Side:
    """One sample on one architecture.

    :param seconds: from the start to the end of the attempt that succeeded.
    """

    seconds: float
    result: SampleResult

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of the stages that it ran."""
        return {stage.name: stage.seconds for stage in self.result.stages if not stage.skipped}


@dataclass(frozen=True)
class Pair:
    """One sample on both architectures.

    :param unfair: why its times cannot be compared.
    """

    sample: str
    graviton: Side
    x86: Side
    coverage: CoverageCheck
    unfair: tuple[str, ...] = ()

    @property
    def time_saving(self) -> float:
        """The share of time that Graviton saved, t."""
        return 1 - self.graviton.seconds / self.x86.seconds

    @property
    def stage_ratios(self) -> dict[str, float]:
        """Seconds on Graviton for each second on x86, by stage."""
        other = self.x86.stages
        return {
            name: seconds / other[name]
            for name, seconds in self.graviton.stages.items()
            if other.get(name)
        }


@dataclass(frozen=True)
class Comparison:
    """All samples on both architectures.

    :param pairs: the samples that both sides mapped.
    :param missing: why other samples could not be compared, by sample.
    :param on_aws: False where jobs ran on a stand-in.
    """

    dag_id: str
    run_id: str
    table: str
    pairs: tuple[Pair, ...]
    missing: Mapping[str, str]
    prices: Prices
    made_at: datetime
    on_aws: bool = True
    tolerance: float = TOLERANCE

    @property
    def price_saving(self) -> float:
        """The share of a machine's price that Graviton saves, p."""
        return price_saving(self.prices)

    @property
    def time_saving(self) -> Mean:
        """Mean of t over the samples."""
        return mean_with_interval([pair.time_saving for pair in self.pairs])

    @property
    def saving(self) -> Mean:
        """Mean over the samples of what a machine's time cost less."""
        return mean_with_interval(
            [total_saving(pair.time_saving, self.price_saving) for pair in self.pairs]
        )

    @property
    def break_even_usd(self) -> float:
        """The hourly price at which the Graviton machine would save nothing."""
        return self.prices.machines["x86"].usd_per_hour / (1 - self.time_saving.value)

    @property
    def stage_ratios(self) -> dict[str, float]:
        """Seconds on Graviton for each second on x86, by stage, over all samples."""
        names = dict.fromkeys(name for pair in self.pairs for name in pair.stage_ratios)
        return {
            name: sum(pair.graviton.stages.get(name, 0) for pair in self.pairs)
            / sum(pair.x86.stages.get(name, 0) for pair in self.pairs)
            for name in names
        }

    @property
    def doubts(self) -> list[str]:
        """Why there is no conclusion; none where there is one."""
        found = [] if self.pairs else ["no sample was mapped on both architectures"]
        if not self.on_aws:
            found.append("the jobs ran on a stand-in for AWS")
        found += _machine_doubts(self.pairs)
        if unfair := [pair for pair in self.pairs if pair.unfair]:
            found.append(
                f"{len(unfair)} of {len(self.pairs)} samples were not mapped alike, such as "
                f"{unfair[0].sample}: {'; '.join(unfair[0].unfair)}"
            )
        if apart := [p for p in self.pairs if not p.coverage.within(self.tolerance)]:
            found.append(
                f"{len(apart)} of {len(self.pairs)} samples have another coverage on each side, "
                f"such as {apart[0].sample}: {apart[0].coverage.where}"
            )
        return found


def price_saving(prices: Prices) -> float:
    """Return the share of the hourly price that the Graviton machine saves."""
    return 1 - prices.machines["graviton"].usd_per_hour / prices.machines["x86"].usd_per_hour


def total_saving(time: float, price: float) -> float:
    """Return the saving of less time at a lower price.

    >>> round(total_saving(0.16, 0.20), 3)
    0.328
    """
    return 1 - (1 - time) * (1 - price)


def mean_with_interval(values: Sequence[float]) -> Mean:
    """Return the mean and, from two values on, its bootstrap interval (percentiles).

    :raises statistics.StatisticsError: where there is no value.
    """
    mean = fmean(values)
    if len(values) < 2:
        return Mean(mean)
    dice = random.Random(_SEED)  # noqa: S311 - statistics, no secret
    means = sorted(fmean(dice.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    tail = round(_RESAMPLES * (1 - _LEVEL) / 2)
    return Mean(mean, means[tail], means[-tail - 1])


def compare_coverage(
    graviton: Iterable[Mapping[str, str]], x86: Iterable[Mapping[str, str]]
) -> CoverageCheck:
    """Compare two tidy coverage tables, which list the same contigs in the same order."""
    check = CoverageCheck(identical=False)
    for one, other in zip_longest(graviton, x86):
        if one is None or other is None or one["contig"] != other["contig"]:
            return CoverageCheck(False, float("inf"), "the tables list different contigs")
        if one.keys() != other.keys():
            return CoverageCheck(False, float("inf"), "the tables have different columns")
        for column in (name for name in one if name not in _NAMES):
            apart = _relative_difference(one[column], other[column])
            if apart > check.largest:
                where = f"{column} of {one['contig']} is {one[column]} and {other[column]}"
                check = CoverageCheck(False, apart, where)
    return check


def render_comparison(comparison: Comparison) -> str:
    """Return the page."""
    return render_page(
        "architecture_comparison.html.j2",
        plots=_plots(comparison.pairs),
        comparison=comparison,
        doubts=comparison.doubts,
        stages=list(comparison.stage_ratios),
        total_saving=total_saving,
    )


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row for each sample that both sides mapped."""
    return [
        {
            "sample": pair.sample,
            "graviton_seconds": round(pair.graviton.seconds, 3),
            "x86_seconds": round(pair.x86.seconds, 3),
            "time_saving": round(pair.time_saving, 6),
            "price_saving": round(comparison.price_saving, 6),
            "saving": round(total_saving(pair.time_saving, comparison.price_saving), 6),
            "volume_saving": round(pair.time_saving, 6),
            "coverage": "identical"
            if pair.coverage.identical
            else "within tolerance"
            if pair.coverage.within(comparison.tolerance)
            else "different",
            "largest_difference": pair.coverage.largest,
            "graviton_machine": pair.graviton.result.architecture,
            "x86_machine": pair.x86.result.architecture,
            "unfair": "; ".join(pair.unfair),
        }
        | {f"{name}_ratio": round(ratio, 6) for name, ratio in pair.stage_ratios.items()}
        for pair in comparison.pairs
    ]


def write_comparison(
    s3: Any,
    *,
    dag_id: str,
    run_id: str,
    table: str,
    attempts: Mapping[str, Iterable[Mapping[str, Any]]],
    manifests: Mapping[str, Mapping[str, str]],
    prices: Prices,
    output_uri: str,
) -> dict[str, Any]:
    """Write ``comparison.html`` and ``comparison.tsv`` below an address in S3.

    :param attempts: the operator's records, by architecture.
    :param manifests: where the manifests of finished samples are, by architecture and sample.
    :param output_uri: ``s3://...``; what is there is replaced.
    :returns: the addresses, why there is no conclusion, and the savings where there is one.
    """
    sides = {
        name: _sides(attempts.get(name, ()), read_results(s3, manifests.get(name, {})))
        for name in ARCHITECTURES
    }
    asked = sorted({sample for each in manifests.values() for sample in each} | _named(attempts))
    both = [s for s in asked if s in sides["graviton"] and s in sides["x86"]]
    comparison = Comparison(
        dag_id=dag_id,
        run_id=run_id,
        table=table,
        pairs=tuple(
            _pair(s3, sample, sides["graviton"][sample], sides["x86"][sample]) for sample in both
        ),
        missing={
            sample: "not finished on "
            + " and ".join(name for name in ARCHITECTURES if sample not in sides[name])
            for sample in asked
            if sample not in both
        },
        prices=prices,
        made_at=datetime.now(UTC),
        on_aws=is_aws(s3),
    )
    rows, tsv = comparison_rows(comparison), io.StringIO()
    write_table(rows, list(rows[0]) if rows else ["sample"], tsv)
    doubts = comparison.doubts
    page = render_comparison(comparison)
    return {
        "report": put_text(s3, f"{output_uri}/comparison.html", page, "text/html"),
        "table": put_text(s3, f"{output_uri}/comparison.tsv", tsv.getvalue()),
        "samples": len(comparison.pairs),
        "missing": len(comparison.missing),
        "no_conclusion": doubts,
        "saving": None if doubts else comparison.saving.value,
        "time_saving": None if doubts else comparison.time_saving.value,
        "price_saving": comparison.price_saving,
    }


def _sides(
    records: Iterable[Mapping[str, Any]], results: Mapping[str, SampleResult]
) -> dict[str, Side]:
    """Return the samples whose manifest's attempt is known, and how long it ran."""
    return {
        attempt.sample: Side(attempt.run_seconds, results[attempt.sample])
        for attempt in sample_attempts(records)
        if attempt.sample in results
        and wrote(attempt, results[attempt.sample])
        and attempt.run_seconds
    }


def _named(attempts: Mapping[str, Iterable[Mapping[str, Any]]]) -> set[str]:
    return {str(record["sample"]) for records in attempts.values() for record in records}


def _pair(s3: Any, sample: str, graviton: Side, x86: Side) -> Pair:
    return Pair(
        sample,
        graviton,
        x86,
        _coverage(s3, graviton.result, x86.result),
        tuple(_unfair(graviton, x86)),
    )


def _coverage(s3: Any, graviton: SampleResult, x86: SampleResult) -> CoverageCheck:
    one, other = graviton.outputs.get("coverage_tidy"), x86.outputs.get("coverage_tidy")
    if not one or not other:
        return CoverageCheck(False, float("inf"), "a coverage table is missing")
    if one["sha256"] == other["sha256"]:
        return CoverageCheck(identical=True)
    return compare_coverage(coverage_rows(s3, one["uri"]), coverage_rows(s3, other["uri"]))


def _unfair(graviton: Side, x86: Side) -> list[str]:
    """Return in what the two sides were not treated alike."""
    one, other = graviton.result, x86.result
    found = [
        f"another {name}: {mine} and {theirs}"
        for name, mine, theirs in (
            ("image", one.image, other.image),
            ("number of vCPUs", one.vcpus, other.vcpus),
            ("amount of memory", one.memory_mib, other.memory_mib),
        )
        if mine != theirs
    ]
    for name, mine, theirs in (
        ("inputs", one.inputs, other.inputs),
        ("parameters", one.parameters, other.parameters),
        ("tools", one.tools, other.tools),
    ):
        apart = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        found += [f"other {name}: {', '.join(apart)}"] if apart else []
    if graviton.stages.keys() != x86.stages.keys():
        found.append("one side went on where an earlier attempt had stopped")
    return found


def _machine_doubts(pairs: Iterable[Pair]) -> list[str]:
    machines = {(pair.graviton.result.architecture, pair.x86.result.architecture) for pair in pairs}
    doubts = []
    for one, other in sorted(machines - {(MACHINES["graviton"], MACHINES["x86"])}):
        if one == other:
            doubts.append(f"both sides ran on {one or 'machines of an unknown kind'}")
        else:
            doubts.append(f"Graviton's side ran on {one or '?'}, that of x86 on {other or '?'}")
    return doubts


def _relative_difference(one: str, other: str) -> float:
    """Return how far two fields are apart; an empty one or a word equals itself only."""
    if one == other:
        return 0.0
    try:
        a, b = float(one), float(other)
    except ValueError:
        return float("inf")
    largest = max(abs(a), abs(b))
    return abs(a - b) / largest if largest else 0.0


def _plots(pairs: Sequence[Pair]) -> list[Plot]:
    from aws_jobs.run_figures import base_figure

    if not pairs:
        return []
    shown = pairs[:_PLOTTED]
    figure = base_figure(2 * len(shown), margin_top=34)
    for name, colour in (("graviton", "#e69f00"), ("x86", "#3d85c6")):
        seconds = [getattr(pair, name).seconds for pair in shown]
        figure.add_bar(
            orientation="h",
            name=name,
            y=[plot_text(pair.sample) for pair in shown],
            x=seconds,
            customdata=[
                f"{name}: {duration(each)}; t = {percent(pair.time_saving)}"
                for each, pair in zip(seconds, shown, strict=True)
            ],
            hovertemplate="%{y}<br>%{customdata}<extra></extra>",
            marker={"color": colour},
        )
    figure.update_layout(barmode="group", xaxis={"title": "seconds"})
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    note = "" if len(shown) == len(pairs) else f"The first {len(shown)} of {len(pairs)} samples."
    summary = f"Seconds of {len(shown)} samples on both architectures."
    return [Plot("seconds", figure, summary, note)]
