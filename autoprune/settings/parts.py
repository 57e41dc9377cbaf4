"""The parts that commands' settings are made of, one for each config group."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.settings.checking import check, check_seed

_NORMALISATIONS = ("mean", "max", "sum", "none")
SCORES = ("accuracy", "likelihood", "agreement")
AUGMENTATIONS = ("none", "shift", "shift_flip", "keras")
SCHEDULES = ("cosine", "rewinding")
_KNOWN_DATA = ("digits", "fashion_mnist", "cifar10", "cifar100", "npz", "image_folder", "tfds")
# Which data sets read an option.
_READERS = {
    "path": ("npz",),
    "dir": ("fashion_mnist", "cifar10", "cifar100", "image_folder", "tfds"),
    "dataset": ("tfds",),
}


@dataclass(frozen=True)
class ModelSettings:
    """Which model.

    Attributes:
        name: an architecture of the zoo (`small_resnet`, `plain_cnn`, `small_mobilenet`, `small_densenet`,
            `resnet20`, `vgg16`, `mobilenet_v2`), a network of `keras.applications` by its name there (`ResNet50`), or
            `file`.
        path: the `.keras` file, or an HDF5 file of a whole model, for `file`; to measure, also a list of files.
        width: factor on every layer's channels, for architectures of the zoo.
        input_shape: shape of one image; by default the data's, or what the architecture is known for.
        classes: number of classes; by default likewise.
        weights: of a network of `keras.applications`: `imagenet`, a `.weights.h5` file for this very network, or null
            for new ones. It is trained unless they come with a classifier for these classes.
        modules: Python modules that are imported before a file is loaded, for the layers and layer kinds
            that they register.
        modules_from: folder that they are looked for in before the import path; null is the working folder.
        safe_mode: refuse files that hold code, as those with a Lambda layer do, which would be run.
    """

    name: str = "small_resnet"
    path: Any = None
    width: float = 1.0
    input_shape: list[int] | None = None
    classes: int | None = None
    weights: str | None = None
    modules: list[str] = field(default_factory=list)
    modules_from: str | None = None
    safe_mode: bool = True

    def __post_init__(self) -> None:
        if self.modules and self.modules_from is None:
            object.__setattr__(self, "modules_from", str(Path.cwd()))  # A run may be resumed from elsewhere.
        check(self.width > 0, "model.width", "above 0", self.width)
        read = self.path is None or self.name == "file"
        check(read, "model.path", f"given with model=file; model={self.name} does not read it", self.path)
        files = self.path if isinstance(self.path, list) else [self.path] if self.path is not None else []
        named = all(isinstance(file, str) and file for file in files) and self.path != []
        check(named, "model.path", "the name of a file; to measure, also a list of them", self.path)


@dataclass(frozen=True)
class DataSettings:
    """Which data, and how they are split.

    Attributes:
        name: a registered data set: `digits`, `fashion_mnist`, `cifar10`, `cifar100`, `npz`, `image_folder`, `tfds`.
        dir: folder with the data set's files, where it has some.
        path: the file, for `npz`.
        dataset: name in TensorFlow Datasets, for `tfds`.
        train_split: of that data set, for training images and rewards.
        test_split: likewise, for the final report.
        image_size: height and width, and if you like channels, that images are resized to; null is what the model
            takes, where it says that.
        crop_to_aspect_ratio: cut images around the middle before they are resized, instead of distorting them.
        preprocessing: values of the pixels: `none` (0 to 255), `unit` (0 to 1), `tf` (-1 to 1), `caffe`, `torch`, or a
            network of `keras.applications` for its own; `auto` is that of the model, if it is one of these, and
            otherwise 0 to 1. An `npz` is left as it is by `auto`.
        reward_size: images in the reward split; a number below 1 is a share of the training images.
        train_size: training images used, drawn from those that the reward split leaves; null is all.
        seed: of the splits.
    """

    name: str = "digits"
    dir: str | None = None
    path: str | None = None
    reward_size: float = 0.2
    train_size: int | None = None
    seed: int = 0
    dataset: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    image_size: list[int] | None = None
    crop_to_aspect_ratio: bool = False
    preprocessing: str = "auto"

    def __post_init__(self) -> None:
        enough = self.train_size is None or self.train_size >= 1
        check(enough, "data.train_size", "1 or more, or null", self.train_size)
        check_seed("data.seed", self.seed)
        for option, readers in _READERS.items():
            value = getattr(self, option)
            read = value is None or self.name in readers or self.name not in _KNOWN_DATA
            wanted = f"given with data={' or '.join(readers)}; data={self.name} does not read it"
            check(read, f"data.{option}", wanted, value)
        size = self.image_size
        fits = size is None or (len(size) in (2, 3) and min(size) >= 1)
        check(fits, "data.image_size", "[height,width], or with channels [height,width,3], or null", size)


@dataclass(frozen=True)
class Constraints:
    """Limits on every group.

    Attributes:
        multiple_of: widths are multiples of this; the dense width always stays allowed, and a group smaller than
            this is left whole. None: of 8, or for a group that this leaves fewer than two narrower widths, of the
            largest of 4, 2 and 1 that leaves them.
        min_keep_ratio: no group is cut below this share of its channels.
        widths: `multiple` allows every such width; `staircase` only those that the target makes worth having: a search
            first costs the dense model with each group at some of its widths, and drops one that is no faster than a
            wider one.
        staircase_points: widths of a group that are costed for that, at most.
    """

    multiple_of: int | None = 8
    min_keep_ratio: float = 0.1
    widths: str = "multiple"
    staircase_points: int = 12

    def __post_init__(self) -> None:
        known = ("multiple", "staircase")
        check(self.widths in known, "constraints.widths", f"one of {', '.join(known)}", self.widths)
        check(self.staircase_points >= 2, "constraints.staircase_points", "2 or more", self.staircase_points)
        allowed = self.multiple_of is None or self.multiple_of >= 1
        check(allowed, "constraints.multiple_of", "1 or more, or null for a step by group size", self.multiple_of)
        allowed = 0 < self.min_keep_ratio <= 1
        check(allowed, "constraints.min_keep_ratio", "above 0 and at most 1", self.min_keep_ratio)


@dataclass(frozen=True)
class EvaluationSettings:
    """How a plan is scored.

    Attributes:
        batch_size: images per forward pass on this host.
        recalibration_images: training images from which batch-norm statistics are estimated anew.
        recovery: what is done to a pruned model before that: `none`, `reconstruction` (the layers behind the removed
            channels are fitted by least squares to what they gave before) or `tuning` (a few optimiser steps with
            distillation from the dense model).
        recovery_images: training images for the recovery.
        tuning_steps: optimiser steps, for `tuning`.
        score: what tells plans apart: `accuracy` on the reward split, `likelihood` (the geometric mean of the
            probabilities of the right classes) or `agreement` (the same for the dense model's probabilities: the
            exponential of minus the divergence from them). None is the likelihood; the commands make it the accuracy
            under a reward with an accuracy floor.
    """

    batch_size: int = 256
    recalibration_images: int = 512
    recovery: str = "tuning"
    recovery_images: int = 640
    tuning_steps: int = 10
    score: str | None = None

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "evaluation.batch_size", "1 or more", self.batch_size)
        for name in ("recalibration_images", "recovery_images", "tuning_steps"):
            check(getattr(self, name) >= 1, f"evaluation.{name}", "1 or more", getattr(self, name))
        for name, known in (("recovery", ("none", "reconstruction", "tuning")), ("score", (*SCORES, None))):
            check(
                getattr(self, name) in known,
                f"evaluation.{name}",
                f"one of {', '.join(map(str, known))}",
                getattr(self, name),
            )


@dataclass(frozen=True)
class TrainingSettings:
    """How the dense model is trained and a pruned one fine-tuned.

    Attributes:
        epochs: epochs of training from scratch.
        fine_tune_epochs: epochs after pruning; null is half of `epochs`, rounded up.
        batch_size: images per step.
        learning_rate: peak of the cosine schedule when training from scratch.
        fine_tune_learning_rate: peak when fine-tuning.
        weight_decay: decoupled weight decay of AdamW.
        warm_up: share of the steps in which the learning rate rises.
        distillation: weight of the dense model's probabilities beside the labels when fine-tuning, from 0 to 1.
        temperature: of those probabilities; the larger, the more the small ones count.
        feature_distillation: weight of a term for the features when fine-tuning, 0 for none: how similar the images of
            a batch are, by what enters the classifier, shall be as it is for the dense model (Tung & Mori, 2019, arXiv
            1907.09682). The term is small: the recipe of that name gives it 100.
        augmentation: what is done to training images anew in every epoch: `none`, `shift` (by up to an eighth of
            either side, filled with zeros), `shift_flip` (and half of them mirrored), or `keras`: the layers that
            `augmentation_layers` names, in that order.
        augmentation_layers: for `keras`, Keras's layers that change images and leave labels and shapes alone, each
            with its arguments: `[{RandomRotation: {factor: 0.05}}, {RandomZoom: {height_factor: 0.1}}]`.
        schedule: of the learning rate when fine-tuning: `cosine`, or `rewinding`: what training from scratch, with
            `epochs`, `learning_rate` and `warm_up`, had in its last `fine_tune_epochs` (Renda et al., 2020, arXiv
            2003.02389). For a model that was not trained here, set these to what it was trained with.
        label_smoothing: probability that is spread over all classes, from 0 to below 1 (Szegedy et al., 2016, arXiv
            1512.00567); labels alone are smoothed, not a teacher's probabilities.
        early_stop: epochs without a better accuracy on the reward split after which training ends; null never ends it
            early. The schedule stays that of all epochs.
    """

    epochs: int = 20
    fine_tune_epochs: int | None = None
    batch_size: int = 64
    learning_rate: float = 2e-3
    fine_tune_learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    distillation: float = 0.5
    temperature: float = 2.0
    feature_distillation: float = 0.0
    augmentation: str = "none"
    augmentation_layers: list[Any] = field(default_factory=list)
    schedule: str = "cosine"
    label_smoothing: float = 0.0
    early_stop: int | None = None

    def __post_init__(self) -> None:
        check(self.epochs >= 1, "training.epochs", "1 or more", self.epochs)
        check(self.batch_size >= 1, "training.batch_size", "1 or more", self.batch_size)
        check(self.after_pruning >= 0, "training.fine_tune_epochs", "0 or more", self.fine_tune_epochs)
        check(0 <= self.distillation <= 1, "training.distillation", "from 0 to 1", self.distillation)
        check(self.temperature > 0, "training.temperature", "above 0", self.temperature)
        weight = self.feature_distillation
        check(0 <= weight < math.inf, "training.feature_distillation", "0 or more", weight)
        check(0 <= self.label_smoothing < 1, "training.label_smoothing", "from 0 to below 1", self.label_smoothing)
        patient = self.early_stop is None or self.early_stop >= 1
        check(patient, "training.early_stop", "1 or more epochs, or null", self.early_stop)
        for option, known in (("augmentation", AUGMENTATIONS), ("schedule", SCHEDULES)):
            value = getattr(self, option)
            check(value in known, f"training.{option}", f"one of {', '.join(known)}", value)
        named = (self.augmentation == "keras") == bool(self.augmentation_layers)
        wanted = "given with training.augmentation=keras, and only then"
        check(named, "training.augmentation_layers", wanted, self.augmentation_layers)
        if self.schedule == "rewinding":
            rewindable = self.after_pruning <= self.epochs
            wanted = f"at most training.epochs ({self.epochs}) with training.schedule=rewinding"
            check(rewindable, "training.fine_tune_epochs", wanted, self.fine_tune_epochs)

    @property
    def after_pruning(self) -> int:
        """Epochs of fine-tuning."""
        return (self.epochs + 1) // 2 if self.fine_tune_epochs is None else self.fine_tune_epochs

    @property
    def needs_teacher(self) -> bool:
        """Whether fine-tuning learns from more than the labels, where there is a teacher."""
        return self.distillation > 0 or self.feature_distillation > 0


@dataclass(frozen=True)
class AgentSettings:
    """The SB3 agent.

    Attributes:
        name: `dyna_ppo`, `sac`, `td3`, `ddpg` or `ppo`; of sb3-contrib `tqc` or `recurrent_ppo`.
        options: keyword arguments of the SB3 class, such as `learning_rate`.
        warm_up: share of the evaluations in which actions (off-policy agents) or plans (`dyna_ppo`) are random.
        net: units of the hidden layers of actor and critic.
    """

    name: str = "dyna_ppo"
    options: dict[str, Any] = field(default_factory=dict)
    warm_up: float = 0.25
    net: list[int] = field(default_factory=lambda: [64, 64])

    def __post_init__(self) -> None:
        check(0 <= self.warm_up <= 1, "agent.warm_up", "a share of the evaluations, from 0 to 1", self.warm_up)
        wanted = "units of each hidden layer, 1 or more, such as [64,64]"
        check(all(units >= 1 for units in self.net), "agent.net", wanted, self.net)
        layered = self.name != "recurrent_ppo" or len(self.net) > 0
        wanted = "one layer or more with agent=recurrent_ppo, whose LSTM has as many units as the first"
        check(layered, "agent.net", wanted, self.net)


@dataclass(frozen=True)
class LimitsSettings:
    """How much a search may do.

    Attributes:
        evaluations: plans that each searcher may score.
        finalists: how many of each searcher's best plans are fine-tuned; its result is the one that is best then, on
            the reward split. A score ranks plans as they are before fine-tuning, which is not quite how they end.
        project: bring every proposed plan onto the budget before it is scored, as guesses of its cost allow.
        screen: leave plans unscored that are guessed to miss the budget, where a searcher can propose another.
    """

    evaluations: int = 60
    finalists: int = 1
    project: bool = False
    screen: bool = False

    def __post_init__(self) -> None:
        check(self.evaluations >= 1, "search.evaluations", "1 or more", self.evaluations)
        check(self.finalists >= 1, "search.finalists", "1 or more", self.finalists)


@dataclass(frozen=True)
class SearcherSettings:
    """What proposes plans.

    Attributes:
        name: `rl`, `greedy`, `evolution`, `bayes`, `random`, or a rule set by hand: `uniform`, `uniform_skip`,
            `uniform_width`.
    """

    name: str = "rl"


@dataclass(frozen=True)
class ImportanceSettings:
    """What ranks the channels of a group.

    Attributes:
        name: from the weights `l1`, `l2`, `bn_gamma`, `fpgm`, `lamp` or `random`; from training images `taylor`,
            `activation`, `apoz` or `hrank`.
        reduction: how the scores of the layers that make (or, for activations, read) the channels of one group become
            one: `mean`, `max`, or `first` in data-flow order.
        normalisation: what each layer's scores are divided by before that: their `mean`, `max` or `sum`, or `none`.
        images: training images that a search reads the measure from.
    """

    name: str = "l1"
    reduction: str = "mean"
    normalisation: str = "mean"
    images: int = 256

    def __post_init__(self) -> None:
        for option, known in (("reduction", ("mean", "max", "first")), ("normalisation", _NORMALISATIONS)):
            value = getattr(self, option)
            check(value in known, f"importance.{option}", f"one of {', '.join(known)}", value)
        check(self.images >= 1, "importance.images", "1 or more", self.images)
