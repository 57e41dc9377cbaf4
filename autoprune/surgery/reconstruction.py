"""Surgery that lets the layers behind the removed channels make up for them, by least squares.

He et al., 2017, arXiv 1707.06168, the regression step: the kernels that read what is left are chosen so that they give
what they gave when everything was there. All statistics come from the whole model, on a few images, in one pass.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np
import scipy.linalg

from autoprune.errors import PlanError
from autoprune.layers import LayerKind, exact_kind_of
from autoprune.models import keras_internals
from autoprune.models.activation_hooks import observe_inputs
from autoprune.planning.calibration import CalibrationData, as_calibration, check_images
from autoprune.records import Plan, SurgeryReport
from autoprune.surgery.cutting import fold_factors, scale
from autoprune.surgery.surgeon import Surgeon

logger = logging.getLogger(__name__)

# A Gram matrix of this many columns takes 300 MiB.
_LARGEST = 6144


def apply_with_reconstruction(
    surgeon: Surgeon,
    plan: Plan,
    images: Any,
    *,
    positions: int = 32,
    ridge: float = 1e-4,
    seed: int = 0,
) -> SurgeryReport:
    """Apply a plan, and fit the kernels of the layers whose inputs shrank to what they gave before.

    For each convolution (not grouped, not depthwise, not transposed) and dense layer that loses inputs, and each layer
    whose kind has `patches`, with X the
    patches that it sees in the whole model, split into columns X_K that stay and X_R that go, and its kernel split
    alike, the new kernel is W_K + D with D the least squares solution of X_K D = X_R W_R, that is of
    X_K W' = X W. A ridge holds D small, so that columns that tell nothing keep their weights. Biases and
    batch-norm statistics stay as they are. Only X_K'X_K and X_K'X_R W_R are kept in memory.

    Args:
        surgeon: made for the whole, unpruned model.
        plan: made for that model.
        images: (n, *input shape) training images or `CalibrationData`, a few hundred; labels are not read.
        positions: output positions per image and layer whose patches count, drawn at random; all when there are
            fewer. The rows of the regression are images times positions: give more than the layers have columns
            (window times inputs that stay) where that is possible.
        ridge: weight of the penalty on D, as a share of the mean diagonal of X_K'X_K.
        seed: which positions are drawn depends on it.

    Returns:
        The report of the surgery.

    Raises:
        PlanError: the plan is for another model, the model is pruned already, or there are no images.
        DataError: the images do not fit the model.
    """
    surgeon.check(plan)
    data = as_calibration(images)
    if data is None or positions < 1 or ridge <= 0:
        raise PlanError(
            "Reconstruction takes some images, one or more positions and a ridge above 0. Received: "
            f"images={'None' if data is None else len(data)}, positions={positions}, ridge={ridge}"
        )
    check_images(surgeon.model, data)
    layers = keras_internals.layers_by_path(surgeon.model)
    consumers = _find_consumers(surgeon, plan, seed)
    _collect_patches(surgeon.model, consumers, data, positions)
    dropped = [branch for branch in surgeon.branches if branch.name in plan.dropped]
    factors = fold_factors(dropped, plan)
    places = zip(factors, keras_internals.variables_at(layers, factors), strict=True)
    scales = {id(variable): factors[place] for place, variable in places}
    # Solved for what enters with the gates that go; without them the kernel takes their means.
    kernels = [
        (consumer.variable, scale(consumer.solve(ridge), consumer.cut(scales.get(id(consumer.variable), {}))))
        for consumer in consumers
    ]
    report = surgeon.apply(plan)
    for variable, kernel in kernels:
        variable.assign(kernel)
    logger.info("the kernels of %d layers were fitted anew: %s", len(consumers), ", ".join(c.path for c in consumers))
    return report


@dataclass(eq=False)
class _Consumer:
    """A kernel that loses inputs, and what is known of them.

    Attributes:
        path: of the first layer that holds the kernel, for messages.
        layers: all layers that hold it, each with its kind.
        variable: the kernel, (*window, inputs, outputs).
        stays: (inputs,) whether an input stays.
        outputs: (outputs,) whether an output stays.
        generator: draws positions.
        gram: X_K'X_K; 0 before any patch.
        moment: X_K'X_R W_R.
    """

    path: str
    layers: list[tuple[Any, LayerKind]]
    variable: Any
    stays: np.ndarray
    outputs: np.ndarray
    generator: np.random.Generator
    gram: Any = field(default=0.0)
    moment: Any = field(default=0.0)

    @cached_property
    def lost(self) -> np.ndarray:
        """W_R, (window times inputs that go, outputs that stay)."""
        return self._part(~self.stays).reshape(-1, int(self.outputs.sum()))

    def _part(self, inputs: np.ndarray) -> np.ndarray:
        """The kernel of some inputs and the outputs that stay, (*window, inputs, outputs)."""
        return self.variable.numpy().astype(np.float64)[..., inputs, :][..., self.outputs]

    def add(self, patches: np.ndarray) -> None:
        """Add patches, (rows, window, inputs)."""
        kept = patches[..., self.stays].reshape(len(patches), -1)
        target = patches[..., ~self.stays].reshape(len(patches), -1) @ self.lost
        self.gram = self.gram + kept.T @ kept
        self.moment = self.moment + kept.T @ target

    def cut(self, factors: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Of factors for positions of the kernel's axes those of the positions that stay."""
        rank = len(self.variable.shape)
        stays = {rank - 2: self.stays, rank - 1: self.outputs}
        return {axis: factor[stays[axis]] for axis, factor in factors.items()}

    def solve(self, ridge: float) -> np.ndarray:
        """The new kernel, (*window, inputs that stay, outputs that stay)."""
        kernel = self._part(self.stays)
        scale = np.trace(self.gram) / len(self.gram)
        if scale == 0:
            return kernel
        penalised = self.gram + ridge * scale * np.eye(len(self.gram))
        return kernel + scipy.linalg.solve(penalised, self.moment, assume_a="pos").reshape(kernel.shape)


def _find_consumers(surgeon: Surgeon, plan: Plan, seed: int) -> list[_Consumer]:
    """Every kernel that can be fitted, in the order of the groups."""
    layers = keras_internals.layers_by_path(surgeon.model)
    holders: dict[int, list[tuple[Any, LayerKind]]] = {}
    for layer in {id(layer): layer for layer in layers.values()}.values():
        kind = exact_kind_of(layer)
        if kind is not None and kind.has_patches(layer):
            holders.setdefault(id(keras_internals.layer_variable(layer, "kernel")), []).append((layer, kind))
    consumers = []
    for number, ((path, name), masks) in enumerate(surgeon.slices(plan).variables.items()):
        variable = keras_internals.layer_variable(layers[path], name)
        if name != "kernel" or all(layer is not layers[path] for layer, _ in holders.get(id(variable), ())):
            continue
        rank = len(variable.shape)
        if any(len(mask) != variable.shape[axis] for axis, mask in masks.items()):
            raise PlanError("The model is pruned already. Restore it before applying another plan.")
        if rank - 2 not in masks or masks[rank - 2].all():
            continue
        columns = math.prod(variable.shape[:-2]) * int(masks[rank - 2].sum())
        if columns > _LARGEST:
            logger.warning(
                "'%s' is not reconstructed: its regression has %d columns, more than %d.", path, columns, _LARGEST
            )
            continue
        outputs = masks.get(rank - 1, np.ones(variable.shape[-1], bool))
        generator = np.random.default_rng([seed, number])
        consumers.append(_Consumer(path, holders[id(variable)], variable, masks[rank - 2], outputs, generator))
    return consumers


def _collect_patches(model: Any, consumers: Sequence[_Consumer], data: CalibrationData, positions: int) -> None:
    """Run the whole model once and show each consumer the patches that enter its layers."""
    of_layer = {id(layer): (consumer, kind) for consumer in consumers for layer, kind in consumer.layers}

    def observe(layer: Any, x: Any) -> None:
        consumer, kind = of_layer[id(layer)]
        limit = len(x) * positions

        def draw(count: int) -> np.ndarray:
            return np.arange(count) if count <= limit else consumer.generator.choice(count, limit, replace=False)

        values = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
        consumer.add(kind.patches(layer, values, draw).astype(np.float64))

    watched = [layer for consumer in consumers for layer, _ in consumer.layers]
    if watched:
        observe_inputs(model, watched, (images for images, _ in data.batches()), observe)
