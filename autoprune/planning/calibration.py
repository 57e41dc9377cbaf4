"""The images, and labels where there are any, from which data-driven importance and the means of gates are read."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autoprune.data import Split
from autoprune.errors import DataError, PlanError
from autoprune.graph.branches import observe_merges
from autoprune.records import Branch
from autoprune.tasks import CLASSIFICATION, Task


@dataclass(frozen=True, eq=False)
class CalibrationData:
    """Some training images; a few hundred are enough to rank channels.

    Attributes:
        images: (n, *input shape), as the model takes them, in memory or read as needed; for a model of several inputs
            a list or dict of these.
        labels: (n,) class numbers or (n, classes) one-hot, or what the task has for labels; None for criteria that need
            none.
        batch_size: images per batch. The criterion `taylor` averages over batches, so its scores depend on it.
        task: what the model is to make of the images.

    Raises:
        PlanError: there is no image, labels and images differ in number, or the batch size is below 1.
    """

    images: Any
    labels: np.ndarray | None = None
    batch_size: int = 32
    task: Task = CLASSIFICATION

    def __post_init__(self) -> None:
        lengths = [len(array) for array in keras.tree.flatten(self.images)]
        if not lengths or min(lengths) == 0 or len(set(lengths)) > 1:
            raise PlanError(f"Calibration data hold at least one image, as many for each input. Received: {lengths}")
        if self.labels is not None and len(self.labels) != lengths[0]:
            raise PlanError(
                f"Calibration data hold a label for each image. Received: {lengths[0]} images, {len(self.labels)} "
                "labels. Give data=(images, labels)."
            )
        if self.batch_size < 1:
            raise PlanError(f"The batch size of calibration data is 1 or more. Received: {self.batch_size}")

    def __len__(self) -> int:
        return len(keras.tree.flatten(self.images)[0])

    def batches(self, *, whole: bool = False) -> Iterator[tuple[Any, np.ndarray | None]]:
        """Images and labels (None without), batch after batch; of classes their numbers.

        Args:
            whole: leave out a shorter last batch, unless it is the only one.
        """
        labels = self.labels
        if labels is not None and self.task.names_classes:
            _, labels = self.task.read_labels(labels)
        usable = len(self) // self.batch_size * self.batch_size if whole else 0
        for start in range(0, usable or len(self), self.batch_size):
            batch = slice(start, start + self.batch_size)
            images = keras.tree.map_structure(lambda array, batch=batch: array[batch], self.images)
            yield images, None if labels is None else labels[batch]


def as_calibration(data: Any) -> CalibrationData | None:
    """Calibration data of what a caller gives: `CalibrationData`, a pair `(images, labels)`, images alone, or None.

    Raises:
        PlanError: there is no image, labels and images differ in number, or the batch size is below 1.
    """
    if data is None or isinstance(data, CalibrationData):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return CalibrationData(*data)
    return CalibrationData(data)


def sample_calibration(split: Split, count: int, seed: int) -> CalibrationData:
    """A random subset of a split, the same for the same seed; images that are read as needed stay where they are.

    Args:
        split: training images with their labels.
        count: images to draw; all of them when there are no more.
        seed: the same seed draws the same images.
    """
    some = split.part(np.random.default_rng(seed).permutation(len(split))[:count])
    return CalibrationData(some.images, some.labels, task=split.task)


def check_images(model: Any, data: CalibrationData) -> None:
    """Refuse images that do not enter the model.

    Raises:
        DataError: naming both shapes.
    """
    # Not by `np.shape` alone, which would read images that are read as needed.
    arrays = keras.tree.flatten(data.images)
    received = [tuple(getattr(array, "shape", None) or np.shape(array))[1:] for array in arrays]
    expected = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    pairs = list(zip(received, expected, strict=False))
    fits = len(received) == len(expected) and all(len(given) == len(taken) for given, taken in pairs)
    sizes = [(size, wanted) for given, taken in pairs for size, wanted in zip(given, taken, strict=False)]
    if not fits or any(wanted not in (None, size) for size, wanted in sizes):
        raise DataError(
            f"The calibration images have shape {received}, the model '{model.name}' takes {expected}. Give images of "
            "that shape, one array for each input."
        )


def measure_gate_means(model: Any, gates: Sequence[Branch], data: CalibrationData | None) -> dict[str, np.ndarray]:
    """(channels,) The mean of each gate over the images, and over the calls of a model within the model, by name.

    The model runs eagerly, in inference mode, and nothing of it changes.

    Args:
        model: with all of its connections.
        gates: branches of the kind `gate`.
        data: the images; labels are not read.

    Raises:
        PlanError: there are gates and no images.
        DataError: the images do not fit the model.
    """
    if not gates:
        return {}
    if data is None:
        raise PlanError(
            f"In place of the gate '{gates[0].name}' comes its mean over some images: give data=images, about 256 "
            "images of the training split. Received: data=None"
        )
    check_images(model, data)
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = defaultdict(int)

    def observe(gate: Branch, tensors: Sequence[Any], *_: Any) -> None:
        found = keras.ops.convert_to_numpy(keras.ops.cast(tensors[gate.operand], "float32"))
        sums[gate.name] = sums.get(gate.name, 0) + found.sum(0, dtype=np.float64).reshape(-1)
        counts[gate.name] += len(found)

    observe_merges(model, gates, (images for images, _ in data.batches()), observe)
    return {gate.name: (sums[gate.name] / counts[gate.name]).astype(np.float32) for gate in gates}
