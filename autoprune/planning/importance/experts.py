"""How much the experts of a mixture are used by the images at hand."""

import logging
from typing import Any

import keras
import numpy as np

from autoprune.models.activation_hooks import observe_inputs
from autoprune.models.networks.experts import MixtureOfExperts
from autoprune.planning.importance.combining import MemberScores
from autoprune.planning.importance.context import IMPORTANCES, Criterion, ImportanceContext
from autoprune.planning.importance.weights import l2
from autoprune.records import ChannelGroup

logger = logging.getLogger(__name__)


@IMPORTANCES.add("expert_usage")
def expert_usage(context: ImportanceContext) -> Criterion:
    """Mean gate of an expert over images and positions; `l2` for groups that are none of experts.

    UNCURL-style (Sarkar et al., 2024, arXiv 2409.01483): experts go by what a task's own images use. The paper's
    formula is not public.
    """
    data, fallback = context.calibration(), l2(context)
    mixtures = {path: layer for path, layer in context.layers.items() if isinstance(layer, MixtureOfExperts)}
    if not mixtures:
        logger.warning("The importance 'expert_usage' finds no mixture of experts in the model: 'l2' ranks it.")
    # Over all positions of all images, by `id` of the layer.
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}

    def observe(layer: Any, x: Any) -> None:
        gates = keras.ops.convert_to_numpy(layer.route(keras.ops.reshape(x, (-1, x.shape[-1])))).astype(np.float64)
        sums[id(layer)] = sums.get(id(layer), 0) + gates.sum(1)
        counts[id(layer)] = counts.get(id(layer), 0) + gates.shape[1]

    observe_inputs(context.model, mixtures.values(), (images for images, _ in data.batches()), observe)
    usage = {path: sums[id(layer)] / counts[id(layer)] for path, layer in mixtures.items()}

    def criterion(group: ChannelGroup) -> np.ndarray:
        routers = [m for m in group.members if m.layer in mixtures and (m.name, m.role) == ("router", "produces")]
        if not routers:
            return fallback(group)
        return context.combine(group, [MemberScores(m.channels, usage[m.layer]) for m in routers])

    return criterion
