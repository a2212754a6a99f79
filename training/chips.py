"""Chips as they are sold: what one can do, and which slices of TPUs there are. Figures are the makers', not ours.

From the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of Google Cloud's documentation, docs.cloud.google.com/tpu/docs,
read in November 2026. Their "16 GB" of memory are GiB: XLA finds 15.75 GiB of a v5e free for programs.
GPUs from NVIDIA's data sheets of A100, L4, L40S, H100, H200 and B200.
"""

import dataclasses
import math
import re

from maskmill.schemas.errors import UsageError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
        name: as in a topology's name.
        flops: peak operations per second in bfloat16, two per multiply-add.
        memory_bytes: capacity of its memory, and memory_rate, bytes per second from and to it.
        per_host: chips of one host in slices of several hosts.
        cores: cores that the accelerator type's number counts, per chip: a v4-32 has 16 chips, a v5e-16 has too.
        slices: topologies offered.
        config: how XLA is told that a chip is one device.
    """

    name: str
    flops: float
    memory_bytes: float
    memory_rate: float
    per_host: int
    cores: int
    slices: tuple[str, ...]
    config: str | None = None


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * 2**30, 1200e9, per_host=4, cores=2, slices=_CUBES, config="megacore"),
        Chip("v5e", 197e12, 16 * 2**30, 819e9, per_host=4, cores=1, slices=_FLAT),
        Chip("v5p", 459e12, 95 * 2**30, 2765e9, per_host=4, cores=2, slices=_CUBES),
        Chip("v6e", 918e12, 32 * 2**30, 1638e9, per_host=4, cores=1, slices=_FLAT),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: its name as XLA knows it, its kind of chip, and how many chips it has."""

    name: str
    chip: Chip
    chips: int

    @property
    def hosts(self) -> int:
        return max(self.chips // self.chip.per_host, 1)

    @property
    def accelerator_type(self) -> str:
        """The other name of the same slice, such as v4-32 or v5e-128."""
        return f"{self.chip.name}-{self.chips * self.chip.cores}"


TOPOLOGIES = {
    f"{chip.name}:{shape}": Topology(f"{chip.name}:{shape}", chip, math.prod(map(int, shape.split("x"))))
    for chip in CHIPS.values()
    for shape in chip.slices
}


def find_topology(name: str) -> Topology:
    """The slice of that name (`v5e:8x16`), or of that accelerator type (`v5e-128`).

    Raises:
        UsageError: unknown; the nearest and all there are.
    """
    types = {topology.accelerator_type: topology for topology in TOPOLOGIES.values()}
    found = TOPOLOGIES.get(name) or types.get(name)
    if found is None:
        hint = did_you_mean(name, [*TOPOLOGIES, *types]) or "."
        known = "; ".join(f"{chip.name}: {' '.join(chip.slices)}" for chip in CHIPS.values())
        raise UsageError(f"unknown topology {name!r}{hint} Known, as CHIP:SHAPE or CHIP-CORES, are {known}")
    return found


# Peak operations per second in bfloat16 without sparsity, two per multiply-add, by what jax calls the device.
PEAKS = (
    (r"TPU v6 lite|TPU v6e", CHIPS["v6e"].flops),
    (r"TPU v5 lite|TPU v5e", CHIPS["v5e"].flops),
    (r"TPU v5", CHIPS["v5p"].flops),
    (r"TPU v4", CHIPS["v4"].flops),
    (r"A100", 312e12),
    (r"L40S", 362e12),
    (r"\bL4\b", 121e12),
    (r"H100 (PCIe|NVL)", 756e12),
    (r"H100|H200|GH200", 989e12),
    (r"B200", 2250e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak operations per second of a kind of device, None where it is not listed (a CPU, for one)."""
    return next((peak for pattern, peak in PEAKS if re.search(pattern, device_kind)), None)
