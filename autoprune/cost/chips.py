"""The numbers of each TPU generation, with their sources.

Clocks, matrix units, HBM sizes and bandwidths, peaks: Google Cloud TPU documentation, the pages of v2 to v7
(cloud.google.com/tpu/docs/system-architecture-tpu-vm), and `jax.experimental.pallas.tpu.get_tpu_info_for_chip`;
the clock of v5e from the JAX scaling book (jax-ml.github.io/scaling-book). The clocks of v2 to v4 agree with peak
over operations per cycle; those of v5p and v6e are implied by their peaks.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

# Slices that libtpu describes, by their number of chips: of generations wired as a square, and as a cube.
_FLAT_SLICES = {4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"}
_CUBIC_SLICES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One TPU generation as the compiler sees it.

    Attributes:
        name: `tpu_v5e` and so on.
        topology: smallest topology name that libtpu accepts.
        accelerator_type: a value of TPU_ACCELERATOR_TYPE that keeps libtpu's start-up quiet.
        devices: JAX devices per chip; latency and memory are per device.
        clock: cycles per second.
        hbm: bytes of HBM per chip.
        bandwidth: bytes per second between HBM and one chip.
        peak: bfloat16 operations per second of one chip.
        options: further arguments of `get_topology_desc`.
    """

    name: str
    topology: str
    accelerator_type: str
    devices: int
    clock: float
    hbm: float
    bandwidth: float
    peak: float
    options: dict[str, Any] = field(default_factory=dict)

    def utilisation(self, flops: float, seconds: float) -> float:
        """Share of one device's bfloat16 peak; float32 convolutions run on the same units, by default in one pass."""
        return flops / (seconds * self.peak / self.devices)

    def bound(self, flops: float, traffic: float) -> Literal["compute", "HBM"]:
        """What takes longer at its peak on one device: the arithmetic, or moving the bytes to and from HBM.

        The roofline of Williams, Waterman and Patterson (2009, doi 10.1145/1498765.1498785).
        """
        return "compute" if flops / self.peak >= traffic / self.bandwidth else "HBM"

    @property
    def slices(self) -> dict[int, str]:
        """Topology names of slices of several chips, by their number of JAX devices."""
        generation, shape = self.topology.split(":")
        known = _FLAT_SLICES if shape.count("x") == 1 else _CUBIC_SLICES
        return {chips * self.devices: f"{generation}:{name}" for chips, name in known.items()}

    @property
    def device(self) -> str:
        """What one JAX device is, in words."""
        return "one chip" if self.devices == 1 else "one core (half a chip)"


# The v4 options make the described chip a megacore, as real v4 slices are.
_MEGACORE = {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1), "num_slices": 1}

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="tpu_v2",
            topology="v2:2x2",
            accelerator_type="v2-8",
            devices=2,
            clock=0.70e9,
            hbm=16e9,
            bandwidth=700e9,
            peak=46e12,
        ),
        Chip(
            name="tpu_v3",
            topology="v3:2x2",
            accelerator_type="v3-8",
            devices=2,
            clock=0.94e9,
            hbm=32e9,
            bandwidth=900e9,
            peak=123e12,
        ),
        Chip(
            name="tpu_v4",
            topology="v4:2x2x1",
            accelerator_type="v4-8",
            devices=1,
            clock=1.05e9,
            hbm=32e9,
            bandwidth=1228e9,
            peak=275e12,
            options=_MEGACORE,
        ),
        Chip(
            name="tpu_v5e",
            topology="v5e:2x2",
            accelerator_type="v5litepod-4",
            devices=1,
            clock=1.5e9,
            hbm=16e9,
            bandwidth=819e9,
            peak=197e12,
        ),
        Chip(
            name="tpu_v5p",
            topology="v5p:2x2x1",
            accelerator_type="v5p-8",
            devices=1,
            clock=1.75e9,
            hbm=95e9,
            bandwidth=2765e9,
            peak=459e12,
        ),
        Chip(
            name="tpu_v6e",
            topology="v6e:2x2",
            accelerator_type="v6e-4",
            devices=1,
            clock=1.75e9,
            hbm=32e9,
            bandwidth=1638e9,
            peak=918e12,
        ),
        Chip(
            name="tpu7x",
            topology="tpu7x:2x2x1",
            accelerator_type="tpu7x-8",
            devices=2,
            clock=2.2e9,
            hbm=192e9,
            bandwidth=7380e9,
            peak=2307e12,
        ),
    )
}
