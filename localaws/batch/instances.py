"""How large the instances are that a compute environment may start; from moto's data of EC2."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moto.ec2.models.instance_types import INSTANCE_TYPES

#: "optimal" takes of these families: https://docs.aws.amazon.com/batch/latest/userguide/
#: create-compute-environment.html
OPTIMAL = ("m4", "m5", "c4", "c5", "r4", "r5")
#: Share of an instance's memory that jobs can have; the kernel and the ECS agent keep the rest:
#: https://docs.aws.amazon.com/batch/latest/userguide/memory-management.html
USABLE_MEMORY = 0.975


@dataclass(frozen=True)
class Size:
    """What a job can have of one instance at most."""

    instance_type: str
    vcpus: int
    memory: int  # MiB

    def holds(self, vcpus: int, memory: int) -> bool:
        """Say whether a job fits an empty instance."""
        return vcpus <= self.vcpus and memory <= self.memory


def sizes_of(asked: Sequence[str]) -> list[Size]:
    """Return the instances that ``instanceTypes`` (families, types, ``optimal``) allow."""
    return [size for name in asked for size in _sizes(name)]


def unknown_types(asked: Iterable[str]) -> list[str]:
    """Return those of ``instanceTypes`` that are none."""
    return [name for name in asked if not _sizes(name)]


@functools.cache
def _sizes(name: str) -> tuple[Size, ...]:
    if name == "optimal":
        return tuple(size for family in OPTIMAL for size in _sizes(family))
    return tuple(
        Size(
            instance_type,
            int(known["VCpuInfo"]["DefaultVCpus"]),
            int(known["MemoryInfo"]["SizeInMiB"] * USABLE_MEMORY),
        )
        for instance_type, known in INSTANCE_TYPES.items()
        if instance_type == name
        # Batch takes no bare metal out of a family
        or (instance_type.split(".")[0] == name and "metal" not in instance_type)
    )
