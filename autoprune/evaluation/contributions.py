"""What branches change: how much each adds to what its merge gives, over some images."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autoprune.data import LazyImages
from autoprune.evaluation.accuracy import batches
from autoprune.graph.branches import observe_merges
from autoprune.models import keras_internals
from autoprune.records import Branch

BATCH = 8  # Images at a time.


@dataclass(frozen=True)
class Contribution:
    """What a branch changes in what its merge gives.

    Of a concatenation, without a branch its channels are zero; of a product, in place of a gate is its mean over a few
    images.

    Attributes:
        change: norm of what it adds, over the sum of that and the norm of what it is added to: from 0, nothing, to 1.
        similarity: cosine similarity of what the merge gives with the branch and without, averaged over images.
    """

    change: float
    similarity: float


def measure_contributions(
    model: Any, branches: Sequence[Branch], images: np.ndarray | LazyImages
) -> dict[str, Contribution]:
    """What each of some branches changes, in inference mode; one whose numbers are not finite is left out.

    The model runs eagerly, and nothing of it changes.

    Args:
        model: with all of its connections.
        branches: of the model; those that can be removed.
        images: (n, *input shape), as the model takes them.
    """
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    observe_merges(
        model,
        branches,
        batches(images, BATCH) if branches else (),
        lambda branch, *merge: found[branch.name].append(_compare(branch, *merge)),
    )
    contributions = {}
    with np.errstate(invalid="ignore", over="ignore"):
        for name, parts in found.items():
            added, without, whole, product = np.concatenate(parts, axis=1)
            norm, rest = np.sqrt(added.sum()), np.sqrt(without.sum())
            # Of images for which there is nothing with or without the branch nothing changes; for which there is
            # nothing on one side only, all does.
            lengths, same = np.sqrt(without * whole), (without == 0) & (whole == 0)
            cosines = np.where(same, 1.0, product / np.where(lengths == 0, 1.0, lengths))
            change = float(norm / (norm + rest)) if norm else 0.0
            each = Contribution(change, float(np.clip(cosines, -1, 1).mean()))
            if np.isfinite([each.change, each.similarity]).all():
                contributions[name] = each
    return contributions


def _compare(
    branch: Branch, tensors: Sequence[Any], output: Any, run_merge: Callable[[Sequence[Any]], list[Any]]
) -> np.ndarray:
    """(4, batch) Squares of what a branch adds, of what its merge gives without and with it; product of these two."""
    if branch.kind == "concatenation":
        added, whole = _products(tensors[branch.operand]), _products(output)
        rest = np.maximum(whole - added, 0)
        return np.stack([added, rest, whole, rest])
    if branch.kind == "gate":
        mean = keras.ops.mean(tensors[branch.operand], axis=0, keepdims=True)
        operands = [mean if place == branch.operand else tensor for place, tensor in enumerate(tensors)]
        without = run_merge(operands)[0]
    else:
        others = [tensor for place, tensor in enumerate(tensors) if place != branch.operand]
        left = [keras_internals.LEFT_OUT if place == branch.operand else tensor for place, tensor in enumerate(tensors)]
        # As surgery leaves it: a merge of one operand gives way to that.
        without = others[0] if len(others) == 1 else run_merge(left)[0]
    output, without = (keras.ops.cast(tensor, "float32") for tensor in (output, without))
    added = output - without
    return np.stack([_products(added), _products(without), _products(output), _products(output, without)])


def _products(one: Any, other: Any = None) -> np.ndarray:
    """(batch,) Inner products of two tensors, or of one with itself, image by image."""
    one = keras.ops.cast(one, "float32")
    other = one if other is None else keras.ops.cast(other, "float32")
    axes = tuple(range(1, len(one.shape)))
    return keras.ops.convert_to_numpy(keras.ops.sum(one * other, axis=axes)).astype(np.float64)
