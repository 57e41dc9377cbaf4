"""What a plan costs and scores, and the limits that it must meet."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Amount = float | np.ndarray  # One number, or one for each of some plans.


@dataclass(frozen=True)
class Target:
    """What the model shall be fast on.

    Attributes:
        name: `tpu_v2` ... `tpu7x` (compiler estimate), or `cpu` (this host, measured).
        batch_size: images per inference call on one device. The batch decides which widths are cheap.
        dtype: `bfloat16` or `float32`, of weights and computation.
    """

    name: str
    batch_size: int = 128
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Memory:
    """Bytes of device memory that inference needs; None where this kind of report cannot tell.

    Attributes:
        weights: parameters as laid out on the device, padding included.
        activations: inputs, outputs and temporaries.
        code: the program.
        total: everything that must fit at once.
    """

    weights: int
    activations: int | None
    code: int | None
    total: int | None


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """What one inference call costs on one target.

    Attributes:
        target: what was asked for.
        kind: `compiler estimate` or `measured`.
        latency: seconds per batch on one device; the schedule walk for an estimate, the median when measured.
        latency_sum: the compiler's plain sum over kernels, in seconds; None when measured.
        latency_iqr: interquartile range in seconds; None for an estimate.
        memory: bytes on the device.
        flops: floating-point operations per batch (two per multiply-accumulate) of convolutions and dense layers.
        parameters: number of parameters.
        traffic: bytes that the program moves to and from HBM; None where this kind of report cannot tell.
        utilisation: share of the device's peak that the FLOPs take at this latency; None without a known peak.
        bound: what the latency cannot go below on this device even if all else were free: `compute` when the FLOPs at
            the device's peak take longer than the traffic at its bandwidth, else `HBM`; None without these.
        layers: seconds of the latency by layer, for layers with FLOPs; a kernel of several layers counts for each in
            proportion to their FLOPs. What belongs to none, such as waiting for copies, is the rest. Empty when the
            kind of report cannot tell.
        provenance: where the figures come from: library versions, topology, clock, route.
        parts: of a cost on several targets, the report of each by its name; latency and memory are then the combined
            shares of the dense model's, times its figures on the first target.
    """

    target: Target
    kind: Literal["compiler estimate", "measured"]
    latency: float
    latency_sum: float | None
    latency_iqr: float | None
    memory: Memory
    flops: int
    parameters: int
    traffic: int | None = None
    utilisation: float | None = None
    bound: Literal["compute", "HBM"] | None = None
    layers: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str | float] = field(default_factory=dict)
    parts: Mapping[str, "CostReport"] = field(default_factory=dict)

    def __repr__(self) -> str:
        target, total = self.target, self.memory.total
        memory = "" if total is None else f"{total / 2**20:.2f} MiB, "
        cost = f"{self.latency * 1e6:.1f} us, {memory}{self.parameters:,} parameters"
        return f"CostReport({target.name}, batch {target.batch_size}, {target.dtype}, {self.kind}: {cost})"


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one device's memory that a training step needs.

    Attributes:
        state: weights and the optimiser's slots as laid out on the device, padding included.
        activations: this device's share of the batch, and temporaries, such as what the backward pass needs.
        code: the program.
        total: everything that must fit at once.
    """

    state: int
    activations: int
    code: int
    total: int


@dataclass(frozen=True, kw_only=True)
class TrainingStepReport:
    """What one step of training costs on one chip or a slice; every figure is of one device.

    Attributes:
        target: what was asked for; its batch size is that of one JAX device: a chip, or one of two cores.
        devices: JAX devices that share the step, each with a batch of its own and all of the state.
        chips: that these devices make up; 0.5 for one core.
        global_batch_size: examples per step, on all devices together.
        optimizer: by Keras's name.
        kind: always `compiler estimate`.
        fits: whether the step fits in a device's memory.
        latency: seconds per step by the schedule walk, without the time that devices wait for each other, for which
            the compiler gives no estimate; None when the step does not fit.
        latency_sum: the compiler's plain sum over kernels, in seconds; likewise.
        memory: bytes on each device; None when the compiler refused the step as too large.
        needed: bytes that the step takes on each device; of a refused one what the compiler names, which may be its
            temporaries alone.
        capacity: bytes that a program may take on one device, by the compiler's word.
        communicated: bytes that each device gets from operations over all devices: the sum of the gradients, and the
            statistics of batch normalisation; 0 on one device, None when the compiler refused the step.
        parameters: number of the model's parameters.
        provenance: where the figures come from: library versions, topology, clock.
    """

    target: Target
    devices: int
    chips: float
    global_batch_size: int
    optimizer: str
    kind: Literal["compiler estimate"]
    fits: bool
    latency: float | None
    latency_sum: float | None
    memory: TrainingMemory | None
    needed: int
    capacity: int
    communicated: int | None
    parameters: int
    provenance: Mapping[str, str | float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One scored plan: a row of the journal.

    Attributes:
        key: hash of the plan's kept channels and dropped branches.
        keep_ratios: achieved keep ratio of every group that does not leave with a branch.
        widths: channels left in each of them.
        accuracy: share of the reward split classified correctly after batch-norm recalibration, and after whatever
            else was done for the model to recover; NaN when its outputs were not finite, or it was not run.
        cost: cost on the target; None when it could not be costed. A plan that failed may have one of the two.
        error: why the evaluation failed; empty when it did not.
        seconds: wall time it took.
        score: what a search maximises, from 0 to 1: the accuracy, or another sign of what fine-tuning will make of the
            plan (`autoprune.settings.EvaluationSettings`); NaN where the accuracy is. Not given, it is the accuracy.
        dropped: names of the branches that are gone.
    """

    key: str
    keep_ratios: Mapping[str, float] = field(repr=False)
    widths: Mapping[str, int] = field(repr=False)
    accuracy: float
    cost: CostReport | None
    error: str = ""
    seconds: float = 0.0
    score: float = None  # type: ignore[assignment] # `__post_init__` puts the accuracy here
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.score is None:
            object.__setattr__(self, "score", self.accuracy)

    @property
    def values(self) -> dict[str, int]:
        """What the plan says of each dimension, by name, as `SearchSpace.find` reads it."""
        return {**self.widths, **dict.fromkeys(self.dropped, 0)}

    @property
    def required_cost(self) -> CostReport:
        """`cost` of an evaluation that did not fail.

        Raises:
            ValueError: there is none.
        """
        if self.cost is None:
            raise ValueError(f"evaluation '{self.key}' has no cost: {self.error or 'it was never costed'}")
        return self.cost

    @property
    def failed(self) -> bool:
        """Whether the plan could not be scored, or not be costed."""
        return bool(self.error) or not math.isfinite(self.score)


@dataclass(frozen=True)
class Budget:
    """Absolute limits that a result must meet; None is no limit.

    Attributes:
        latency: seconds per batch.
        memory: bytes of device memory in total.
    """

    latency: float | None = None
    memory: int | None = None

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.latency is not None or self.memory is not None

    def met_by(self, cost: CostReport) -> bool:
        """Whether `cost` is within every limit."""
        return self.overrun(cost) <= 0

    def overrun(self, cost: CostReport) -> float:
        """The largest relative excess over a limit: 0.1 is ten per cent too much, below 0 is room left."""
        return float(self.excess(cost.latency, cost.memory.total))

    def excess(self, latency: Amount, memory: Amount | None) -> Amount:
        """As `overrun`, of latencies in seconds and memories in bytes; a memory that is not known exceeds nothing."""
        excess: Amount = -1.0
        if self.latency is not None:
            excess = np.maximum(excess, latency / self.latency - 1)
        if self.memory is not None and memory is not None:
            excess = np.maximum(excess, memory / self.memory - 1)
        return excess
