"""What the model is for: the config group `task`."""

from dataclasses import dataclass

from autoprune.settings.checking import check

# Kinds of a single output.
OUTPUT_TASKS = ("classification", "segmentation", "multi_label", "regression", "density")


@dataclass(frozen=True)
class TaskSettings:
    """What the model is for, and what its quality is measured by.

    Attributes:
        name: `classification` (one class of each image), `segmentation` (one class of each pixel), `multi_label` (yes
            or no to each of several labels), `regression` (numbers), `density` (how probable an example is, without
            labels), or `outputs` for a model of several outputs.
        metric: the measure of quality. Null is `accuracy` of classification, `mean_iou` of segmentation, `macro_f1` of
            labels, `mae` of regression, `nats` of densities and `loss` of several outputs; besides these
            `pixel_accuracy`, `label_accuracy`, `auc`, `rmse`, `r2`, `bits_per_dimension`, and any metric of Keras by
            its name.
        lower_is_better (true or false): whether a smaller figure of the metric is the better one; null is what is
            known of it.
        loss: of training, by Keras's name, such as `huber`; null is cross-entropy, the mean square for numbers, the
            negative logarithm of a density.
        outputs (tasks): of a model of several outputs the task of each, by the output's name.
        losses (losses): of several outputs, by the output's name; the usual one where it is left out.
        weights (weights): of the losses of several outputs, by the output's name; 1 where it is left out.
        metric_output: the output whose metric is the measure, where there are several; null looks at all of them, with
            `metric=loss`.
        ignored_class: class number of pixels that do not count, such as 255; null is none.
    """

    name: str = "classification"
    metric: str | None = None
    lower_is_better: bool | None = None
    loss: str | None = None
    # Null and no empty mapping, into which the command line could put nothing.
    outputs: dict[str, str] | None = None
    losses: dict[str, str] | None = None
    weights: dict[str, float] | None = None
    metric_output: str | None = None
    ignored_class: int | None = None

    def __post_init__(self) -> None:
        known = (*OUTPUT_TASKS, "outputs")
        check(self.name in known, "task", f"one of {', '.join(known)}", self.name)
        several, outputs = self.name == "outputs", self.outputs or {}
        wanted = "a task for each output by its name, such as {class: classification, box: regression}"
        check(bool(outputs) == several, "task.outputs", f"{wanted}, with task=outputs", self.outputs)
        for output, task in outputs.items():
            check(task in OUTPUT_TASKS, f"task.outputs.{output}", f"one of {', '.join(OUTPUT_TASKS)}", task)
        for name in ("losses", "weights"):
            for output in getattr(self, name) or ():
                check(output in outputs, f"task.{name}", "given for outputs in task.outputs", output)
        for output, loss in (self.losses or {}).items():
            check(outputs[output] != "density", f"task.losses.{output}", "left out for a density", loss)
        for output, weight in (self.weights or {}).items():
            check(weight > 0, f"task.weights.{output}", "above 0", weight)
        check(self.loss is None or self.name != "density", "task.loss", "null with task=density", self.loss)
        check(self.loss is None or not several, "task.loss", "task.losses where there are several outputs", self.loss)
        named = self.metric_output is None or self.metric_output in outputs
        check(named, "task.metric_output", "null, or one of task.outputs", self.metric_output)
        if several and self.metric not in (None, "loss"):
            wanted = "given beside a metric other than loss: which output it looks at"
            check(self.metric_output is not None, "task.metric_output", wanted, self.metric_output)
        kinds = list(outputs.values()) if several else [self.name]
        fits = self.ignored_class is None or "segmentation" in kinds
        check(fits, "task.ignored_class", "given with task=segmentation", self.ignored_class)
