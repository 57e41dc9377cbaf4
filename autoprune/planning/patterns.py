"""Sparsity patterns of kernels: what N:M, load-balanced blocks and gather-scatter would keep, for other hardware.

No TPU gains latency from them: its matrix units multiply zeros as they do all else, and it has none for 2:4. What does
make a TPU faster are blocks that leave an input channel unread altogether: `unread_channels` makes a plan of them,
which surgery applies. (CRISP: Aggarwal et al., 2023, arXiv 2311.14272; gather-scatter: `gather_scatter.py`.)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save_file

from autoprune.errors import PlanError
from autoprune.graph import find_groups
from autoprune.models import keras_internals
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.planning.calibration import as_calibration, check_images
from autoprune.planning.gather_scatter import (
    Bundles,
    GatherEstimate,
    GatherScatterSettings,
    choose_balanced,
    estimate_gathers,
    place_kinds,
    quota,
    to_bundles,
)
from autoprune.planning.importance.gradients import mean_gradients
from autoprune.records import Plan

NO_LATENCY = "TPUs gain no latency from these patterns: they multiply zeros as they do all else. Bytes are a what-if."
_KINDS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.Dense)


@dataclass(frozen=True, eq=False, kw_only=True)
class PatternSettings:
    """Which pattern of N:M and blocks.

    Attributes:
        kept: N of N:M, the weights that stay of every `of` that lie one behind the other; None keeps all.
        of: M.
        block: height and width of the blocks that a kernel is cut into; None cuts none.
        block_share: share of all blocks that go, from 0 to below 1.

    Raises:
        PlanError: a number cannot be.
    """

    kept: int | None = 2
    of: int = 4
    block: int | None = None
    block_share: float = 0.5

    def __post_init__(self) -> None:
        if self.kept is not None and not 0 < self.kept <= self.of:
            raise PlanError(f"Of N:M, N is from 1 to M. Received: {self.kept}:{self.of}")
        if self.block is not None and (self.block < 1 or (self.kept is not None and self.block % self.of)):
            raise PlanError(f"Blocks are as wide as a multiple of M={self.of}. Received: {self.block}")
        if not 0 <= self.block_share < 1:
            raise PlanError(f"The share of the blocks that go is from 0 to below 1. Received: {self.block_share}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Pattern:
    """What a pattern keeps of a model.

    Attributes:
        settings: which pattern.
        masks: by the path of every layer that has the pattern, booleans in the shape of its kernel: what stays.
        blocks: by the same paths, booleans (block rows, block columns); none without blocks.
        value_bytes: by the same paths, what one weight takes.
        estimates: by the same paths, of a gather-scatter pattern what it takes on a machine that gathers; empty for
            others.
        left_dense: layers that stay as they are though others of their kind have the pattern, and why.
    """

    settings: PatternSettings | GatherScatterSettings
    masks: Mapping[str, np.ndarray]
    blocks: Mapping[str, np.ndarray]
    value_bytes: Mapping[str, int]
    estimates: Mapping[str, GatherEstimate] = field(default_factory=dict)
    left_dense: Mapping[str, str] = field(default_factory=dict)

    def density(self, path: str) -> float:
        """Share of the kernel's weights that stays."""
        return float(self.masks[path].mean())

    def bytes_needed(self, path: str) -> tuple[int, int]:
        """Bytes of the dense kernel, and of the weights that stay with where they lie.

        A weight of N:M says its place among M, a block which column of its row it stands in; of gather-scatter they are
        the arrays of its bundles.
        """
        mask, each = self.masks[path], self.value_bytes[path]
        if isinstance(self.settings, GatherScatterSettings):
            kinds = place_kinds(mask.size // mask.shape[-1], self.settings.rows)
            place = sum(kind.itemsize for kind in kinds if kind is not None)
            return mask.size * each, int(mask.sum()) * (each + place)
        bits = 0
        if self.settings.kept is not None:
            bits += int(mask.sum()) * math.ceil(math.log2(self.settings.of))
        if path in self.blocks:
            blocks = self.blocks[path]
            bits += int(blocks.sum()) * math.ceil(math.log2(max(blocks.shape[1], 2)))
        return mask.size * each, int(mask.sum()) * each + math.ceil(bits / 8)


def find_pattern(model: Any, settings: PatternSettings | GatherScatterSettings, *, data: Any = None) -> Pattern:
    """The weights that a pattern keeps: those of the highest saliency.

    A kernel is looked at as the matrix of its outputs by its inputs, (outputs, inputs x window). It is cut into blocks,
    whose scores are the sums over their weights. In each row of blocks the r-th lowest is of rank r; the ranks of all
    layers compete, by the sum over the rows, so that every row of a layer loses as many blocks, and one rank of a layer
    stays at least. Of what is left, N weights stay of every M in a row. Of a gather-scatter pattern as many stay in
    every bank, see `gather_scatter.py`; a kernel with fewer columns than banks is left dense.

    Args:
        model: a built Functional or Sequential model; it is read, not changed. The pattern is for its convolutions
            (without groups) and dense layers but for the first and the last of them.
        settings: which pattern.
        data: `(images, labels)`: the saliency is |w G|, with G the mean absolute gradient over batches, of the classes
            that the images are of. None: |w|.

    Raises:
        PlanError: no layer can have a pattern, or the data do not fit the model.
        DataError: the data cannot be used.
        ModelError: the model has no graph to follow.
    """
    keras_internals.check_model(model)
    layers = {
        path: layer
        for path, layer in keras_internals.layers_by_path(model).items()
        if type(layer) in _KINDS and getattr(layer, "groups", 1) == 1
    }
    paths = list(layers)[1:-1]
    if not paths:
        raise PlanError(
            f"'{model.name}' has {len(layers)} convolutions and dense layers. A pattern leaves the first and the last "
            "alone, and needs one between them."
        )
    kernels = {path: layers[path].kernel for path in paths}
    scores = {path: _as_matrix(score) for path, score in _find_saliency(model, kernels, data).items()}
    left_dense = {}
    if isinstance(settings, GatherScatterSettings):
        left_dense = {
            path: f"{matrix.shape[1]} columns, fewer than {settings.banks} banks"
            for path, matrix in scores.items()
            if not quota(settings, settings.rows, matrix.shape[1])
        }
        scores = {path: matrix for path, matrix in scores.items() if path not in left_dense}
        if not scores:
            raise PlanError(
                f"No kernel of '{model.name}' between the first and the last has as many columns (inputs x window) as "
                f"there are banks. Received: banks={settings.banks}. Ask for fewer."
            )
        blocks: dict[str, np.ndarray] = {}
        masks = {path: choose_balanced(matrix, settings) for path, matrix in scores.items()}
        estimates = {path: estimate_gathers(matrix, masks[path], settings) for path, matrix in scores.items()}
    else:
        blocks, masks = _choose_blocks_and_weights(scores, settings)
        estimates = {}
    whole = {}
    for path, mask in masks.items():  # The way back from `_as_matrix`.
        *positions, inputs, outputs = kernels[path].shape
        whole[path] = np.moveaxis(mask.reshape(outputs, inputs, *positions), (0, 1), (-1, -2))
    return Pattern(
        settings=settings,
        masks=whole,
        blocks=blocks,
        value_bytes={path: kernels[path].numpy().dtype.itemsize for path in masks},
        estimates=estimates,
        left_dense=left_dense,
    )


def bundle_kernels(model: Any, pattern: Pattern) -> dict[str, Bundles]:
    """The weights that a gather-scatter pattern keeps, by the paths of the layers, ready to be saved.

    Args:
        model: that the pattern was found for.
        pattern: see `find_pattern`.

    Raises:
        PlanError: the pattern is another one, or the model's kernels have other shapes.
    """
    settings = pattern.settings
    if not isinstance(settings, GatherScatterSettings):
        raise PlanError(
            "Bundles are of gather-scatter patterns. Received: one of N:M and blocks, which has masks alone."
        )
    layers = keras_internals.layers_by_path(model)
    if missing := [path for path in pattern.masks if path not in layers]:
        raise PlanError(f"'{model.name}' has no layer '{missing[0]}', which the pattern is for.")
    return {
        path: to_bundles(
            _as_matrix(layers[path].kernel.numpy()), _as_matrix(mask), banks=settings.banks, rows=settings.rows
        )
        for path, mask in pattern.masks.items()
    }


def unread_channels(model: Any, pattern: Pattern) -> Plan:
    """The plan without the channels that the pattern leaves unread.

    A channel goes when every weight that reads it, in all layers, is one that the pattern takes away: the pruned model
    then gives what the masked one gives. Of a group of which nothing is read one channel stays.

    Args:
        model: that the pattern was found for.
        pattern: see `find_pattern`.
    """
    kept, sizes = {}, {}
    for group in find_groups(model):
        readers = [member for member in group.members if member.role == "consumes"]
        sizes[group.name] = group.size
        if not group.prunable:
            continue
        read = np.zeros(group.size, bool)
        for member in readers:
            mask = pattern.masks.get(member.layer) if member.name == "kernel" else None
            held = member.channels >= 0
            if mask is None:
                read[member.channels[held]] = True
            else:
                rows = np.moveaxis(mask, member.axis, 0).reshape(mask.shape[member.axis], -1).any(1)
                read[member.channels[held & rows]] = True
        if not readers:
            read[:] = True
        read[0] |= not read.any()
        kept[group.name] = np.flatnonzero(read)
    return Plan(model=architecture_fingerprint(model), sizes=sizes, kept=kept, importance="unread")


def save_masks(pattern: Pattern, path: Path | str) -> None:
    """Write the masks as safetensors: one boolean tensor for each layer's kernel, by the layer's path."""
    masks = {name: np.ascontiguousarray(mask) for name, mask in pattern.masks.items()}
    save_file(masks, str(path), metadata={"format": "autoprune masks 1", "note": NO_LATENCY})


def _as_matrix(kernel: np.ndarray) -> np.ndarray:
    """(outputs, inputs x window) of (*window, inputs, outputs): the window of an input lies together."""
    return np.moveaxis(kernel, (-1, -2), (0, 1)).reshape(kernel.shape[-1], -1)


def _find_saliency(model: Any, kernels: Mapping[str, Any], data: Any) -> dict[str, np.ndarray]:
    """|w|, or |w G| where there are data, in the shapes of the kernels."""
    scores = {path: np.abs(kernel.numpy().astype(np.float64)) for path, kernel in kernels.items()}
    calibration = as_calibration(data)
    if calibration is not None:
        check_images(model, calibration)
        if calibration.labels is None:
            raise PlanError("The saliency of weights needs labels: data=(images, labels). Received images alone.")
        frozen = [path for path, kernel in kernels.items() if not any(kernel is v for v in model.trainable_variables)]
        if frozen:
            raise PlanError(
                f"The saliency of weights needs gradients, which frozen layers do not have. Received: '{frozen[0]}'. "
                "Set `trainable = True`, or leave `data` out."
            )
        lengths = mean_gradients(model, list(kernels.values()), calibration, absolute=True)
        scores = {path: scores[path] * length for path, length in zip(kernels, lengths, strict=True)}
    if wrong := [path for path, score in scores.items() if not np.isfinite(score).all()]:
        raise PlanError(
            f"The saliency of weights needs numbers. Received: weights or gradients of '{wrong[0]}' that are none."
        )
    return scores


def _choose_blocks_and_weights(
    matrices: Mapping[str, np.ndarray], settings: PatternSettings
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The blocks that stay, none where none are asked for, and in the shapes of the matrices the weights that do."""
    blocks = _choose_blocks(matrices, settings.block, settings.block_share) if settings.block is not None else {}
    masks = {}
    for path, matrix in matrices.items():
        mask = np.ones(matrix.shape, bool)
        if settings.block is not None:
            whole = blocks[path].repeat(settings.block, axis=0).repeat(settings.block, axis=1)
            mask = whole[: matrix.shape[0], : matrix.shape[1]]
        if settings.kept is not None:
            rows, length = matrix.shape
            # The last part of a row may be shorter.
            padded = np.full((rows, -(-length // settings.of) * settings.of), -np.inf)
            padded[:, :length] = np.where(mask, matrix, -1.0)
            parts = padded.reshape(rows, -1, settings.of)
            ranks = np.argsort(np.argsort(-parts, axis=-1, kind="stable"), axis=-1)
            mask = mask & (ranks < settings.kept).reshape(rows, -1)[:, :length]
        masks[path] = mask
    return blocks, masks


def _choose_blocks(matrices: Mapping[str, np.ndarray], size: int, share: float) -> dict[str, np.ndarray]:
    """(block rows, block columns) booleans of each layer: the blocks that stay. Those at the edges may be smaller."""
    scores, columns = {}, []
    for number, (path, matrix) in enumerate(matrices.items()):
        rows, width = (-(-length // size) for length in matrix.shape)
        padded = np.zeros((rows * size, width * size))
        padded[: matrix.shape[0], : matrix.shape[1]] = matrix
        scores[path] = padded.reshape(rows, size, width, size).sum((1, 3))
        ranked = np.sort(scores[path], axis=1).sum(0)[:-1]  # The highest rank stays.
        columns += [(score, number, rank, rows) for rank, score in enumerate(ranked)]
    target = share * sum(found.size for found in scores.values())
    lost, removed = dict.fromkeys(matrices, 0), 0
    names = list(matrices)
    for _, number, _, rows in sorted(columns):
        if removed + rows / 2 > target:  # The nearest to the share.
            break
        removed += rows
        lost[names[number]] += 1
    masks = {}
    for path, found in scores.items():
        ranks = np.argsort(np.argsort(found, axis=1, kind="stable"), axis=1)
        masks[path] = ranks >= lost[path]
    return masks
