"""What ranks the channels of a group: the config group `importance`."""

import math
from dataclasses import dataclass, field

from autoprune.settings.checking import check
from autoprune.settings.fields import read_by, unread_by

_NORMALISATIONS = ("mean", "max", "sum", "none")
_OF_GRADIENTS = ("taylor", "loss", "loss_biased", "fisher", "grasp", "gradient_norm", "class_saliency")
_OF_ACTIVATIONS = ("activation", "apoz", "hrank")
_OF_IMAGES = (*_OF_GRADIENTS, *_OF_ACTIVATIONS, "expert_usage")
# Channels that are away are set to zero between rounds: `fpgm` would measure the distances to them too, and experts
# whose router is zero are still chosen.
_IN_ONE_ROUND = ("random", "fpgm", "expert_usage")


@dataclass(frozen=True)
class ImportanceSettings:
    """What ranks the channels of a group.

    Attributes:
        name: from the weights `l1` (sum of the absolute weights of a filter), `l2` (its Euclidean norm), `bn_gamma`
            (absolute scale in batch norm), `fpgm` (distance to the other filters: the most replaceable go first),
            `lamp` (squared norm over that of all filters at least as large) or `random` (noise, the control that every
            other criterion must beat); from training images `taylor` (change of the loss without the channel, to first
            order), `loss` (sum of absolute weight times gradient), `loss_biased` (of absolute squared weight times
            gradient), `fisher` (of their squares), `grasp` (what the length of the gradients loses without the channel:
            those that lengthen them go first), `gradient_norm` (how much that length changes either way),
            `class_saliency` (`loss` with the absolute gradients of each batch; of the classes of `data.classes`),
            `activation` (mean absolute activation), `apoz` (share of activations that are not zero), `hrank` (average
            rank of the feature maps) or `expert_usage` (mean gate of the experts of a mixture; other channels by `l2`).
        reduction: how the scores of the layers that make (or, for activations, read) the channels of one group become
            one: `mean`, `max`, or `first` in data-flow order.
        normalisation: what each layer's scores are divided by before that: their `mean`, `max` or `sum`, or `none`.
        images (images): of the training split, drawn with the seed, that the criterion is computed from.
        temperature (factor): that logits are divided by for `grasp`.
        rounds (times): that the criterion is computed. Between two of them every group does without some of its least
            important channels, down to the narrowest width that the constraints allow, so that what is left is scored
            as it is without them; the first round takes most (`autoprune.planning.harmonic_rounds`).
    """

    name: str = "l1"
    reduction: str = field(default="mean", metadata=unread_by("random", *_OF_GRADIENTS))
    normalisation: str = field(default="mean", metadata=unread_by("random"))
    images: int = field(default=256, metadata=read_by(*_OF_IMAGES))
    temperature: float = field(default=200.0, metadata=read_by("grasp"))
    rounds: int = field(default=1, metadata=unread_by(*_IN_ONE_ROUND))

    def __post_init__(self) -> None:
        for name, known in (("reduction", ("mean", "max", "first")), ("normalisation", _NORMALISATIONS)):
            value = getattr(self, name)
            check(value in known, f"importance.{name}", f"one of {', '.join(known)}", value)
        check(self.images >= 1, "importance.images", "1 or more", self.images)
        check(0 < self.temperature < math.inf, "importance.temperature", "above 0", self.temperature)
        enough = self.rounds >= 1 and (self.rounds == 1 or self.name not in _IN_ONE_ROUND)
        check(enough, "importance.rounds", f"1 or more, and 1 with {', '.join(_IN_ONE_ROUND)}", self.rounds)
