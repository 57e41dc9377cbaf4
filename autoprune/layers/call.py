"""One call of a layer, as its kind sees it: what enters, and where the kind notes what follows from it."""

from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np

from autoprune.layers.channels import Channels
from autoprune.layers.record import Slot, Trace, Whole
from autoprune.models import keras_internals
from autoprune.records import Role


class Call:
    """One call of one operation, as `LayerKind.channels` sees it.

    That method reads the inputs' channels, declares which axes of the layer's variables carry which channels, and
    returns the channels of the output. `None` among the inputs means a tensor nothing of which can be removed.

    Attributes:
        operation: the layer or raw operation.
        path: its path in the model.
        inputs: symbolic input tensors.
        outputs: symbolic output tensors.
        channels: for each input its `Channels` or None.
        args: positional arguments of the call, symbolic tensors included.
        kwargs: keyword arguments likewise.
        node: the call as Keras recorded it.
    """

    def __init__(
        self,
        trace: Trace,
        node: Any,
        path: str,
        channels: Sequence[Channels | None],
        operation: Any = None,
        bound_keys: set[tuple[Any, ...]] | None = None,
    ) -> None:
        self.operation = node.operation if operation is None else operation
        self.path = path
        self.inputs = list(node.input_tensors)
        self.outputs = list(node.outputs)
        self.channels = list(channels)
        self.args, self.kwargs = keras_internals.arguments_of(node)
        self._trace = trace
        self.node = node
        # What this call and those within it have bound.
        self.bound_keys: set[tuple[Any, ...]] = set() if bound_keys is None else bound_keys
        self._why_whole = ""

    def within(self, layer: Any, channels: Sequence[Channels | None] | None = None) -> Self:
        """The call that this layer makes of a layer of its own, for wrappers and composed layers.

        Args:
            layer: a sub-layer.
            channels: what enters it; by default what enters this call.

        Returns:
            A `Call` whose `inputs` are this call's; set them when the sub-layer sees other shapes.
        """
        channels = self.channels if channels is None else channels
        return type(self)(self._trace, self.node, f"{self.path}/{layer.name}", channels, layer, self.bound_keys)

    @property
    def tracked(self) -> list[Channels]:
        """The inputs' channels that are known."""
        return [channels for channels in self.channels if channels is not None]

    @property
    def constants(self) -> list[Any]:
        """Arrays, and variables of other layers, among the arguments, at any depth; plain numbers are none."""
        found = keras.tree.flatten((self.args, self.kwargs))
        return [v for v in found if not isinstance(v, keras.KerasTensor) and len(getattr(v, "shape", ())) > 0]

    def new(self, size: int) -> np.ndarray:
        """Numbers for channels that this call makes."""
        return self._trace.table.new(size)

    def equate(self, first: np.ndarray, second: np.ndarray) -> None:
        """Declare that two runs of channels can only be removed together."""
        self._trace.table.equate(first, second)

    def freeze(self, reason: str, ids: np.ndarray | None = None) -> None:
        """Declare that `ids` (by default every input's channels) cannot be removed."""
        runs = [channels.ids for channels in self.tracked] if ids is None else [ids]
        for run in runs:
            self._trace.table.freeze(run, reason)

    def leave_whole(self, why: str) -> None:
        """Declare that nothing of the operation can be removed, nor of what enters it or what it shares with others.

        Args:
            why: what keeps it from being followed, such as `has LoRA weights`; a layer with parameters is listed among
                the channel groups with it.
        """
        kind = type(self.operation).__name__
        self._why_whole = why
        self.freeze(f"enters '{self.path}' ({kind}), which {why}")
        if isinstance(self.operation, keras.Layer) and keras_internals.has_parameters(self.operation):
            whole = Whole(
                self.path, self.outputs[0].shape[-1] or 0, f"is a layer ({kind}) that {why}", len(self._trace.slots)
            )
            self._trace.whole.setdefault(id(self.operation), whole)

    def describe_sharing(self) -> str:
        """The call as one that shares what it does not follow, for reasons."""
        if self._why_whole:
            return f"'{self.path}' ({type(self.operation).__name__}), which {self._why_whole}"
        return f"a call of '{self.path}' on fixed channels"

    def new_fixed(self, size: int, reason: str) -> np.ndarray:
        """Numbers for channels that can never be removed."""
        ids = self.new(size)
        self.freeze(reason, ids)
        return ids

    def bind(self, variable: str, axis: int, role: Role, ids: np.ndarray | None = None, width: int = 1) -> np.ndarray:
        """Declare that an axis of one of the layer's variables carries `ids`, or new channels when None.

        A variable that is bound again, by a second call of a shared layer or through another layer that holds the
        same variable, couples the channels of both calls.

        Args:
            variable: name of the variable, such as `kernel`.
            axis: its axis; negative from the end.
            role: what the axis does, see `records.Member`.
            ids: the channels, as many as the axis is long.
            width: features that each position stands for: the size of an attention head.

        Returns:
            The numbers along that axis.
        """
        keras_variable = keras_internals.layer_variable(self.operation, variable)
        shape = keras_internals.shape_of(keras_variable)
        axis %= len(shape)
        size = shape[axis]
        if ids is None:
            ids = self.new(size)
        elif len(ids) != size:
            # Some channels have been lost count of: neither those nor these can be removed.
            reason = f"enters '{self.path}' with other channels, which cannot be told apart in its {variable}"
            self.freeze(reason, ids)
            ids = self.new_fixed(size, reason)
        stored = keras_internals.storage(keras_variable)
        return self._carry((keras_variable, stored), (axis,), Slot(self.path, variable, axis, role, ids, width))

    def channels_on(self, variable: str, axis: int) -> np.ndarray | None:
        """Numbers that an axis of one of the layer's variables has been bound to, or None."""
        keras_variable = keras_internals.layer_variable(self.operation, variable)
        axis %= len(keras_internals.shape_of(keras_variable))
        slot = self._trace.carried.get((id(keras_variable), axis))
        return None if slot is None else slot.ids

    def bind_attribute(
        self, attribute: str, ids: np.ndarray, position: int = -1, axis_ids: np.ndarray | None = None
    ) -> None:
        """Declare that an attribute of the layer holds the number of these channels.

        Args:
            attribute: name of an integer attribute, or of a tuple.
            ids: the channels it counts.
            position: index into the tuple; -1 for a plain integer.
            axis_ids: all channels of the axis, where the attribute counts only some of them.
        """
        slot = Slot(self.path, attribute, position, "counts", ids, axis_ids=axis_ids)
        self._carry((self.operation,), (attribute, position), slot)

    def bind_values(self, attribute: str, axis: int, ids: np.ndarray) -> None:
        """Declare that an attribute of the layer holds a value for each of these channels along an axis.

        Args:
            attribute: name of an attribute that is a list, a tuple or an array.
            axis: its axis; negative from the end.
            ids: the channels, as many as the axis is long.
        """
        axis %= np.ndim(getattr(self.operation, attribute))
        self._carry((self.operation,), (attribute, axis), Slot(self.path, attribute, axis, "per_channel", ids))

    def _carry(self, owners: tuple[Any, ...], place: tuple[Any, ...], slot: Slot) -> np.ndarray:
        """Note a slot the first time; couple its channels with the first ones after that.

        Args:
            owners: the variable or operation that it is of, and by what else that is known.
            place: axis of a variable, or attribute and position.
            slot: for the owner at that place.
        """
        key = (id(owners[0]), *place)
        self.bound_keys.add(key)
        for owner in owners:
            self._trace.carried_by.setdefault(id(owner), set()).add(key)
        known = self._trace.carried.get(key)
        if known is None:
            self._trace.carried[key] = slot
            self._trace.slots.append(slot)
            return slot.ids
        if len(known.ids) == len(slot.ids):
            self.equate(known.ids, slot.ids)
        else:
            for ids in (known.ids, slot.ids):
                self.freeze(f"is counted by '{slot.name}' of '{self.path}' together with others", ids)
        return known.ids
