"""A mapping's parameters: thresholds as exact fractions, checked all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

METHODS = ("mean", "trimmed_mean", "covered_fraction", "count", "length")
# Beyond that, products of the filter's integers could leave what a double holds exactly.
MOST_DECIMALS = 9
DEFAULTS: dict[str, Any] = {
    "min_identity": "0.95",
    "min_aligned": "0.75",
    "exclude_supplementary": False,
    "methods": ["mean", "trimmed_mean", "covered_fraction", "count", "length"],
    "trim_min": "0.10",
    "trim_max": "0.90",
    "contig_end_exclusion": 75,
}
SECOND_CUT_OFF = (
    "the filter has already applied its cut-offs: a second, weaker one removes nothing, and a"
    " stronger one belongs into min_identity or min_aligned"
)
# What the published commands give, and what these names would wrongly promise.
REFUSED_NAMES = {
    "min_read_aligned_percent": SECOND_CUT_OFF,
    "min_read_percent_identity": SECOND_CUT_OFF,
    "min_covered_fraction": "it would turn what was measured into 0; filter the matrix instead",
}


@dataclass(frozen=True)
class Parameters:
    """What was asked for.

    Shares are fractions as decimal text: of the aligned bases that must be identical
    (`min_identity`), of the read that must be aligned (`min_aligned`), and of a contig's positions,
    sorted by depth, between which the trimmed mean is taken. `contig_end_exclusion` is in bases.
    """

    min_identity: str
    min_aligned: str
    exclude_supplementary: bool
    methods: tuple[str, ...]
    trim_min: str
    trim_max: str
    contig_end_exclusion: int
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def of_filter(self) -> dict[str, Any]:
        """Give those on which the filtered BAM depends."""
        return {
            "min_identity": self.min_identity,
            "min_aligned": self.min_aligned,
            "exclude_supplementary": self.exclude_supplementary,
        }

    def to_dict(self) -> dict[str, Any]:
        """Give all of them as in an item."""
        return {
            **self.of_filter(),
            "methods": list(self.methods),
            "trim_min": self.trim_min,
            "trim_max": self.trim_max,
            "contig_end_exclusion": self.contig_end_exclusion,
        }


def parse_parameters(given: Any) -> tuple[Parameters | None, list[str]]:
    """Read the parameters of an item; return them, or None with everything that is wrong.

    >>> parse_parameters({"min_identity": 95})[0].min_identity
    '0.95'
    >>> parse_parameters({"min_identity": "1"})[1]
    ['min_identity: 1 means 1 % to CoverM; write 100 for all, or 0.01']
    """
    if not isinstance(given, Mapping):
        return None, ["parameters: an object is needed"]
    problems = [
        f"{name}: {REFUSED_NAMES.get(name, 'there is no such parameter')}"
        for name in sorted(set(given) - set(DEFAULTS))
    ]
    values = {**DEFAULTS, **{name: given[name] for name in given if name in DEFAULTS}}
    for name in ("min_identity", "min_aligned", "trim_min", "trim_max"):
        try:
            values[name] = share(values[name])
        except ValueError as error:
            problems.append(f"{name}: {error}")
    problems += [*_problems_of_methods(values["methods"])]
    end = values["contig_end_exclusion"]
    if not isinstance(end, int) or isinstance(end, bool) or end < 0:
        problems.append(f"contig_end_exclusion: {end!r} is no whole number of bases")
    if not isinstance(values["exclude_supplementary"], bool):
        problems.append("exclude_supplementary: true or false is needed")
    problems += [] if problems else _problems_together(values)
    if problems:
        return None, problems
    warnings = _warnings(values, given)
    return Parameters(**{**values, "methods": tuple(values["methods"])}, warnings=warnings), []


def share(value: Any) -> str:
    """Normalise a share as CoverM reads it: 1 to 100 are percent, what is below 1 a fraction.

    >>> share("0.950"), share(95), share("12.5")
    ('0.95', '0.95', '0.125')

    Raises ValueError with the reason of a refusal.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is no number")
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError(f"{value!r} is no number") from None
    if not number.is_finite() or not 0 <= number <= 100:
        raise ValueError(f"{value} is neither a fraction below 1 nor a percentage up to 100")
    if number == 1:
        raise ValueError("1 means 1 % to CoverM; write 100 for all, or 0.01")
    fraction = number / 100 if number > 1 else number
    if -int(fraction.normalize().as_tuple().exponent) > MOST_DECIMALS:
        raise ValueError(f"{value} has more than {MOST_DECIMALS} decimals")
    return f"{fraction.normalize():f}"


def _problems_of_methods(methods: Any) -> list[str]:
    if not isinstance(methods, list | tuple) or not methods:
        return [f"methods: a list of some of {', '.join(METHODS)} is needed"]
    unknown = [str(method) for method in methods if method not in METHODS]
    problems = []
    if unknown:
        problems.append(f"methods: no {', '.join(unknown)}; there are {', '.join(METHODS)}")
    if len({str(method) for method in methods}) < len(methods):
        problems.append("methods: one is named twice")
    return problems


def _problems_together(values: Mapping[str, Any]) -> list[str]:
    problems = []
    if Fraction(values["trim_min"]) >= Fraction(values["trim_max"]):
        problems.append(
            f"trim_min {values['trim_min']} is not below trim_max {values['trim_max']}: nothing"
            " would be left of a contig"
        )
    if not Fraction(values["min_identity"]) and not Fraction(values["min_aligned"]):
        problems.append(
            "min_identity and min_aligned are both 0: without a cut-off CoverM drops every read"
            " that is not of a proper pair; 0.000001 keeps all"
        )
    return problems


def _warnings(values: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, ...]:
    trims = [name for name in ("trim_min", "trim_max") if name in given]
    if trims and "trimmed_mean" not in values["methods"]:
        return (f"no effect of {' and '.join(trims)}: trimmed_mean is not among the methods",)
    return ()
