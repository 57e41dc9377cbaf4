"""What one model's outputs are worth by its task: losses, what it tells, its quality, what tells plans apart.

A judge looks at *joined* outputs: those of a model with one output as they are, of several in one tensor (n, k), one
behind the other.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.errors import DataError
from autoprune.models import keras_internals
from autoprune.models.outputs import JoinedOutputs, flatten, gives_logits, loss_for, run_joined
from autoprune.tasks.heads import Classes, Head, Pixels
from autoprune.tasks.task import Task


class Judge:
    """A task as one model carries it out.

    Args:
        task: what the model is for, with the shapes of its labels.
        model: with one output for each head, named so where there are several.

    Attributes:
        heads: the task's, in the order of the model's outputs.
        even_odds: what a single number of a classifier is at even odds.

    Raises:
        DataError: it has other outputs.
    """

    def __init__(self, task: Task, model: Any) -> None:
        if len(model.outputs) != len(task.heads):
            raise DataError(complain_of_outputs(task, model))
        self.task = task
        self._model = model
        by_name = {head.name: head for head in task.heads}
        names = keras_internals.output_names(model) if len(task.heads) > 1 else [task.heads[0].name]
        if set(names) != set(by_name):
            raise DataError(complain_of_outputs(task, model))
        self.heads = [by_name[name] for name in names]
        self._places = [task.heads.index(head) for head in self.heads]
        self._shapes = [tuple(tensor.shape[1:]) for tensor in model.outputs]
        self._raw = [gives_logits(model, number, head.activation) for number, head in enumerate(self.heads)]
        self.even_odds = 0.0 if self._raw[0] else 0.5

    @property
    def network(self) -> Any:
        """What is trained: the model, or one that gives its outputs joined."""
        return self._model if len(self.heads) == 1 else JoinedOutputs(self._model)

    # ------------------------------------------------------------------ tensors

    def labels(self, labels: Any) -> list[Any]:
        """Labels of each output of the model, in its order."""
        parts = self.task.unpack(labels)
        return [parts[place] for place in self._places]

    def outputs(self, joined: Any) -> list[Any]:
        """Each output of the model."""
        if len(self.heads) == 1:
            return [joined]
        parts, start = [], 0
        for head, shape in zip(self.heads, self._shapes, strict=True):
            known = (*head.shape[: len(shape)],) if None in shape else shape
            whole = tuple(k if s is None else s for s, k in zip(shape, known, strict=True))
            size = math.prod(whole)
            parts.append(keras.ops.reshape(joined[:, start : start + size], (-1, *whole)))
            start += size
        return parts

    def tell(self, joined: Any) -> list[Any]:
        """What each output means, see `Head.tell`."""
        return [
            head.tell(part, raw=raw)
            for head, part, raw in zip(self.heads, self.outputs(joined), self._raw, strict=True)
        ]

    @property
    def tell_size(self) -> int:
        """Numbers that the model tells of one example."""
        return sum(math.prod(shape) for shape in self._tell_shapes)

    @property
    def _tell_shapes(self) -> list[tuple[int, ...]]:
        return [head.tell_shape(shape) for head, shape in zip(self.heads, self._shapes, strict=True)]

    def losses(self, labels: Any, joined: Any, told: list[Any], smoothing: float = 0.0) -> Any:
        """(n,) losses: the weighted sum of those of the outputs, each the mean over what it has for an example.

        Args:
            labels: the task's labels.
            joined: outputs.
            told: what `tell` makes of them.
            smoothing: share of a class label that is spread over all classes.
        """
        terms = []
        parts = zip(self.heads, self.labels(labels), self.outputs(joined), told, strict=True)
        for head, truth, output, said in parts:
            if head.loss is None:
                losses = head.own_losses(truth, said, smoothing)
            else:
                losses = head.loss(head.shape_labels(truth, output, head.loss.name), output)
            if isinstance(head, Pixels) and head.ignored is not None:
                losses = head.leave_out(losses, truth)
            terms.append(head.weight * _mean(losses))
        return sum(terms[1:], terms[0])

    def distillation_losses(self, teacher: Any, told: list[Any], temperature: float) -> Any:
        """(n,) losses of telling something else than a teacher: (n, tell_size) of `ask`."""
        terms, start = [], 0
        for head, shape, said in zip(self.heads, self._tell_shapes, told, strict=True):
            size = math.prod(shape)
            taught = keras.ops.reshape(teacher[:, start : start + size], (-1, *shape))
            factor = head.weight * (temperature**2 if head.softens else 1.0)
            terms.append(factor * _mean(head.distillation_losses(taught, said, temperature)))
            start += size
        return sum(terms[1:], terms[0])

    # ------------------------------------------------------------------ training

    def loss(
        self, *, smoothing: float = 0.0, teacher: float | None = None, temperature: float = 1.0
    ) -> keras.losses.Loss:
        """The loss of training, of `network`.

        Args:
            smoothing: share of a class label that is spread over all classes.
            teacher: share of the loss that a teacher has, whose `ask` stands behind the labels in the targets, see
                `add_teacher`; None for no teacher.
            temperature: what the teacher's log-probabilities are divided by.
        """
        if teacher is None and not smoothing and self.task.names_classes and self.heads[0].loss is None:
            return loss_for(self._model)
        return TaskLoss(self, smoothing=smoothing, teacher=teacher, temperature=temperature)

    def metric(self, *, taught: bool = False) -> keras.metrics.Metric:
        """The quality for a training loop of Keras's: `accuracy`, with its sign turned where lower is better.

        Args:
            taught: a teacher's words stand behind the labels.
        """
        if self.task.classifies and not taught:
            if self._shapes[0][-1] == 1:
                return keras.metrics.BinaryAccuracy("accuracy", threshold=self.even_odds)
            return keras.metrics.SparseCategoricalAccuracy("accuracy")
        return TaskMetric(self, taught=taught)

    def make_metric(self) -> keras.metrics.Metric:
        """The task's metric, see `update_metric`; of several outputs without a metric of one, the mean loss."""
        if self.task.make_metric is None:
            return keras.metrics.Mean("loss")
        head, shape = self._metric_head()
        return self.task.make_metric(max(shape[-1] or 0, 2) if isinstance(head, Classes) else math.prod(head.shape))

    def update_metric(self, metric: keras.metrics.Metric, labels: Any, joined: Any, sample_weight: Any = None) -> None:
        """Show a batch to a metric of `make_metric`."""
        if self.task.make_metric is None:
            metric.update_state(self.losses(labels, joined, self.tell(joined)), sample_weight=sample_weight)
            return
        truths = self.labels(labels)
        predicted = [head.predict(told) for head, told in zip(self.heads, self.tell(joined), strict=True)]
        if len(self.heads) > 1 and self.task.metric_output is None:
            names = [head.name for head in self.heads]
            metric.update_state(dict(zip(names, truths, strict=True)), dict(zip(names, predicted, strict=True)))
            return
        head, _ = self._metric_head()
        place = self.heads.index(head)
        truth, seen = truths[place], predicted[place]
        if isinstance(head, Pixels) and (sample_weight is not None or head.ignored is not None):
            # Weights are 0 or 1, and metrics that count want whole numbers.
            counted = keras.ops.cast(truth >= 0, "int32")
            if sample_weight is not None:
                counted *= keras.ops.cast(keras.ops.reshape(sample_weight, (-1, *(1 for _ in head.shape))), "int32")
            truth, sample_weight = keras.ops.maximum(truth, 0), counted
        metric.update_state(truth, seen, sample_weight=sample_weight)

    def _metric_head(self) -> tuple[Head, tuple[int | None, ...]]:
        """The output that the metric looks at, and its shape."""
        wanted = self.task.metric_output
        for head, shape in zip(self.heads, self._shapes, strict=True):
            if wanted in (None, head.name):
                return head, shape
        raise DataError(f"'{self._model.name}' has no output '{wanted}'.")

    # ------------------------------------------------------------------ arrays

    def ask(self, images: Any, batch_size: int = 256, run: Callable[..., Any] | None = None) -> np.ndarray:
        """(n, tell_size) float32 what the model tells of images, in inference mode, to teach others.

        Args:
            images: (n, *input shape), an array or images that are read as needed.
            batch_size: images per forward pass.
            run: gives joined outputs in place of the model, which is run eagerly otherwise.
        """
        run, parts = run or partial(run_joined, self._model), []
        with keras_internals.without_gradients():
            for start in range(0, len(images), batch_size):
                told = self.tell(run(images[start : start + batch_size], training=False))
                arrays = [flatten(keras.ops.convert_to_numpy(part)) for part in told]
                parts.append(arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1))
        return np.concatenate(parts).astype(np.float32)

    def apart(self, told: np.ndarray) -> list[np.ndarray]:
        """(n, *told) arrays of what `ask` gives, for each output."""
        parts, start = [], 0
        for shape in self._tell_shapes:
            size = math.prod(shape)
            parts.append(told[:, start : start + size].reshape(len(told), *shape))
            start += size
        return parts

    @property
    def classifier_outputs(self) -> int:
        """How many numbers a classifier gives for an example."""
        return self._shapes[0][-1] or 1


def add_teacher(labels: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """(n, k + tell_size) float32: labels, and beside them what a teacher tells."""
    return np.concatenate([flatten(labels).astype(np.float32), teacher], axis=1)


def split_targets(judge: Judge, targets: Any) -> tuple[Any, Any]:
    """Labels and the teacher's words of the rows of `add_teacher`: tensors."""
    heads = judge.task.heads
    size = sum(math.prod(head.shape) for head in heads)
    labels = targets[:, :size]
    if len(heads) == 1 and isinstance(heads[0], Classes):
        labels = keras.ops.cast(labels, "int32")
    return labels, targets[:, size:]


class TaskLoss(keras.losses.Loss):
    """The losses of a task: (1 - weight) x with the labels + weight x with the teacher.

    A softmax at a temperature does not mind a constant added to all logits, so that logarithms of probabilities do in
    their place; its square keeps the gradients of the soft term as large as the hard one's (Hinton, Vinyals & Dean,
    2015, arXiv 1503.02531, section 2).

    Args:
        judge: judges the model that the network trains.
        smoothing: share of a class label that is spread, see `hard_loss`.
        teacher: weight, from 0 to 1; None for no teacher.
        temperature: above 0; the larger, the more the teacher's small probabilities count.
    """

    def __init__(
        self, judge: Judge, *, smoothing: float = 0.0, teacher: float | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__(name="task_loss")
        self._judge = judge
        self._smoothing = smoothing
        self._weight = teacher
        self._temperature = temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """(n,) losses of labels, or rows made by `add_teacher`, and joined outputs."""
        judge, weight = self._judge, self._weight
        told = judge.tell(y_pred)
        if weight is None:
            return judge.losses(y_true, y_pred, told, self._smoothing)
        labels, teacher = split_targets(judge, y_true)
        hard = judge.losses(labels, y_pred, told, self._smoothing)
        return (1 - weight) * hard + weight * judge.distillation_losses(teacher, told, self._temperature)


class TaskMetric(keras.metrics.Metric):
    """A task's quality, named `accuracy`; the higher the better.

    Args:
        judge: judges the model that the network trains.
        taught: a teacher's words stand behind the labels. What stands behind the outputs is not looked at.
    """

    def __init__(self, judge: Judge, *, taught: bool) -> None:
        super().__init__(name="accuracy")
        self._judge = judge
        self._taught = taught
        self._inner = judge.make_metric()

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch."""
        labels = split_targets(self._judge, y_true)[0] if self._taught else y_true
        if self._taught and self._judge.task.names_classes:
            y_pred = y_pred[:, : self._judge.classifier_outputs]  # Features may stand behind.
        self._judge.update_metric(self._inner, labels, y_pred, sample_weight)

    def result(self) -> Any:
        """The inner metric's, with its sign turned where lower is better."""
        return self._judge.task.measure.sign * self._inner.result()

    def reset_state(self) -> None:
        """Start anew."""
        self._inner.reset_state()


def complain_of_outputs(task: Task, model: Any) -> str:
    """What to do about a model whose outputs are not those of a task."""
    names = keras_internals.output_names(model)
    if len(task.heads) == 1:
        return (
            f"'{model.name}' has the outputs {', '.join(names)}, and task={task.name} is for one. Say what each is "
            f"for: task=outputs task.outputs={{{': ..., '.join(names)}: ...}} with classification, segmentation, "
            "multi_label, regression or density."
        )
    lacking = sorted(set(names) - {head.name for head in task.heads})
    if lacking:
        return (
            f"Output '{lacking[0]}' of '{model.name}' has no task, and so no loss: add it to task.outputs, such as "
            f"task.outputs.{lacking[0]}=regression."
        )
    known = ", ".join(names)
    return f"'{model.name}' has the outputs {known}. Received: task.outputs for {[head.name for head in task.heads]}"


def _mean(losses: Any) -> Any:
    """(n,) of (n, ...)."""
    axes = tuple(range(1, len(losses.shape)))
    return keras.ops.mean(losses, axis=axes) if axes else losses
