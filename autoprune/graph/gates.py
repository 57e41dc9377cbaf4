"""Finds gates, the operands of products that say of the whole image how much of each channel counts, and their folds.

Squeeze-and-excitation: Hu et al., 2018, arXiv 1709.01507. Without its gate a product is its other operand, scaled
channel by channel by the gate's mean. That scale is folded into weights: of the layers that read the product, or else
of the layer that makes the other operand. Only what is exact counts as a fold, in training too.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autoprune.graph.trace import trace
from autoprune.graph.walk import Walk
from autoprune.layers import exact_kind_of
from autoprune.layers.common import mixes_channels
from autoprune.layers.kind import Factor
from autoprune.layers.record import Operand, Slot, Trace
from autoprune.layers.reshaping import Movement
from autoprune.layers.slicing import Reduction
from autoprune.layers.spatial import GlobalPooling, Spatial
from autoprune.models import keras_internals
from autoprune.records import Member


@dataclass(frozen=True, eq=False, kw_only=True)
class Gate:
    """A gate as an operand of a product.

    Attributes:
        node: the product.
        operand: which of its two tensors the gate is.
        inside: the calls that only the gate needs.
        walk: of the graph that has the product.
        prefix: what the paths of that graph's operations begin with.
    """

    node: Any
    operand: int
    inside: Sequence[Any]
    walk: Walk
    prefix: str

    @property
    def key(self) -> Operand:
        """The operand."""
        return id(self.node), self.operand

    @property
    def size(self) -> int:
        """How many channels it scales: it has no other axis, besides the batch, that is longer than 1."""
        return max(self.node.input_tensors[self.operand].shape[1:])

    def read_numbers(self, traced: Trace) -> np.ndarray:
        """(size,) The numbers of the channels that it scales.

        Raises:
            _CannotFold: they lie on another axis, or are not known.
        """
        found = next((call.channels[1 - self.operand] for call in traced.calls if call.node is self.node), None)
        axis = 1 + int(np.argmax(self.node.input_tensors[self.operand].shape[1:]))
        if found is None or (found.axis, len(found.ids)) != (axis, self.size):
            raise _CannotFold(f"the channels that enter '{self.node.operation.name}' cannot be followed")
        return found.ids


class _CannotFold(Exception):
    """The scale cannot go into these weights; the message says whose, and why."""


def find_gate(product: Any, walk: Walk) -> int | None:
    """Which operand of a product of two is a gate: sigmoids, one for each channel, of pooled values; None for neither.

    Args:
        product: a call that multiplies its input tensors.
        walk: the walk through the graph that it is in.
    """
    tensors = product.input_tensors
    if len(tensors) != 2 or keras_internals.has_constants(product):
        return None
    for place in (1, 0):
        gate, scaled = tensors[place], tensors[1 - place]
        whole = (tuple(scaled.shape), scaled.dtype) == (tuple(product.outputs[0].shape), product.outputs[0].dtype)
        same_axis = len(gate.shape) == len(scaled.shape) and any(
            1 < size == of_scaled for size, of_scaled in zip(gate.shape[1:], scaled.shape[1:], strict=True) if size
        )
        if whole and same_axis and _has_no_space(gate) and _ends_in_sigmoid(gate, walk) and _is_pooled(gate, walk):
            return place
    return None


def fold_gates(
    model: Any, gates: Sequence[Gate], holders: Mapping[int, Collection[str]]
) -> dict[Operand, tuple[Member, ...] | str]:
    """For each gate the axes that its mean scales; where there are none, why not, as words that follow `it`.

    Args:
        model: the model that has them.
        gates: gates, also of nested models.
        holders: by `id` of an object the paths of the operations that refer to it.
    """
    if not gates:
        return {}
    graphs = keras_internals.graphs_by_path(model).values()
    calls = Counter(id(node.operation) for graph in graphs for node in keras_internals.nodes_of(graph))
    folding = _Folding(calls, holders)
    behind = folding.into_readers(model, gates)
    if not any(isinstance(fold, str) for fold in behind.values()):
        return behind
    traced = trace(model)
    found: dict[Operand, tuple[Member, ...] | str] = {}
    for gate in gates:
        found[gate.key] = behind[gate.key]
        if isinstance(found[gate.key], str):
            try:
                found[gate.key] = folding.into_maker(gate, traced)
            except _CannotFold as refusal:
                found[gate.key] = (
                    f"has a mean that no weights can take: behind it {found[gate.key]}, before it {refusal}"
                )
    return found


@dataclass(frozen=True)
class _Folding:
    """What is asked about the layers of a model before their weights are scaled.

    Attributes:
        calls: by `id` of an operation, how often the model's graphs call it.
        holders: see `fold_gates`.
    """

    calls: Mapping[int, int]
    holders: Mapping[int, Collection[str]]

    def into_readers(self, model: Any, gates: Sequence[Gate]) -> dict[Operand, tuple[Member, ...] | str]:
        """For each gate the axes along which the layers that read the product multiply what enters, or why not."""
        found: dict[Operand, tuple[Member, ...] | str] = {}
        ahead: dict[Operand, list[Any]] = {}
        for gate in gates:
            try:
                ahead[gate.key] = _readers_ahead(gate)
            except _CannotFold as refusal:
                found[gate.key] = str(refusal)
        pending = [gate for gate in gates if gate.key in ahead]
        while pending:
            # Behind the product the channels have numbers of their own: the same ones may flow past it.
            operands = {
                gate.key: [(id(call), place) for call, place in gate.walk.readers_of(product) if call is not None]
                for gate in pending
                for product in gate.node.outputs
            }
            traced = trace(model, {operand for each in operands.values() for operand in each})
            waiting = []
            for gate in pending:
                if any(operand not in {*traced.renamed, *traced.unknown} for operand in operands[gate.key]):
                    waiting.append(gate)  # Numbers of another gate's are in the way.
                    continue
                try:
                    found[gate.key] = tuple(self._read(gate, traced, ahead[gate.key], operands[gate.key]))
                except _CannotFold as refusal:
                    found[gate.key] = str(refusal)
            if len(waiting) == len(pending):
                raise RuntimeError(f"No number is free behind {[gate.node.operation.name for gate in waiting]}.")
            pending = waiting
        return found

    def _read(self, gate: Gate, traced: Trace, readers: Sequence[Any], operands: Sequence[Operand]) -> Iterator[Member]:
        """The axes of the readers of a gate's product."""
        gate.read_numbers(traced)
        for layer in readers:
            kind = exact_kind_of(layer)
            for slot in self._slots(gate, traced, layer, () if kind is None else kind.input_factors(layer)):
                channels = np.full(len(slot.ids), -1)
                for operand in operands:
                    numbers = traced.renamed.get(operand, np.zeros(0, int))
                    own = np.isin(slot.ids, numbers)
                    channels[own] = np.searchsorted(numbers, slot.ids[own])
                if traced.unknown & set(operands) or len(np.unique(channels[channels >= 0])) < gate.size:
                    raise _CannotFold(f"its channels cannot be followed into '{layer.name}'")
                yield Member(slot.layer, slot.name, slot.axis, slot.role, channels)

    def into_maker(self, gate: Gate, traced: Trace) -> tuple[Member, ...]:
        """The axes along which the layer that makes the other operand multiplies what it gives.

        Raises:
            _CannotFold: saying why not.
        """
        tensor, moved = gate.node.input_tensors[1 - gate.operand], False
        allowed = {id(gate.node), *map(id, gate.inside)}
        while True:
            # What others read is not to be scaled.
            others = [call for call, _ in gate.walk.readers_of(tensor) if id(call) not in allowed]
            if others:
                name = "an output of the model" if others[0] is None else f"'{others[0].operation.name}'"
                raise _CannotFold(f"{name} reads the same")
            maker = gate.walk.maker_of(tensor)
            layer, kind = maker.operation, None if maker.is_input else exact_kind_of(maker.operation)
            if kind is not None and kind.output_factors(layer):
                break
            if kind is None or len(maker.input_tensors) != 1 or not kind.is_homogeneous(layer):
                raise _CannotFold(f"'{layer.name}' makes it")
            moved = moved or isinstance(kind, Movement)
            allowed.add(id(maker))
            (tensor,) = maker.input_tensors
        numbers = gate.read_numbers(traced)
        # Where numbers repeat, as behind a grouped convolution, their order alone says which is which.
        distinct = len(np.unique(numbers)) == gate.size
        members = []
        for slot in self._slots(gate, traced, layer, kind.output_factors(layer)):
            if not np.array_equal(slot.ids, numbers) or (moved and not distinct):
                raise _CannotFold(f"its channels cannot be followed from '{layer.name}'")
            members.append(Member(slot.layer, slot.name, slot.axis, slot.role, np.arange(gate.size)))
        return tuple(members)

    def _slots(self, gate: Gate, traced: Trace, layer: Any, factors: Sequence[Factor]) -> Iterator[Slot]:
        """The traced axes of a layer that are its factors, each of a variable that is nobody else's."""
        path = gate.prefix + layer.name
        if self.calls[id(layer)] != 1:
            raise _CannotFold(f"'{layer.name}' is called several times")
        for name, axis in factors:
            variable = keras_internals.layer_variable(layer, name)
            used = [user for value, user in traced.used if value is variable]
            others = {user for user in (*used, *self.holders.get(id(variable), ())) if user != path}
            if others:
                raise _CannotFold(f"'{min(others)}' uses the {name} of '{layer.name}' too")
            axis %= len(keras_internals.shape_of(variable))
            slots = [slot for slot in traced.slots if (slot.layer, slot.name, slot.axis) == (path, name, axis)]
            if len(slots) != 1:
                raise _CannotFold(f"the channels of '{layer.name}' cannot be followed")
            yield slots[0]


def _readers_ahead(gate: Gate) -> list[Any]:
    """The layers that read the product and can take a scale of it, by themselves or behind what hands the scale on.

    Raises:
        _CannotFold: there is a reader that cannot, or none.
    """
    pending = list(gate.node.outputs)
    readers: dict[int, Any] = {}
    seen: set[int] = set()
    for tensor in pending:
        for call, _ in gate.walk.readers_of(tensor):
            if call is None:
                raise _CannotFold("is an output of the model")
            kind = exact_kind_of(call.operation)
            if kind is not None and kind.input_factors(call.operation):
                readers[id(call.operation)] = call.operation
            elif kind is None or not kind.is_homogeneous(call.operation):
                raise _CannotFold(f"'{call.operation.name}' reads it")
            elif id(call) not in seen:
                seen.add(id(call))
                pending += call.outputs
    return list(readers.values())


def _has_no_space(tensor: Any) -> bool:
    """Whether a tensor varies along one axis at most besides the batch, by its shape."""
    return sum(size != 1 for size in tensor.shape[1:]) <= 1 and None not in tensor.shape[1:]


def _is_pooled(tensor: Any, walk: Walk) -> bool:
    """Whether a tensor without space is made of nothing but pooled values."""
    pending, seen = [tensor], set()
    for each in pending:
        maker = walk.maker_of(each)
        if maker.is_input or isinstance(maker.operation, keras.layers.InputLayer):
            return False
        if id(maker) in seen:
            continue
        seen.add(id(maker))
        spread = [entering for entering in maker.input_tensors if not _has_no_space(entering)]
        if spread and not isinstance(exact_kind_of(maker.operation), (GlobalPooling, Spatial, Reduction)):
            return False
        pending += [] if spread else maker.input_tensors
    return True


def _ends_in_sigmoid(tensor: Any, walk: Walk) -> bool:
    """Whether the last that is done to the numbers of a tensor is a sigmoid, or a hard one."""
    while True:
        maker = walk.maker_of(tensor)
        if _is_sigmoid(maker, walk):
            return True
        kind = None if maker.is_input else exact_kind_of(maker.operation)
        if kind is None or kind.output_factors(maker.operation) or not kind.is_homogeneous(maker.operation):
            return False
        if len(maker.input_tensors) != 1 or keras_internals.has_constants(maker):
            return False
        (tensor,) = maker.input_tensors


def _is_sigmoid(call: Any, walk: Walk) -> bool:
    operation = call.operation
    raw = keras_internals.raw_operation_name(operation)
    if raw in ("HardSigmoid", "Sigmoid"):
        return True
    if raw not in ("Divide", "Multiply", "TrueDivide"):
        activation = getattr(operation, "activation", None)
        activation = getattr(activation, "activation", activation)
        return getattr(activation, "__name__", "") in ("hard_sigmoid", "sigmoid") and not mixes_channels(activation)
    # A hard sigmoid layer by layer: relu6(x + 3) / 6.
    args, kwargs = keras_internals.arguments_of(call)
    numbers = [value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, (int, float))]
    if len(call.input_tensors) != 1 or len(numbers) != 1:
        return False
    scale = numbers[0] if raw == "Multiply" else 1 / (numbers[0] or np.inf)
    maker = walk.maker_of(call.input_tensors[0])
    clips = keras_internals.raw_operation_name(maker.operation) == "Relu6" or (
        isinstance(maker.operation, keras.layers.ReLU) and maker.operation.max_value == 6
    )
    return clips and abs(6 * scale - 1) < 1e-3
