"""What a mapping job costs: an estimate from list prices, which are kept as a dated file.

An estimate in three ways. A job is counted as its share of a machine, although Batch may have left
the rest of the machine empty. Seconds count from the job's start to its end, although the machine
is paid for from its own start to its own end. And spot is counted like on demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aws_jobs.exceptions import SettingsError
from aws_jobs.settings import Architecture

if TYPE_CHECKING:
    from pathlib import Path

ASSUMPTIONS = (
    "A job is counted as its share of the machine, by vCPUs or memory, whichever is more.",
    "Seconds count from the job's start to its end: the machine's own start is left out.",
    "Spot is counted like on demand: it costs less, and how much less changes by the hour.",
)

_HOURS_PER_MONTH = 730
_SECONDS_PER_HOUR = 3600

_Positive = Annotated[float, Field(gt=0)]


class _Priced(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MachinePrice(_Priced):
    """A machine by the hour, on demand."""

    instance_type: str
    vcpus: Annotated[int, Field(ge=1)]
    memory_mib: Annotated[int, Field(ge=1)]
    usd_per_hour: _Positive


class VolumePrice(_Priced):
    """A machine's disk by the month."""

    type: str
    gib: Annotated[int, Field(ge=1)]
    usd_per_gib_month: _Positive

    @property
    def usd_per_hour(self) -> float:
        """A month is 730 hours, as AWS bills it."""
        return self.gib * self.usd_per_gib_month / _HOURS_PER_MONTH


class Prices(_Priced):
    """List prices of one region at one day."""

    as_of: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    region: str
    sources: tuple[str, ...]
    machines: dict[Architecture, MachinePrice]
    volume: VolumePrice


def read_prices(path: Path) -> Prices:
    """Read the price file.

    :raises SettingsError: with everything that is wrong in it.
    """
    from aws_jobs.specs import load_spec

    try:
        return Prices.model_validate(load_spec(path))
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise SettingsError(f"The prices in {path} have problems", problems) from None


def machine_share(machine: MachinePrice, *, vcpus: float, memory_mib: float) -> float:
    """Return what a job keeps others from using: the larger one of its shares, at most 1.

    >>> r6g = MachinePrice(instance_type="r6g.16xlarge", vcpus=64, memory_mib=524_288,
    ...                    usd_per_hour=3.2256)
    >>> machine_share(r6g, vcpus=16, memory_mib=262_144)
    0.5
    """
    return min(1.0, max(vcpus / machine.vcpus, memory_mib / machine.memory_mib))


def job_cost(
    prices: Prices,
    architecture: Architecture,
    *,
    vcpus: float,
    memory_mib: float,
    seconds: float | None,
) -> float:
    """Return US dollars for one attempt, its share of the disk included.

    :param seconds: from the attempt's start to its end; None where it never started.
    """
    machine = prices.machines[architecture]
    share = machine_share(machine, vcpus=vcpus, memory_mib=memory_mib)
    hourly = machine.usd_per_hour + prices.volume.usd_per_hour
    return share * hourly * (seconds or 0.0) / _SECONDS_PER_HOUR
