"""How networks are trained and fine-tuned: the config group `training`, whose entries are recipes."""

import math
from dataclasses import dataclass, field
from typing import Any

from autoprune.settings.checking import check

AUGMENTATIONS = ("none", "shift", "shift_flip", "keras")
SCHEDULES = ("cosine", "rewinding")
REMOVALS = ("first", "dpf")
OPTIMIZERS = ("adamw", "sgd", "rep_sgd", "rep_adamw")


@dataclass(frozen=True)
class TrainingSettings:
    """How the dense model is trained and a pruned one fine-tuned.

    Attributes:
        epochs (epochs): of training the dense model, where it is trained here.
        fine_tune_epochs (epochs): after pruning; null is half of `epochs`, rounded up.
        batch_size (images): per step.
        learning_rate (per step): peak of the cosine schedule when training from scratch.
        fine_tune_learning_rate (per step): peak when fine-tuning.
        weight_decay (factor): of the optimiser: decoupled for AdamW, part of the gradient for SGD.
        warm_up (share): of the steps, in which the learning rate rises.
        optimizer: `adamw`; `sgd`, with Nesterov momentum of 0.9; or `rep_sgd` and `rep_adamw`, the same as if every 3x3
            convolution were a block of branches, for plain networks such as VGG (RepOptimizers; Ding et al., 2022,
            arXiv 2205.15242). SGD takes higher learning rates: the recipes `sgd` and `rep_sgd` have some.
        hyper_search_epochs (epochs): in which `rep_sgd` and `rep_adamw` search the scales of their branches first, with
            a network of the same architecture; 0 takes constant ones.
        distillation (weight): of the dense model's probabilities beside the labels when fine-tuning, from 0, for none,
            to 1.
        temperature (factor): of those probabilities; the larger, the more the small ones count.
        feature_distillation (weight): of a term for the features when fine-tuning, 0 for none: it keeps images of a
            batch as similar to each other, by what enters the classifier, as the dense model finds them (Tung & Mori,
            2019, arXiv 1907.09682). The term is small, and falls as batches grow: the recipe of that name gives it 100.
        augmentation: what is done to training images anew in every epoch: `none`, `shift` (by up to an eighth of
            either side, filled with zeros), `shift_flip` (and half of them mirrored), or `keras`: the layers that
            `augmentation_layers` names, in that order.
        augmentation_layers: for `keras`, Keras's layers that change images and leave labels and shapes alone, each
            with its arguments: `[{RandomRotation: {factor: 0.05}}, {RandomZoom: {height_factor: 0.1}}]`.
        schedule: of the learning rate when fine-tuning: `cosine`, or `rewinding`: what training from scratch, with
            `epochs`, `learning_rate` and `warm_up`, had in its last `fine_tune_epochs` (Renda et al., 2020, arXiv
            2003.02389). For a model that was not trained here, set these three to what it was trained with.
        removal: when the channels that a plan takes leave: `first`, or `dpf`: as many, chosen anew every 16 steps in
            the first three quarters of the epochs after pruning, so that those that turn out to be needed come back
            (Lin et al., 2020, arXiv 2006.07253).
        label_smoothing (probability): that is spread over all classes, from 0 to below 1 (Szegedy et al., 2016, arXiv
            1512.00567); labels alone are smoothed, not a teacher's probabilities.
        early_stop (epochs): without a better accuracy on the reward split, after which training ends; null never ends
            it early. The schedule stays that of all epochs.
    """

    epochs: int = 12
    fine_tune_epochs: int | None = None
    batch_size: int = 64
    learning_rate: float = 2e-3
    fine_tune_learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    optimizer: str = "adamw"
    hyper_search_epochs: int = 0
    distillation: float = 0.5
    temperature: float = 2.0
    feature_distillation: float = 0.0
    augmentation: str = "none"
    augmentation_layers: list[Any] = field(default_factory=list)
    schedule: str = "cosine"
    removal: str = "first"
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
        for option, known in (
            *(("augmentation", AUGMENTATIONS), ("schedule", SCHEDULES)),
            *(("removal", REMOVALS), ("optimizer", OPTIMIZERS)),
        ):
            value = getattr(self, option)
            check(value in known, f"training.{option}", f"one of {', '.join(known)}", value)
        searches = self.hyper_search_epochs
        wanted = "0 or more, and 0 unless training.optimizer is rep_sgd or rep_adamw"
        has_scales = self.optimizer.startswith("rep_")
        check(searches == 0 or (searches > 0 and has_scales), "training.hyper_search_epochs", wanted, searches)
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
