"""What one output of a model is for: its labels, its losses, how two models' outputs differ.

What a model *tells* of an example is what its output means, whatever activation it ends in: logarithms of probabilities
for classes, log-odds for labels, the numbers themselves. Teachers tell it, students are compared by it.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
import numpy as np

from autoprune.errors import DataError, SettingsError
from autoprune.models.outputs import class_log_probabilities, flatten, hard_loss
from autoprune.tasks.labels import as_labels
from autoprune.tasks.own_losses import OwnLoss


@dataclass(frozen=True, kw_only=True)
class Head:
    """One output of a model. Tensors named `told` are what `tell` gives.

    Attributes:
        name: what the model calls the output.
        shape: shape of the label of one example.
        weight: factor of its loss in the sum over outputs.
        loss: loss of training in the place of the kind's own.
    """

    kind: ClassVar[str]
    softens: ClassVar[bool] = True  # Whether a temperature softens what a teacher tells.
    activation: ClassVar[str | None] = None  # That makes probabilities of logits; None leaves it to the output's size.

    name: str = "output"
    shape: tuple[int, ...] = ()
    weight: float = 1.0
    loss: OwnLoss | None = None

    def read_labels(self, array: np.ndarray) -> np.ndarray:
        """(n, *shape) labels of this kind, of what a user gives.

        Raises:
            DataError: they are of another kind.
        """
        raise NotImplementedError

    def fit_to(self, labels: np.ndarray) -> "Head":
        """This head for these training labels: shape, and where it matters spread."""
        return replace(self, shape=labels.shape[1:])

    def complain(self, outputs: tuple[int | None, ...]) -> str:
        """What the labels need an output to be, when it is of another shape for one example; empty otherwise."""
        raise NotImplementedError

    def count_classes(self, labels: np.ndarray) -> int:
        """How many classes labels have; 0 where these are none."""
        return 0

    def tell(self, outputs: Any, *, raw: bool) -> Any:
        """(n, *told) float32 tensor of what outputs mean.

        Args:
            outputs: (n, ...) of the model.
            raw: whether they are logits where they might be probabilities.
        """
        raise NotImplementedError

    def tell_shape(self, outputs: tuple[int | None, ...]) -> tuple[int, ...]:
        """Shape of `tell` for one example, when the model's output has this shape."""
        return self.shape

    def predict(self, told: Any) -> Any:
        """What metrics look at: probabilities, or the numbers themselves."""
        return told

    def shape_labels(self, labels: Any, outputs: Any, loss: str) -> Any:
        """Labels as a loss of Keras's of this name takes them beside these outputs."""
        return labels

    def own_losses(self, labels: Any, told: Any, smoothing: float = 0.0) -> Any:
        """(n, ...) losses of the kind: tensors."""
        raise NotImplementedError

    def distillation_losses(self, teacher: Any, told: Any, temperature: float) -> Any:
        """(n, ...) losses of telling something else than a teacher does: tensors.

        Of probabilities they are softened by the temperature; here they are squared differences.
        """
        return keras.ops.square(told - teacher)

    def surprise(self, labels: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) losses whose exponential, with its sign turned, lies between 0 and 1: float64 arrays."""
        raise NotImplementedError

    def divergence(self, dense: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) how far from the dense model's what a model tells is, 0 or more: float64 arrays."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Classes(Head):
    """One class of each example. Labels are class numbers, int64."""

    kind: ClassVar[str] = "classification"

    def read_labels(self, array: np.ndarray) -> np.ndarray:
        """(n,) int64, see `as_labels`."""
        return as_labels(array)

    def complain(self, outputs: tuple[int | None, ...]) -> str:
        """See `Head.complain`."""
        grid = outputs[:-1]
        if len(grid) == len(self.shape) and all(a in (None, b) for a, b in zip(grid, self.shape, strict=True)):
            return ""
        return f"shape ({', '.join(map(str, ('n', *self.shape, 'classes')))})"

    def count_classes(self, labels: np.ndarray) -> int:
        """One more than the highest class number."""
        return int(labels.max(initial=0)) + 1

    def tell(self, outputs: Any, *, raw: bool) -> Any:
        """(n, ..., classes) logarithms of probabilities."""
        return class_log_probabilities(outputs, from_logits=raw)

    def tell_shape(self, outputs: tuple[int | None, ...]) -> tuple[int, ...]:
        """See `Head.tell_shape`."""
        return (*self.shape, max(outputs[-1] or 0, 2))

    def predict(self, told: Any) -> Any:
        """(n, ..., classes) probabilities."""
        return keras.ops.exp(told)

    def shape_labels(self, labels: Any, outputs: Any, loss: str) -> Any:
        """Class numbers for a sparse loss; one float32 number beside a single output, else one-hot float32."""
        numbers = keras.ops.maximum(keras.ops.cast(labels, "int32"), 0)
        if outputs.shape[-1] == 1:
            return keras.ops.cast(keras.ops.expand_dims(numbers, -1), "float32")
        return numbers if "sparse" in loss.lower() else keras.ops.one_hot(numbers, outputs.shape[-1])

    def own_losses(self, labels: Any, told: Any, smoothing: float = 0.0) -> Any:
        """(n, ...) cross-entropies."""
        return hard_loss(labels, told, smoothing)

    def distillation_losses(self, teacher: Any, told: Any, temperature: float) -> Any:
        """(n, ...) cross-entropies of softened probabilities."""
        softened = keras.ops.softmax(teacher / temperature, axis=-1)
        return -keras.ops.sum(softened * keras.ops.log_softmax(told / temperature, axis=-1), axis=-1)

    def surprise(self, labels: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) cross-entropies, the mean over the pixels that count."""
        counted = labels >= 0
        right = np.take_along_axis(told, np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        losses, weights = flatten(-right), flatten(counted)
        return np.asarray((losses * weights).sum(1) / np.maximum(weights.sum(1), 1))

    def divergence(self, dense: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) Kullback-Leibler divergences of probabilities, the mean over pixels."""
        return np.asarray(flatten(np.sum(np.exp(dense) * (dense - told), axis=-1)).mean(1))

    def right(self, labels: np.ndarray, told: np.ndarray) -> np.ndarray:
        """Which examples, or pixels that count, have their class named: (k,) booleans.

        Of two classes that are equally probable the second counts, as a threshold at even odds has it.
        """
        named = told[..., 1] >= told[..., 0] if told.shape[-1] == 2 else told.argmax(-1)
        return np.asarray((named == labels)[labels >= 0])


@dataclass(frozen=True, kw_only=True)
class Pixels(Classes):
    """One class of each pixel. Labels are masks of class numbers, int64; -1 does not count.

    Attributes:
        ignored: class number in a user's masks that does not count; None counts all.
    """

    kind: ClassVar[str] = "segmentation"

    ignored: int | None = None

    def read_labels(self, array: np.ndarray) -> np.ndarray:
        """(n, height, width) int64 of masks of class numbers, (n, height, width, 1), or one-hot along the last axis.

        Raises:
            DataError: they are none of these.
        """
        array = np.asarray(array)
        whole = array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool((array == np.round(array)).all()))
        if array.ndim < 3 or not whole:
            raise DataError(
                "Masks are class numbers of shape (n, height, width), or one-hot along one more axis. Received: "
                f"{array.dtype} of shape {array.shape}"
            )
        if array.ndim > 3 and array.shape[-1] == 1:
            array = array[..., 0]
        elif array.ndim > 3 and np.isin(array, (0, 1)).all() and (array.sum(-1) == 1).all():
            array = array.argmax(-1)
        masks = array.astype(np.int64)
        if self.ignored is not None:
            masks = np.where(masks == self.ignored, -1, masks)
        elif masks.max(initial=0) == 255 and not np.isin(masks, range(200, 255)).any():
            raise DataError(
                "Class 255 usually marks pixels that do not count, and classes near it are missing: set "
                "task.ignored_class=255. If 255 is what 1 should be, divide the masks by it."
            )
        if masks.min(initial=0) < (0 if self.ignored is None else -1):
            raise DataError(f"Masks are class numbers from 0. Received: {masks.min()}")
        return masks

    def leave_out(self, losses: Any, labels: Any) -> Any:
        """Losses of pixels, those that do not count as 0 and the others as much larger.

        Raises:
            SettingsError: there is no loss for each pixel.
        """
        if len(losses.shape) != len(labels.shape):
            raise SettingsError(
                "task.ignored_class needs a loss that gives a number for each pixel; this one gives "
                f"{len(losses.shape)} axes for masks of {len(labels.shape)}. Leave task.loss out, or ignore no class."
            )
        counted = keras.ops.cast(labels >= 0, "float32")
        share = keras.ops.mean(counted, axis=tuple(range(1, len(self.shape) + 1)), keepdims=True)
        return losses * counted / keras.ops.maximum(share, 1e-6)


@dataclass(frozen=True, kw_only=True)
class Labels(Head):
    """Yes or no to each of several labels. Labels are 0 or 1, float32; told are log-odds."""

    kind: ClassVar[str] = "multi_label"
    activation: ClassVar[str | None] = "sigmoid"

    def read_labels(self, array: np.ndarray) -> np.ndarray:
        """(n, labels) float32 of zeros and ones.

        Raises:
            DataError: they are none.
        """
        array = np.asarray(array)
        if array.ndim != 2 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
            raise DataError(
                "Several labels of an example are a row of zeros and ones, (n, labels). Received: "
                f"{array.dtype} of shape {array.shape}"
            )
        return array.astype(np.float32)

    def complain(self, outputs: tuple[int | None, ...]) -> str:
        """See `Head.complain`."""
        return "" if tuple(outputs) == self.shape else f"shape (n, {self.shape[0]}), a number for each label"

    def tell(self, outputs: Any, *, raw: bool) -> Any:
        """(n, labels) log-odds."""
        outputs = keras.ops.cast(outputs, "float32")
        if raw:
            return outputs
        odds = keras.ops.clip(outputs, 1e-7, 1 - 1e-7)
        return keras.ops.log(odds) - keras.ops.log1p(-odds)

    def predict(self, told: Any) -> Any:
        """(n, labels) probabilities."""
        return keras.ops.sigmoid(told)

    def own_losses(self, labels: Any, told: Any, smoothing: float = 0.0) -> Any:
        """(n, labels) cross-entropies, of labels that are drawn towards even odds by `smoothing`."""
        return _binary(keras.ops.cast(labels, "float32") * (1 - smoothing) + 0.5 * smoothing, told)

    def distillation_losses(self, teacher: Any, told: Any, temperature: float) -> Any:
        """(n, labels) cross-entropies of softened probabilities."""
        return _binary(keras.ops.sigmoid(teacher / temperature), told / temperature)

    def surprise(self, labels: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) cross-entropies, the mean over labels."""
        return np.asarray(np.logaddexp(0, np.where(labels > 0, -told, told)).mean(1))

    def divergence(self, dense: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) Kullback-Leibler divergences of probabilities, the mean over labels."""
        yes = 1 / (1 + np.exp(-dense))
        apart = yes * (np.logaddexp(0, -told) - np.logaddexp(0, -dense))
        return np.asarray((apart + (1 - yes) * (np.logaddexp(0, told) - np.logaddexp(0, dense))).mean(1))


def _binary(labels: Any, odds: Any) -> Any:
    return keras.ops.softplus(odds) - labels * odds


@dataclass(frozen=True, kw_only=True)
class Values(Head):
    """Numbers, of any shape. Labels are float32; told are the outputs.

    Attributes:
        variance: of the training labels about their means, which squares of errors are seen beside in scores.
    """

    kind: ClassVar[str] = "regression"
    softens: ClassVar[bool] = False

    variance: float = 1.0

    def read_labels(self, array: np.ndarray) -> np.ndarray:
        """(n, ...) finite float32.

        Raises:
            DataError: they are no numbers, or not finite.
        """
        array = np.asarray(array)
        if array.ndim == 0 or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise DataError(
                f"Values to be predicted are finite numbers, (n, ...). Received: {array.dtype} of shape {array.shape}"
            )
        return (array[:, None] if array.ndim == 1 else array).astype(np.float32)

    def fit_to(self, labels: np.ndarray) -> "Head":
        """This head for these training labels."""
        spread = float(np.mean(np.var(labels.astype(np.float64), axis=0)))
        return replace(self, shape=labels.shape[1:], variance=spread or 1.0)

    def complain(self, outputs: tuple[int | None, ...]) -> str:
        """See `Head.complain`."""
        fits = len(outputs) == len(self.shape) and all(a in (None, b) for a, b in zip(outputs, self.shape, strict=True))
        return "" if fits else f"shape ({', '.join(map(str, ('n', *self.shape)))}), as the values have"

    def tell(self, outputs: Any, *, raw: bool) -> Any:
        """(n, ...) the outputs."""
        return keras.ops.cast(outputs, "float32")

    def own_losses(self, labels: Any, told: Any, smoothing: float = 0.0) -> Any:
        """(n, ...) squared errors; smoothing is for classes."""
        return keras.ops.square(told - keras.ops.cast(labels, "float32"))

    def surprise(self, labels: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) mean squared errors over the variance of the training labels: 1 for who tells their means."""
        return np.asarray(flatten((told - labels) ** 2).mean(1) / self.variance)

    def divergence(self, dense: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) mean squared differences over the variance of the training labels."""
        return np.asarray(flatten((told - dense) ** 2).mean(1) / self.variance)
