"""What a model is for: its outputs, each with what it is for, and what the model's quality is measured by."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from autoprune.errors import DataError
from autoprune.models import keras_internals
from autoprune.models.outputs import flatten
from autoprune.records.measure import ACCURACY, Measure
from autoprune.settings.task import TaskSettings
from autoprune.tasks.density import Density
from autoprune.tasks.heads import Classes, Head, Labels, Pixels, Values
from autoprune.tasks.metrics import MakeMetric, find_metric, make_accuracy
from autoprune.tasks.own_losses import as_loss, identify


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model is for.

    Labels of several outputs lie in one array (n, k), one output's behind the other's: whatever slices, shuffles or
    stores labels need not know.

    Attributes:
        name: name in `TaskSettings`.
        heads: what each output is for.
        measure: how quality is told.
        make_metric: makes the metric; None is the loss.
        metric_output: the output that the metric looks at; None is the only one, or all.
        settings: what it was made of, to be made again elsewhere; None where it holds what settings cannot say.
        metric_identity: what tells a metric of a user's own from others.
    """

    name: str = "classification"
    heads: tuple[Head, ...] = (Classes(),)
    measure: Measure = ACCURACY
    make_metric: MakeMetric | None = make_accuracy
    metric_output: str | None = None
    settings: TaskSettings | None = field(default_factory=TaskSettings)
    metric_identity: str = ""

    @property
    def classifies(self) -> bool:
        """Whether each example has one class, and quality is the share of those that are named right."""
        return self.names_classes and self.make_metric is make_accuracy

    @property
    def names_classes(self) -> bool:
        """Whether each example has one class."""
        return len(self.heads) == 1 and type(self.heads[0]) is Classes

    def describe(self) -> dict[str, Any]:
        """What it is, as plain data, to tell tasks apart."""
        return {
            "settings": None if self.settings is None else dataclasses.asdict(self.settings),
            "measure": dataclasses.asdict(self.measure),
            "metric": self.metric_identity,
            "outputs": [
                {
                    "name": head.name,
                    "kind": head.kind,
                    "shape": list(head.shape),
                    "weight": head.weight,
                    "loss": head.loss.identity if head.loss is not None else "",
                    "ignored": getattr(head, "ignored", None),
                }
                for head in self.heads
            ],
        }

    def read_labels(self, labels: Any) -> tuple["Task", np.ndarray]:
        """Labels of what a user gives: an array, or a mapping with one for each of several outputs.

        Returns:
            This task with the shapes and the spread of these labels, and (n, ...) the labels.

        Raises:
            DataError: they are of another kind, or differ in number.
        """
        if len(self.heads) == 1:
            read = self.heads[0].read_labels(labels)
            return replace(self, heads=(self.heads[0].fit_to(read),)), read
        names = [head.name for head in self.heads]
        if not isinstance(labels, Mapping) or set(labels) != set(names):
            got = sorted(labels) if isinstance(labels, Mapping) else type(labels).__name__
            raise DataError(f"Labels of several outputs are a mapping from {', '.join(names)}. Received: {got}")
        parts = []
        for head in self.heads:
            try:
                parts.append(head.read_labels(labels[head.name]))
                if type(head) is Classes and parts[-1].min(initial=0) < 0:
                    raise DataError(f"class numbers begin at 0. Received: {parts[-1].min()}")
            except DataError as error:
                raise DataError(f"Labels of output '{head.name}': {error}") from error
        counts = dict(zip(names, map(len, parts), strict=True))
        if len(set(counts.values())) > 1:
            raise DataError(f"There is a label of each output for every example. Received: {counts}")
        fitted = tuple(head.fit_to(part) for head, part in zip(self.heads, parts, strict=True))
        packed = np.concatenate([flatten(part).astype(np.float32) for part in parts], axis=1)
        return replace(self, heads=fitted), packed

    def label_facts(self) -> list[dict[str, Any]]:
        """What `read_labels` has learnt of the labels of each output, as plain data."""
        return [{"shape": list(head.shape), "variance": getattr(head, "variance", None)} for head in self.heads]

    def refit(self, fitted: list[dict[str, Any]]) -> "Task":
        """This task with what another has learnt of its labels, see `label_facts`."""
        heads = []
        for head, known in zip(self.heads, fitted, strict=True):
            again = replace(head, shape=tuple(known["shape"]))
            heads.append(replace(again, variance=known["variance"]) if isinstance(again, Values) else again)
        return replace(self, heads=tuple(heads))

    def unpack(self, labels: Any) -> list[Any]:
        """The labels of each output, arrays or tensors, of one array; class numbers as whole numbers."""
        if len(self.heads) == 1:
            # Keras gives a vector of labels an axis of one.
            shape = (-1, *self.heads[0].shape)
            return [labels if isinstance(labels, np.ndarray) else keras.ops.reshape(labels, shape)]
        parts, start = [], 0
        for head in self.heads:
            size = math.prod(head.shape)
            part = labels[:, start : start + size]
            if isinstance(part, np.ndarray):
                part = part.reshape(len(part), *head.shape)
                parts.append(part.astype(np.int64) if isinstance(head, Classes) else part)
            else:
                part = keras.ops.reshape(part, (-1, *head.shape))
                parts.append(keras.ops.cast(part, "int32") if isinstance(head, Classes) else part)
            start += size
        return parts

    def with_metric(self, metric: Any, lower_is_better: bool | None = None) -> "Task":
        """This task with another measure of quality, see `find_metric`.

        Raises:
            SettingsError: the metric cannot be used.
        """
        wanted = self.metric_output
        head = self.heads[0] if len(self.heads) == 1 else next((h for h in self.heads if h.name == wanted), None)
        measure, make = find_metric(metric, head, lower_is_better)
        settings = None
        if self.settings is not None and (metric is None or isinstance(metric, str)):
            settings = replace(self.settings, metric=metric, lower_is_better=lower_is_better)
        identity = "" if metric is None or isinstance(metric, str) else identify(metric)
        return replace(self, measure=measure, make_metric=make, settings=settings, metric_identity=identity)

    def with_losses_of(self, model: Any) -> "Task":
        """This task with the losses, and their weights, that a model is compiled with, where an output has no loss.

        Those are left out that are the outputs' own kinds' already: plain cross-entropies, and of numbers the mean
        square.
        """
        compiled = getattr(model, "loss", None) if getattr(model, "compiled", False) else None
        if compiled is None or self.names_classes:
            return self
        losses = _by_output(compiled, model)
        weights = _by_output((model.get_compile_config() or {}).get("loss_weights"), model)
        heads = []
        for head in self.heads:
            name = head.name if len(self.heads) > 1 else next(iter(losses), "")
            given, plain = losses.get(name), _PLAIN | (_SQUARES if isinstance(head, Values) else frozenset())
            told = getattr(given, "name", None) or getattr(given, "__name__", None) or str(given)
            changes: dict[str, Any] = {}
            if head.loss is None and given is not None and told.lower().replace("_", "") not in plain:
                changes["loss"] = as_loss(given)
            if len(self.heads) > 1 and weights.get(name) is not None:
                changes["weight"] = float(weights[name])
            heads.append(replace(head, **changes))
        changed = any(new != old for new, old in zip(heads, self.heads, strict=True))
        return replace(self, heads=tuple(heads), settings=None) if changed else self


_PLAIN = frozenset({"crossentropy", "binarycrossentropy", "categoricalcrossentropy", "sparsecategoricalcrossentropy"})
_SQUARES = frozenset({"mse", "meansquarederror"})


def _by_output(given: Any, model: Any) -> Mapping[str, Any]:
    """What a model is compiled with, by the names of its outputs; it may be given by the keys of their mapping too."""
    names = keras_internals.output_names(model)
    if isinstance(given, (list, tuple)):
        return dict(zip(names, given, strict=False))
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    structure = keras_internals.output_structure(model)
    keys = sorted(structure) if isinstance(structure, Mapping) else names
    known = dict(zip(keys, names, strict=True)) if len(keys) == len(names) else {}
    return {str(known.get(key) or key): one for key, one in given.items()}


CLASSIFICATION = Task()


def make_task(settings: TaskSettings) -> Task:
    """The task that settings describe.

    Raises:
        SettingsError: a metric or loss does not exist, or does not suit.
    """
    kinds: dict[str, type[Head]] = {
        "classification": Classes,
        "segmentation": Pixels,
        "multi_label": Labels,
        "regression": Values,
        "density": Density,
    }
    several = settings.name == "outputs"
    heads = []
    losses, weights = settings.losses or {}, settings.weights or {}
    for name, kind in (settings.outputs or {}).items() if several else (("output", settings.name),):
        loss = losses.get(name, settings.loss)
        head = kinds[kind](name=name, weight=weights.get(name, 1.0), loss=as_loss(loss) if loss else None)
        heads.append(replace(head, ignored=settings.ignored_class) if isinstance(head, Pixels) else head)
    looked_at = next((head for head in heads if head.name == settings.metric_output), None if several else heads[0])
    measure, make = find_metric(settings.metric, looked_at, settings.lower_is_better)
    return Task(
        name=settings.name,
        heads=tuple(heads),
        measure=measure,
        make_metric=make,
        metric_output=settings.metric_output,
        settings=settings,
    )
