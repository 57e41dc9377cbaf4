"""Pruning with feedback: channels go while the network learns, and those that turn out to be needed come back.

Lin et al., 2020 (arXiv 2006.07253), for whole channels. Masked are the weights that read a channel. The gradient taken
there changes the weights as they are without the mask, so that what reads a masked channel goes on learning: where the
channel is needed it grows, and the channel comes back. Which ones are masked is chosen anew every few steps, by the
length of what reads them. In the end they are removed, which changes nothing where channels are normalised one by one,
as in batch norm; layers that normalise them together then have other statistics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from autoprune.models import keras_internals
from autoprune.records import ChannelGroup, Plan

EVERY = 16  # Steps between two choices of the channels, as in the paper.


class Feedback:
    """Chooses, while a network is trained, which channels stay of the groups that a plan cuts: as many as it says.

    Args:
        model: pruned by none of the widths of the plan.
        groups: its channel groups.
        plan: says how many channels stay.
    """

    def __init__(self, model: Any, groups: Sequence[ChannelGroup], plan: Plan) -> None:
        self._model = model
        self._plan = plan
        self._groups = [g for g in groups if len(plan.kept.get(g.name, ())) < g.size and g.name in plan.kept]
        self._network: MaskedNetwork | None = None

    def make_network(self, network: Any, steps: int) -> "MaskedNetwork":
        """What is trained in the place of a network of the model's variables, for so many steps."""
        widths = {group.name: len(self._plan.kept[group.name]) for group in self._groups}
        self._network = MaskedNetwork(self._model, network, self._groups, widths, steps)
        return self._network

    @property
    def plan(self) -> Plan:
        """The plan, with the channels that training has chosen; with its own until the training has ended."""
        chosen = {} if self._network is None else self._network.remaining_channels()
        kept = {
            name: chosen[name] if len(chosen.get(name, ())) == len(kept) else kept
            for name, kept in self._plan.kept.items()
        }
        return replace(self._plan, kept=kept)


class MaskedNetwork(keras.Model):
    """A network that computes without its masked channels, and whose weights learn as if they were all there.

    A forward pass in training is a step. The masks are its variables, so that whatever keeps or restores its weights
    keeps them too.

    Args:
        model: has the layers.
        network: the model, or another of its variables, in the same order.
        groups: those that lose channels.
        widths: by name, channels that stay in the end, 1 or more.
        steps: in all. The last choice, of as many channels as stay, is made in the last of them.

    Attributes:
        masks: by group, (channels,) 1 for those that are there and 0 for those that are masked.
    """

    def __init__(
        self, model: Any, network: Any, groups: Sequence[ChannelGroup], widths: Mapping[str, int], steps: int
    ) -> None:
        super().__init__(name="masked_network", dtype="float32")
        self.network = network
        network.built = True  # It has all of its variables, and may not have been called yet.
        self._groups, self._widths, self._last = list(groups), dict(widths), max(steps, 1) - 1
        self._step = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="step")
        self.masks = {
            group.name: self.add_weight(shape=(group.size,), initializer="ones", trainable=False, name=f"mask_{number}")
            for number, group in enumerate(self._groups)
        }
        members = [(g, m) for g in self._groups for m in g.members if m.role == "consumes"]
        operations = keras_internals.operations_by_path(model)
        variables = keras_internals.variables_at(operations, [(m.layer, m.name) for _, m in members])
        # By `id` of a variable that reads channels, the group of an axis and the channel of each of its positions.
        self._axes: dict[int, list[tuple[str, int, np.ndarray]]] = {}
        self._readers: dict[str, list[tuple[Any, int, np.ndarray]]] = {group.name: [] for group in self._groups}
        for (group, member), variable in zip(members, variables, strict=True):
            # Of positions that belong to other groups, the one behind the last channel.
            channels = np.where(member.channels < 0, group.size, member.channels)
            self._axes.setdefault(id(variable), []).append((group.name, member.axis, channels))
            self._readers[group.name].append((variable, member.axis, channels))

    def call(self, images: Any, training: bool | None = None) -> Any:
        """The network's outputs of images, at the masked weights."""
        if training:
            self._choose()
        others = self.network.non_trainable_variables
        state = [list(map(self._mask, variables)) for variables in (self.network.trainable_variables, others)]
        outputs, after, losses = self.network.stateless_call(*state, images, training=training, return_losses=True)
        if training:
            for variable, value in zip(others, after, strict=True):
                if id(variable) not in self._axes:  # a frozen kernel
                    variable.assign(value)
        # Those of the weights are losses of this model too: they are its own.
        regularised = sum(variable.regularizer is not None for variable in self.network.trainable_variables)
        for loss in losses[: len(losses) - regularised]:
            self.add_loss(loss)
        return outputs

    def remaining_channels(self) -> dict[str, np.ndarray]:
        """By group, the sorted channels that are not masked."""
        return {name: np.flatnonzero(keras.ops.convert_to_numpy(mask)) for name, mask in self.masks.items()}

    def _mask(self, variable: Any) -> Any:
        """The value of a variable at the masks, with the gradient that it would have without."""
        value = masked = variable.value
        for name, axis, channels in self._axes.get(id(variable), ()):
            mask = keras.ops.concatenate([self.masks[name].value, keras.ops.ones(1)])
            along = [1] * len(value.shape)
            along[axis] = -1
            factor = keras.ops.reshape(keras.ops.take(mask, channels), along)
            masked = masked * keras.ops.cast(factor, masked.dtype)
        return value if masked is value else value + keras.ops.stop_gradient(masked - value)

    def _choose(self) -> None:
        """Every few steps: of every group, mask those whose readers' weights are shortest, as many as it is time for.

        The share that goes rises as s(t) = 1 - (1 - t / end)^3 (Zhu & Gupta, 2017, arXiv 1710.01878).
        """
        step, last = self._step.value, self._last
        share = keras.ops.minimum(keras.ops.cast(step, "float32") / max(last, 1), 1.0) if last else 1.0
        gone = 1.0 - (1.0 - share) ** 3
        due = (step <= last) & ((step % EVERY == 0) | (step == last))
        for group in self._groups:
            squares = keras.ops.zeros(group.size + 1)
            for variable, axis, channels in self._readers[group.name]:
                others = [place for place in range(len(variable.shape)) if place != axis]
                each = keras.ops.sum(keras.ops.square(keras.ops.cast(variable.value, "float32")), axis=others)
                squares = squares + keras.ops.segment_sum(each, channels, num_segments=group.size + 1)
            rank = keras.ops.argsort(keras.ops.argsort(-squares[:-1]))
            leaving = keras.ops.round(gone * (group.size - self._widths[group.name]))
            chosen = keras.ops.cast(keras.ops.cast(rank, "float32") < group.size - leaving, "float32")
            mask = self.masks[group.name]
            mask.assign(keras.ops.where(due, chosen, mask.value))
        self._step.assign(step + 1)
