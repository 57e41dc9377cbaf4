"""The dense network with a gate for every option of the search space, which gradients reach.

A gate weighs the channels that its option has more than the one before, wherever they are read: it scales the rows of
the kernels that read them, so that a gate of 0 gives what surgery would leave. The gate of a branch weighs the operand
of the merge. Values of variables are arguments of what is traced: training goes on beside the model, of which nothing
is written.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autoprune.data import Split
from autoprune.evaluation.traced import BETAS, Values, step_of_adam
from autoprune.graph.branches import find_merge
from autoprune.models import keras_internals
from autoprune.models.outputs import join
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.planning import Planner
from autoprune.tasks import Judge

BATCH = 64  # Images of a step.
RATE = 1e-3  # Of Adam, for the weights.


class GatedNetwork:
    """A copy of a network's variables that is trained with gates; see `autoprune.searchers.budgeted.Relaxation`.

    Args:
        model: the dense model, with one input. It must not change while this lives.
        planner: has its groups, branches and search space.
        weights: images and labels that weights are trained on.
        gates: those that gates are.
        seed: seed of the order of the images.
    """

    def __init__(self, model: Any, planner: Planner, weights: Split, gates: Split, seed: int) -> None:
        self._model = model
        self._loss = Judge(weights.task, model).loss()
        self._trained, self._others = model.trainable_variables, model.non_trainable_variables
        values = keras_internals.values_of([*self._trained, *self._others])
        self._values: tuple[Values, Values] = values[: len(self._trained)], values[len(self._trained) :]
        self._moments = [[tf.zeros_like(value) for value in self._values[0]] for _ in BETAS]
        self._steps = 0
        self._gating = _Gating(model, planner)
        self._splits = weights, gates
        first, second = np.random.default_rng(seed).spawn(2)
        self._orders = _batches(len(weights), first), _batches(len(gates), second)
        self._train = tf.function(self._trace_training, autograph=False, jit_compile=False)
        self._slope = tf.function(self._trace_slope, autograph=False, jit_compile=False)
        self._run = tf.function(self._trace_outputs, autograph=False, jit_compile=False)

    def train(self, gates: np.ndarray) -> None:
        """One step of the weights, on the next batch of their images, at (gates,) values."""
        self._steps += 1
        powers = [tf.constant(beta**self._steps, "float32") for beta in BETAS]
        trained, others, self._moments = self._train(
            tf.constant(gates, "float32"), *self._values, self._moments, *self._next(0), powers
        )
        self._values = trained, others

    def slope(self, gates: np.ndarray) -> np.ndarray:
        """(gates,) gradient of the loss on the next batch of the gates' images.

        As in training: moving statistics would lag behind the gates.
        """
        return np.asarray(self._slope(tf.constant(gates, "float32"), *self._values, *self._next(1)), float)

    def outputs(self, gates: np.ndarray, images: np.ndarray) -> np.ndarray:
        """(n, ...) joined outputs for (n, *input shape) images, in inference mode."""
        return np.asarray(self._run(tf.constant(gates, "float32"), *self._values, tf.convert_to_tensor(images)))

    def _next(self, which: int) -> tuple[tf.Tensor, tf.Tensor]:
        split, index = self._splits[which], next(self._orders[which])
        return tf.convert_to_tensor(split.images[index]), tf.convert_to_tensor(split.labels[index])

    # ------------------------------------------------------------------ traced

    @contextmanager
    def _holding(self, gates: tf.Tensor, trained: Values, others: Values) -> Iterator[keras.StatelessScope]:
        pairs = [*zip(self._trained, trained, strict=True), *zip(self._others, others, strict=True)]
        with ExitStack() as stack:
            stack.enter_context(safe_convolutions(self._model))
            yield stack.enter_context(self._gating.holding(gates, pairs))

    def _forward(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        return join(keras.tree.flatten(keras_internals.run_on(self._model, images, training=training)))

    def _trace_training(
        self, gates: tf.Tensor, trained: Values, others: Values, moments: list[Values], images: tf.Tensor,
        labels: tf.Tensor, powers: Sequence[tf.Tensor],
    ) -> tuple[Values, Values, list[Values]]:  # fmt: skip
        with tf.GradientTape() as tape:
            tape.watch(trained)
            with self._holding(gates, trained, others) as scope:
                loss = self._loss(labels, self._forward(images, training=True)) + sum(self._model.losses)
                # A frozen kernel stands there behind its gates.
                changed = [scope.get_current_value(variable) for variable in self._others]
                pairs = zip(self._others, others, changed, strict=True)
                others = [old if self._gating.weighs(variable) else new for variable, old, new in pairs]
        gradients = tape.gradient(loss, trained, unconnected_gradients="zero")
        moved, moments = step_of_adam(trained, gradients, moments, tf.constant(RATE), powers)
        return moved, others, moments

    def _trace_slope(
        self, gates: tf.Tensor, trained: Values, others: Values, images: tf.Tensor, labels: tf.Tensor
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(gates)
            with self._holding(gates, trained, others):
                loss = self._loss(labels, self._forward(images, training=True))
        return tf.convert_to_tensor(tape.gradient(loss, gates, unconnected_gradients="zero"))

    def _trace_outputs(self, gates: tf.Tensor, trained: Values, others: Values, images: tf.Tensor) -> tf.Tensor:
        with self._holding(gates, trained, others):
            return self._forward(images, training=False)


class _Gating:
    """Which gate weighs what.

    Args:
        model: with all of its connections.
        planner: has its groups, branches and search space.
    """

    def __init__(self, model: Any, planner: Planner) -> None:
        operations = keras_internals.operations_by_path(model)
        self._graphs = keras_internals.graphs_by_path(model)
        # By `id` of the variable: axis, and for each position the place of its gate; 0 is one that is always 1.
        self._axes: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
        # By `id` of the merge, by operand: the place of its gate, and of a product the mean that replaces it.
        self._operands: dict[int, dict[int, tuple[int, np.ndarray | None]]] = defaultdict(dict)
        place, groups = 1, {group.name: group for group in planner.groups}
        branches = {branch.name: branch for branch in planner.branches}
        for dimension, last in zip(planner.space.dimensions, planner.space.full, strict=True):
            if dimension.is_branch:
                branch = branches[dimension.name]
                _, merge = find_merge(self._graphs, branch)
                if last:
                    self._operands[id(merge)][branch.operand] = place, dimension.mean
            else:
                steps = np.zeros(dimension.size + 1, int)  # The last is for positions of other groups.
                ranks = np.searchsorted(dimension.options, np.arange(dimension.size), side="right")
                steps[dimension.order] = np.where(ranks > 0, place + ranks - 1, 0)
                for member in groups[dimension.name].members:
                    if member.role == "consumes":
                        variable = keras_internals.layer_variable(operations[member.layer], member.name)
                        self._axes[id(variable)].append((member.axis, steps[member.channels]))
            place += last

    def weighs(self, variable: Any) -> bool:
        """Whether a gate weighs a part of a variable."""
        return id(variable) in self._axes

    @contextmanager
    def holding(self, gates: tf.Tensor, pairs: Sequence[tuple[Any, tf.Tensor]]) -> Iterator[keras.StatelessScope]:
        """Within the block the model runs by these values of its variables, behind the gates."""
        table = tf.concat([tf.ones(1, gates.dtype), gates], 0)
        gated = []
        for variable, value in pairs:
            for axis, places in self._axes.get(id(variable), ()):
                shape = [1] * len(value.shape)
                shape[axis] = -1
                value = value * tf.reshape(tf.cast(tf.gather(table, places), value.dtype), shape)
            gated.append((variable, value))
        runs = {graph: partial(self._run, keras_internals.nodes_of(graph), table) for graph in self._graphs.values()}
        with keras_internals.running(runs if self._operands else {}), keras_internals.stand_in(gated) as scope:
            yield scope

    def _run(
        self, calls: Sequence[Any], table: tf.Tensor, values: dict[int, tf.Tensor], run_call: keras_internals.RunCall
    ) -> None:
        """Run the calls of a graph, with operands that may go weighed."""
        for call in calls:
            if call.is_input:
                continue
            tensors = [values[id(tensor)] for tensor in call.input_tensors]
            for operand, (place, mean) in self._operands.get(id(call), {}).items():
                gate = tf.cast(table[place], tensors[operand].dtype)
                rest = 0 if mean is None else (1 - gate) * tf.cast(mean, tensors[operand].dtype)
                tensors[operand] = gate * tensors[operand] + rest
            values.update(zip(map(id, call.outputs), run_call(call, tensors), strict=True))


def _batches(count: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Index arrays of batches, epoch after epoch in another order."""
    while True:
        order = generator.permutation(count)
        for start in range(0, max(count - BATCH, 0) + 1, BATCH):
            yield np.sort(order[start : start + BATCH])
