"""What ranks the channels of a group: the config group `importance`."""

from dataclasses import dataclass, field

from autoprune.settings.checking import check
from autoprune.settings.fields import read_by, unread_by

_NORMALISATIONS = ("mean", "max", "sum", "none")


@dataclass(frozen=True)
class ImportanceSettings:
    """What ranks the channels of a group.

    Attributes:
        name: from the weights `l1` (sum of the absolute weights of a filter), `l2` (its Euclidean norm), `bn_gamma`
            (absolute scale in batch norm), `fpgm` (distance to the other filters: the most replaceable go first),
            `lamp` (squared norm over that of all filters at least as large) or `random` (noise, the control that every
            other criterion must beat); from training images `taylor` (change of the loss without the channel, to first
            order), `activation` (mean absolute activation), `apoz` (share of activations that are not zero) or `hrank`
            (average rank of the feature maps).
        reduction: how the scores of the layers that make (or, for activations, read) the channels of one group become
            one: `mean`, `max`, or `first` in data-flow order.
        normalisation: what each layer's scores are divided by before that: their `mean`, `max` or `sum`, or `none`.
        images (images): of the training split, drawn with the seed, that the criterion is computed from.
    """

    name: str = "l1"
    reduction: str = field(default="mean", metadata=unread_by("random", "taylor"))
    normalisation: str = field(default="mean", metadata=unread_by("random"))
    images: int = field(default=256, metadata=read_by("taylor", "activation", "apoz", "hrank"))

    def __post_init__(self) -> None:
        for name, known in (("reduction", ("mean", "max", "first")), ("normalisation", _NORMALISATIONS)):
            value = getattr(self, name)
            check(value in known, f"importance.{name}", f"one of {', '.join(known)}", value)
        check(self.images >= 1, "importance.images", "1 or more", self.images)
