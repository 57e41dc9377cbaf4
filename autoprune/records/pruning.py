"""What can be removed from a model, what a plan keeps of it, and what surgery did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from autoprune.errors import PlanError

Role = Literal["produces", "follows", "consumes", "counts", "per_channel"]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one variable (or one attribute of a layer) that is as long as its group has channels.

    Attributes:
        layer: path of the operation in the model, such as `backbone/conv1`.
        name: the variable (`kernel`) or, for the roles `counts` and `per_channel`, the attribute (`filters`).
        axis: the axis of the variable. For the role `counts`, the position in an attribute that is a tuple, or -1 for
            a plain integer.
        role: `produces` (the channels are made here: the output axis of a kernel), `follows` (parameters per
            channel: batch norm, bias, depthwise kernel), `consumes` (the input axis of a kernel), `counts` (an
            attribute that is the number of positions), `per_channel` (an attribute with a value for each position).
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
        return self.role in ("counts", "per_channel")


@dataclass(frozen=True, eq=False, kw_only=True)
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
        members: every axis that shrinks with the group; none for a layer that is left whole because nothing is known
            of its inside, whose `size` is that of the last axis of its output.
        unit: positions that a channel stands for where it is made: 1, or as many as a grouped convolution, an attention
            head or a shuffle ties together.
    """

    name: str
    size: int
    prunable: bool
    reason: str
    members: tuple[Member, ...] = field(repr=False)
    unit: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Branch:
    """An operand of a sum, concatenation or product, with all that only it needs: a block's residual function, say.

    Attributes:
        name: what the paths of its layers begin with, such as `stage1_block2`; else its merge and operand, such as
            `mixed0[2]`.
        kind: `sum`, to which it adds nothing once removed; `concatenation`, behind which its channels are missing; or
            `gate`, of a product, which its mean over some images replaces (`Plan.gate_means`).
        merge: path of the operation that it ends in.
        shape: of what the merge gives, without the batch.
        call: which of that operation's calls in the model, from 0.
        operand: which of the call's input tensors, from 0.
        needed: operands of the call of which one has to stay.
        layers: paths of the layers that leave with it, in data-flow order.
        operations: the same with raw operations among them.
        groups: names of the channel groups that leave with it.
        removable: whether the model is valid without it.
        reason: why not; empty when removable.
        members: of a concatenation's branch, every axis behind it that loses positions: those that are not -1.
        folds: of a gate, every axis that its mean scales, with the gate's channel at each position, or -1.
    """

    name: str
    kind: Literal["sum", "concatenation", "gate"]
    merge: str
    shape: tuple[int | None, ...]
    call: int
    operand: int
    needed: tuple[int, ...]
    layers: tuple[str, ...]
    operations: tuple[str, ...] = field(repr=False)
    groups: tuple[str, ...]
    removable: bool
    reason: str
    members: tuple[Member, ...] = field(default=(), repr=False)
    folds: tuple[Member, ...] = field(default=(), repr=False)

    @property
    def by_default(self) -> bool:
        """Whether a search may drop it that is told no names: gates have to be named."""
        return self.removable and self.kind != "gate"


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """For one model: the channels that stay, of every prunable group, and the branches that go.

    Attributes:
        model: fingerprint of the architecture that the plan was made for.
        sizes: channels of every group before removal.
        kept: for every group that does not leave with a branch, the sorted indices of the channels that stay.
        dropped: names of the branches that go, in data-flow order.
        importance: name of the measure that ranked the channels; for the record.
        left_whole: for groups that should have lost channels and have no legal width for it, why; likewise.
        gate_means: by name of every gate among the branches that go, (channels,) what replaces it: its mean over some
            images, of all channels, those that go included.
    """

    model: str
    sizes: Mapping[str, int]
    kept: Mapping[str, np.ndarray]
    dropped: tuple[str, ...] = ()
    importance: str = ""
    left_whole: Mapping[str, str] = field(default_factory=dict)
    gate_means: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        widths = [f"{name} {width} of {self.sizes[name]}" for name, width in self.widths.items()]
        shown = f"{', '.join(widths[:6])}{f', and {len(widths) - 6} more' if len(widths) > 6 else ''}"
        return f"Plan({shown}{''.join(f', without {name}' for name in self.dropped)})"

    @property
    def widths(self) -> dict[str, int]:
        """Channels left in every group."""
        return {name: len(kept) for name, kept in self.kept.items()}

    @property
    def keep_ratios(self) -> dict[str, float]:
        """Achieved, not requested, keep ratio of every group."""
        return {name: len(kept) / self.sizes[name] for name, kept in self.kept.items()}

    @property
    def pruned(self) -> set[str]:
        """Names of the groups that lose channels and of the branches that go; empty for the dense model."""
        return {name for name, kept in self.kept.items() if len(kept) < self.sizes[name]} | set(self.dropped)

    def check_indices(self) -> None:
        """Refuse indices that are unsorted, repeated, out of range or none.

        Raises:
            PlanError: naming the group.
        """
        for name, kept in self.kept.items():
            if name not in self.sizes:
                raise PlanError(f"A plan has the size of every group. There is none for group '{name}'.")
            size = self.sizes[name]
            if not isinstance(kept, np.ndarray) or kept.ndim != 1:
                raise PlanError(
                    f"Kept indices are a one-dimensional array. Received for group '{name}': {str(kept)[:60]}"
                )
            if len(kept) == 0:
                raise PlanError(f"A plan keeps at least one channel of every group. Group '{name}' keeps none.")
            if kept.dtype.kind not in "iu":
                raise PlanError(f"Kept indices are integers. Received for group '{name}': {kept[:8].tolist()}")
            if kept[0] < 0 or kept[-1] >= size or (np.diff(kept) <= 0).any():
                raise PlanError(
                    f"Kept indices are sorted, distinct and between 0 and {size - 1}. "
                    f"Received for group '{name}': {kept[:8].tolist()}{'...' if len(kept) > 8 else ''}"
                )


@dataclass(frozen=True)
class VariableChange:
    """Shape of one variable before and after surgery."""

    layer: str
    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SurgeryReport:
    """What `apply_plan` did.

    Attributes:
        changes: every variable whose shape changed.
        dropped: names of the branches that are gone.
        left_alone: for every group of which nothing was removed, the reason.
        parameters_before: parameters of the model before.
        parameters_after: parameters of the model after.
        optimizer: what became of the optimiser's state: `none`, `sliced` or `reset`.
        saved_as_plain: paths of the models of a class of their own, nested ones included, that Keras saves and clones
            as plain Functional or Sequential models from now on: their constructors would build the old widths. They
            keep their methods and attributes here; the saved file knows neither.
        lost_elsewhere: layers at which other models, over layers or tensors of this one, do not fit any more: with
            weights for channels that are gone, or cut and reading channels that are whole there.
    """

    changes: tuple[VariableChange, ...] = field(repr=False)
    left_alone: Mapping[str, str] = field(repr=False)
    parameters_before: int
    parameters_after: int
    optimizer: str
    dropped: tuple[str, ...] = ()
    saved_as_plain: tuple[str, ...] = ()
    lost_elsewhere: tuple[str, ...] = ()
