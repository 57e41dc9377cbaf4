"""Measures of quality: those that are known by name, Keras's own, and a user's."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from autoprune.errors import SettingsError, words_of
from autoprune.records.measure import Measure
from autoprune.registry import suggestion
from autoprune.tasks.density import Density, bits_per_dimension, nats
from autoprune.tasks.heads import Classes, Head, Labels, Pixels, Values

# Makes a metric of Keras's, of the number of classes or labels that an output tells apart.
MakeMetric = Callable[[int], keras.metrics.Metric]


@dataclass(frozen=True)
class _Known:
    """A measure that is known by name.

    Attributes:
        measure: how it is told.
        kinds: heads that have it.
        make: the metric, of predictions.
    """

    measure: Measure
    kinds: tuple[type[Head], ...]
    make: MakeMetric


def make_accuracy(count: int) -> keras.metrics.Metric:
    """The share of examples that are named right."""
    return keras.metrics.SparseCategoricalAccuracy("accuracy")


_LOSS = Measure(name="loss", lower_is_better=True, is_share=False)
_KNOWN: Mapping[str, _Known] = {
    "accuracy": _Known(Measure(name="accuracy"), (Classes,), make_accuracy),
    "pixel_accuracy": _Known(Measure(name="pixel accuracy"), (Pixels,), make_accuracy),
    "mean_iou": _Known(
        Measure(name="mean IoU"),
        (Pixels,),
        lambda count: keras.metrics.MeanIoU(count, dtype="int32", sparse_y_pred=False),
    ),
    "label_accuracy": _Known(
        Measure(name="accuracy of labels"), (Labels,), lambda count: keras.metrics.BinaryAccuracy(threshold=0.5)
    ),
    "macro_f1": _Known(
        Measure(name="macro F1"), (Labels,), lambda count: keras.metrics.F1Score(average="macro", threshold=0.5)
    ),
    "auc": _Known(
        Measure(name="mean AUC"), (Labels,), lambda count: keras.metrics.AUC(multi_label=True, num_labels=count)
    ),
    "mae": _Known(
        Measure(name="mean absolute error", lower_is_better=True, is_share=False),
        (Values,),
        lambda count: keras.metrics.MeanAbsoluteError(),
    ),
    "rmse": _Known(
        Measure(name="root mean square error", lower_is_better=True, is_share=False),
        (Values,),
        lambda count: keras.metrics.RootMeanSquaredError(),
    ),
    "r2": _Known(Measure(name="R²", is_share=False), (Values,), lambda count: keras.metrics.R2Score()),
    "nats": _Known(
        Measure(name="nats", lower_is_better=True, is_share=False),
        (Density,),
        lambda count: keras.metrics.MeanMetricWrapper(nats, name="nats"),
    ),
    "bits_per_dimension": _Known(
        Measure(name="bits per dimension", lower_is_better=True, is_share=False),
        (Density,),
        lambda count: keras.metrics.MeanMetricWrapper(bits_per_dimension, name="bits_per_dimension"),
    ),
}
_DEFAULTS: Mapping[type[Head], str] = {
    Classes: "accuracy",
    Pixels: "mean_iou",
    Labels: "macro_f1",
    Values: "mae",
    Density: "nats",
}
# Of Keras's metrics, by what their names hold.
_LOWER = ("error", "crossentropy", "entropy", "divergence", "hinge", "poisson", "logcosh", "log_cosh", "loss")
_SHARES = ("accuracy", "iou", "auc", "f1", "fbeta", "precision", "recall", "specificity", "sensitivity")
_HIGHER = (*_SHARES, "r2", "cosine", "correlation", "psnr", "ssim", "dice")


def find_metric(asked: Any, head: Head | None, lower_is_better: bool | None) -> tuple[Measure, MakeMetric | None]:
    """How a model's quality is told, and what makes the metric; None for the loss.

    Args:
        asked: a known name, a name of Keras's, a metric of Keras's or a function of labels and predictions, written
            with `keras.ops`, that gives a number or one for each example; None is what is usual for the head.
        head: the output that it looks at; None for all of several.
        lower_is_better: None is what is known of the metric.

    Raises:
        SettingsError: there is no such metric, it does not suit the output, or it is not known which way is better.
    """
    if asked == "loss" or (asked is None and head is None):
        return _LOSS, None
    if asked is None and head is not None:
        asked = _DEFAULTS[type(head)]
    if isinstance(asked, str) and asked in _KNOWN:
        known = _KNOWN[asked]
        if head is None or not isinstance(head, known.kinds):
            suited = sorted(name for name, one in _KNOWN.items() if head is not None and isinstance(head, one.kinds))
            raise SettingsError(
                f"task.metric={asked} is not for an output of task {head.kind if head else 'outputs'}. "
                f"Those for it: {', '.join(suited) or 'loss'}."
            )
        return known.measure, known.make
    metric = asked
    if isinstance(asked, str):
        try:
            metric = keras.metrics.get(asked)
        except (ValueError, TypeError) as error:
            raise SettingsError(f"There is no metric '{asked}'. {suggestion(asked, _KNOWN)}") from error
    kind = type(metric).__name__ if isinstance(metric, keras.metrics.Metric) else str(asked)
    if isinstance(head, Classes) and re.match(r"(top_?k_?)?categorical", kind, re.IGNORECASE):
        raise SettingsError(
            f"'{kind}' takes one-hot labels, and labels here are class numbers: choose the one whose name begins with "
            "sparse, such as sparse_categorical_accuracy."
        )
    own_name = metric.name if isinstance(metric, keras.metrics.Metric) else getattr(metric, "__name__", "")
    name = str(own_name or type(metric).__name__)
    # Keras numbers metrics that are made without a name.
    unnumbered = re.sub(r"_\d+$", "", name)
    name = unnumbered if unnumbered.replace("_", "") == type(metric).__name__.lower() else name
    names = f"{name} {type(metric).__name__} {getattr(getattr(metric, '_fn', None), '__name__', '')}".lower()
    if lower_is_better is None:
        if not any(word in names for word in (*_LOWER, *_HIGHER)):
            raise SettingsError(
                f"It is not known whether a lower '{name}' is better. Say task.lower_is_better=true or false; from "
                "Python lower_is_better=True or False beside the quality."
            )
        lower_is_better = any(word in names for word in _LOWER)
    is_share = not lower_is_better and isinstance(metric, keras.metrics.Metric) and any(w in names for w in _SHARES)
    measure = Measure(name=name.replace("_", " "), lower_is_better=lower_is_better, is_share=is_share)
    return measure, lambda count: _fresh(metric)


def _fresh(metric: Any) -> keras.metrics.Metric:
    """A metric of its own for each model: a metric keeps variables where it was first used."""
    if isinstance(metric, type):
        return metric()
    if not isinstance(metric, keras.metrics.Metric):

        def per_example(labels: Any, predicted: Any) -> Any:
            value = keras.ops.convert_to_tensor(metric(labels, predicted))
            if len(value.shape):
                return value
            # A number for a batch counts for each of its examples: a short last batch is no whole one.
            count = keras.ops.shape(keras.tree.flatten(labels)[0])[0]
            return value * keras.ops.ones((count,), value.dtype)

        return keras.metrics.MeanMetricWrapper(per_example, name=getattr(metric, "__name__", "quality"))
    try:
        return type(metric).from_config(metric.get_config())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise SettingsError(
            f"The metric '{metric.name}' cannot be made again from its config: {words_of(error, 200)}. Give "
            "`get_config` all arguments of its constructor."
        ) from error
