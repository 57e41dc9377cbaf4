"""How a plan is scored: the options under `evaluation`."""

from dataclasses import dataclass

from autoprune.settings.checking import check

SCORES = ("accuracy", "likelihood", "agreement")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a plan is scored.

    Attributes:
        batch_size (images): per forward pass on this host.
        recalibration_images (images): of the training split, from which batch-norm statistics are estimated anew.
        recovery: what is done to a pruned model before it is scored: `none`, `reconstruction` (the layers behind the
            removed channels are fitted by least squares to what they gave before) or `tuning` (a few optimiser steps
            with distillation from the dense model).
        recovery_images (images): of the training split, for the recovery.
        tuning_steps (steps): of the optimiser, for `tuning`.
        score: what tells plans apart: `accuracy` on the reward split, `likelihood` (the geometric mean of the
            probabilities of the right classes) or `agreement` (the same for the dense model's probabilities: the
            exponential of minus the divergence from them). Null is the likelihood, or the accuracy under a reward
            with an accuracy floor.
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
