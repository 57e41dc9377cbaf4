"""A model's branches as parts of a trace that run or not, as a flag says when it runs.

One trace serves every set of dropped branches: whatever only a branch needs is within a condition that TensorFlow
evaluates when the trace runs, together with the merge that the branch ends in. Without it the merge is left out too, as
surgery does it, and no time is spent on either.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from autoprune.graph.branches import find_merge
from autoprune.graph.walk import Walk
from autoprune.models import keras_internals
from autoprune.records import Branch

# By `id` of the symbolic tensor.
Values = dict[int, tf.Tensor]
Run = Callable[[], tf.Tensor]


@dataclass(frozen=True)
class _Optional:
    """An operand that may be dropped: its flag's number, whether order is nothing to its merge, calls that it needs."""

    number: int
    any_order: bool
    calls: tuple[Any, ...]


class OptionalBranches:
    """The branches of a model that may be dropped.

    Args:
        model: with all of its connections.
        branches: its branches; those that cannot be removed always run.
    """

    def __init__(self, model: Any, branches: Sequence[Branch]) -> None:
        self._model = model
        self._graphs = keras_internals.graphs_by_path(model)
        self._trained = {id(variable) for variable in model.trainable_variables}
        self._at: dict[int, dict[int, _Optional]] = defaultdict(dict)
        # Of each branch the graph and the call that its merge reads.
        self._last: list[tuple[str, int]] = []
        walks = {prefix: Walk(graph) for prefix, graph in self._graphs.items()}
        for branch in (branch for branch in branches if branch.removable):
            prefix, merge = find_merge(self._graphs, branch)
            calls, any_order = walks[prefix].calls_within(merge, branch.operand), branch.kind != "concatenation"
            self._at[id(merge)][branch.operand] = _Optional(len(self._last), any_order, tuple(calls))
            self._last.append((prefix, id(calls[-1])))

    def flags(self) -> np.ndarray:
        """(branches,) whether the model has each of them now; of what is within another, this alone does not say."""
        present = {
            prefix: {id(node) for node in keras_internals.nodes_of(self._graphs[prefix])} for prefix in dict(self._last)
        }
        return np.array([call in present[prefix] for prefix, call in self._last], bool)

    @contextmanager
    def holding(self, flags: tf.Tensor) -> Iterator[None]:
        """Within the block the model, which has all of its branches, runs those alone whose flag is set.

        Raises:
            RuntimeError: it lacks a branch.
        """
        if not self.flags().all():
            raise RuntimeError("A network is traced with all of its branches.")
        each = [flags[number] for number in range(len(self._last))]
        graphs = [self._graphs[prefix] for prefix in dict(self._last)]
        runs = {graph: partial(self._run, keras_internals.nodes_of(graph), each) for graph in graphs}
        with keras_internals.running(runs):
            yield

    def _run(
        self, calls: Sequence[Any], flags: Sequence[tf.Tensor], values: Values, run_call: keras_internals.RunCall
    ) -> None:
        """Add what these calls of a graph give to the values."""
        _Run(self._at, flags, run_call, self._choose).run(calls, values)

    def _choose(self, flag: tf.Tensor, run: Run, otherwise: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """A condition, from which comes whatever its running has changed.

        Args:
            flag: whether to run.
            run: gives the result.
            otherwise: gives it where that does not run; gets the other one, for its shape and type.

        Raises:
            TypeError: a weight that is trained changes when a layer runs: no gradient would get to it.
        """
        changes = keras_internals.ChangesWithin()
        made: list[tf.Tensor] = []

        def run_branch() -> list[list[tf.Tensor]]:
            with changes.scope:
                made.append(run())
            if self._trained & set(changes.changed):
                raise TypeError("A layer of a branch changes its own weights when it runs.")
            return [_with_mask(made[-1]), changes.values(), changes.scope.losses]

        def skip_branch() -> list[list[tf.Tensor]]:
            losses = [tf.zeros(loss.shape, loss.dtype) for loss in changes.scope.losses]
            return [_with_mask(otherwise(made[-1])), changes.values(outside=True), losses]

        (result, *masks), values, losses = tf.cond(flag, run_branch, skip_branch)
        changes.bring_out(self._model, values, losses)
        if masks:
            keras_internals.attach_mask(result, masks[0])
        return result


@dataclass(frozen=True)
class _SoFar:
    """What a merge gives of the operands so far, and whether there is any; None where there always is."""

    value: tf.Tensor
    flag: tf.Tensor | None


@dataclass(frozen=True)
class _Run:
    """One run of a graph.

    Attributes:
        at: the operands that may be dropped, by `id` of the merging call and place.
        flags: one for each branch.
        run_call: runs one call.
        choose: see `OptionalBranches`.
    """

    at: Mapping[int, Mapping[int, _Optional]]
    flags: Sequence[tf.Tensor]
    run_call: keras_internals.RunCall
    choose: Callable[[tf.Tensor, Run, Callable[[tf.Tensor], tf.Tensor]], tf.Tensor]

    def run(self, calls: Sequence[Any], values: Values) -> None:
        """Add what these calls give to the values; calls of branches that end in one of them run there."""
        optional = [operand for call in calls for operand in self.at.get(id(call), {}).values()]
        within = {id(call) for operand in optional for call in operand.calls}
        for call in calls:
            if call.is_input or id(call) in within:
                continue
            if id(call) in self.at:
                outputs = [self._merge(call, values)]
            else:
                outputs = self.run_call(call, [values[id(tensor)] for tensor in call.input_tensors])
            values.update(zip(map(id, call.outputs), outputs, strict=True))

    def _merge(self, merge: Any, values: Values) -> tf.Tensor:
        """What a merge gives, operand by operand: the first, that and the second, and so on."""
        optional = self.at[id(merge)]
        places: Sequence[int] = range(len(merge.input_tensors))
        if all(operand.any_order for operand in optional.values()):
            # In any order: after one that is always there, an operand needs one condition alone.
            places = sorted(places, key=optional.__contains__)
        first, *others = places
        operand = optional.get(first)
        if operand is None:
            so_far = _SoFar(values[id(merge.input_tensors[first])], None)
        else:
            flag = self.flags[operand.number]
            so_far = _SoFar(self.choose(flag, partial(self._operand, merge, first, values), _nothing_like), flag)
        for place in others:
            so_far = self._add(so_far, merge, first, place, values)
        return so_far.value

    def _add(self, so_far: _SoFar, merge: Any, first: int, place: int, values: Values) -> _SoFar:
        def join() -> tf.Tensor:
            """That and the operand; the operand alone where there is nothing so far."""
            value = self._operand(merge, place, values)

            def run_merge() -> tf.Tensor:
                tensors = [keras_internals.LEFT_OUT] * len(merge.input_tensors)
                tensors[first], tensors[place] = so_far.value, value
                return self.run_call(merge, tensors)[0]

            return run_merge() if so_far.flag is None else self.choose(so_far.flag, run_merge, lambda _: value)

        operand = self.at[id(merge)].get(place)
        if operand is None:
            return _SoFar(join(), None)
        flag = self.flags[operand.number]
        result = self.choose(flag, join, lambda _: so_far.value)
        return _SoFar(result, None if so_far.flag is None else so_far.flag | flag)

    def _operand(self, merge: Any, place: int, values: Values) -> tf.Tensor:
        """The value of an operand; of an optional one its calls run here, and leave no values elsewhere."""
        operand = self.at[id(merge)].get(place)
        if operand is not None:
            values = dict(values)
            self.run(operand.calls, values)
        return values[id(merge.input_tensors[place])]


def _with_mask(tensor: tf.Tensor) -> list[tf.Tensor]:
    mask = keras_internals.mask_of(tensor)
    return [tensor] if mask is None else [tensor, mask]


def _nothing_like(tensor: tf.Tensor) -> tf.Tensor:
    """A tensor without elements, of what shape another is known to have."""
    result = tf.zeros([0 if size is None else size for size in tensor.shape], tensor.dtype)
    mask = keras_internals.mask_of(tensor)
    if mask is not None:
        keras_internals.attach_mask(result, tf.zeros([0 if size is None else size for size in mask.shape], mask.dtype))
    return result
