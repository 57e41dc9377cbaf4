"""The nouns that flow between the stages, as frozen dataclasses: standard library and NumPy only.

`ChannelGroup` comes from `autoprune.graph`, `Plan` from `autoprune.planning`, `SurgeryReport` from
`autoprune.surgery`, `CostReport` from `autoprune.cost`, `Evaluation` from `autoprune.evaluation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Role = Literal["produces", "follows", "consumes", "sets", "holds"]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one variable (or one attribute of a layer) that is as long as its group has channels.

    Attributes:
        layer: path of the operation in the model, such as `backbone/conv1`.
        name: the variable (`kernel`) or, for the roles `sets` and `holds`, the attribute (`filters`).
        axis: the axis of the variable. For the role `sets`, the position in an attribute that is a tuple, or -1 for
            a plain integer.
        role: `produces` (the channels are made here: the output axis of a kernel), `follows` (parameters per
            channel: batch norm, bias, depthwise kernel), `consumes` (the input axis of a kernel), `sets` (an
            attribute that is the number of positions), `holds` (an attribute with a value for each position).
        channels: integer array as long as the axis: for each position the index of the channel in the group,
            or -1 where the position belongs to another group.
    """

    layer: str
    name: str
    axis: int
    role: Role
    channels: np.ndarray = field(repr=False)

    @property
    def is_attribute(self) -> bool:
        """Whether `name` is an attribute of the operation and not a variable."""
        return self.role in ("sets", "holds")


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channel axes of several layers that can only be removed together.

    A worked example: in `Conv2D(8, name="a") -> BatchNormalization(name="bn") -> Flatten -> Dense(10)` on
    2x2 images, the group `a` has size 8. Its members are the output axis of `a`'s kernel (positions 0..7 are
    channels 0..7), the axes of `bn`'s four variables (the same), and the input axis of the dense kernel, whose
    32 positions are channels 0..7, 0..7, 0..7, 0..7. Removing channel 3 removes four rows there.

    Attributes:
        name: path of the first layer, in data-flow order, that produces the channels.
        size: number of channels.
        prunable: whether channels can be removed.
        reason: why not; empty when prunable.
        members: every axis that shrinks with the group.
        unit: positions that a channel stands for where it is made: 1, or as many as a grouped convolution, an attention
            head or a shuffle ties together.
    """

    name: str
    size: int
    prunable: bool
    reason: str
    members: tuple[Member, ...]
    unit: int = 1


@dataclass(frozen=True, eq=False)
class Plan:
    """For one model: the channels that stay, of every prunable group.

    Attributes:
        model: fingerprint of the architecture that the plan was made for.
        sizes: channels of every group before removal.
        kept: for every group the sorted indices of the channels that stay.
        importance: name of the measure that ranked the channels; for the record.
    """

    model: str
    sizes: Mapping[str, int]
    kept: Mapping[str, np.ndarray]
    importance: str = ""

    @property
    def widths(self) -> dict[str, int]:
        """Channels left in every group."""
        return {name: len(kept) for name, kept in self.kept.items()}

    @property
    def keep_ratios(self) -> dict[str, float]:
        """Achieved, not requested, keep ratio of every group."""
        return {name: len(kept) / self.sizes[name] for name, kept in self.kept.items()}


@dataclass(frozen=True)
class VariableChange:
    """Shape of one variable before and after surgery."""

    layer: str
    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class SurgeryReport:
    """What `apply_plan` did.

    Attributes:
        changes: every variable whose shape changed.
        left_alone: for every group of which nothing was removed, the reason.
        parameters_before: parameters of the model before.
        parameters_after: parameters of the model after.
        optimizer: what became of the optimiser's state: `none`, `sliced` or `reset`.
    """

    changes: tuple[VariableChange, ...]
    left_alone: Mapping[str, str]
    parameters_before: int
    parameters_after: int
    optimizer: str


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


@dataclass(frozen=True)
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
        provenance: where the figures come from: library versions, topology, clock, route.
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
    provenance: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """One scored plan: a row of the journal.

    Attributes:
        key: hash of the plan's kept channels.
        keep_ratios: achieved keep ratio of every group.
        widths: channels left in every group.
        accuracy: share of the reward split classified correctly after batch-norm recalibration; NaN on failure.
        cost: cost on the target; None on failure.
        error: why the evaluation failed; empty when it did not.
        seconds: wall time it took.
    """

    key: str
    keep_ratios: Mapping[str, float]
    widths: Mapping[str, int]
    accuracy: float
    cost: CostReport | None
    error: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the plan could not be scored."""
        return bool(self.error)


@dataclass(frozen=True)
class Budget:
    """Absolute limits that a result must meet; None is no limit.

    Attributes:
        latency: seconds per batch.
        memory: bytes of device memory in total.
    """

    latency: float | None = None
    memory: int | None = None

    def met_by(self, cost: CostReport) -> bool:
        """Whether `cost` is within every limit."""
        return self.overrun(cost) <= 0

    def overrun(self, cost: CostReport) -> float:
        """The largest relative excess over a limit: 0.1 is ten per cent too much, below 0 is room left."""
        excess = [-1.0]
        if self.latency is not None:
            excess.append(cost.latency / self.latency - 1)
        if self.memory is not None and cost.memory.total is not None:
            excess.append(cost.memory.total / self.memory - 1)
        return max(excess)
