"""What every criterion is made from, and the registry of criteria.

A criterion is a function from a group to one score per channel; channels with the lowest go first. It is made once for
a model, by a factory that is registered under the criterion's name: the factory of a data-driven criterion runs the
model there, for all groups at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from autoprune.errors import PlanError
from autoprune.models import keras_internals
from autoprune.planning.calibration import CalibrationData, check_images
from autoprune.planning.importance.combining import MemberScores, combine
from autoprune.records import ChannelGroup, Member
from autoprune.registry import Registry
from autoprune.settings import ImportanceSettings


@dataclass(frozen=True, eq=False)
class ImportanceContext:
    """What the factory of a criterion may look at.

    Attributes:
        model: the model; criteria leave it as it is.
        groups: the prunable groups.
        settings: how the members of a group are brought together.
        data: calibration data, or None.
        seed: for criteria that draw random numbers.
    """

    model: Any
    groups: tuple[ChannelGroup, ...]
    settings: ImportanceSettings
    data: CalibrationData | None
    seed: int

    @cached_property
    def layers(self) -> dict[str, Any]:
        """The model's layers by path."""
        return keras_internals.layers_by_path(self.model)

    def variable(self, member: Member) -> Any:
        """The variable of which a member is an axis."""
        return keras_internals.layer_variable(self.layers[member.layer], member.name)

    def value(self, member: Member) -> np.ndarray:
        """Its value, to be read only, as exact as it is stored: sums of it need `dtype=float64`."""
        return keras_internals.array_of(self.variable(member))

    def combine(self, group: ChannelGroup, members: list[MemberScores]) -> np.ndarray:
        """(size of the group,) the scores of several members brought together as the settings say."""
        return combine(group.size, members, self.settings)

    def calibration(self, *, labels: bool = False) -> CalibrationData:
        """The calibration data.

        Args:
            labels: whether the criterion needs labels.

        Raises:
            PlanError: there are none; the message says what to give.
            DataError: the images do not fit the model.
        """
        what = "data=(images, labels)" if labels else "data=images"
        lacking = "data=None" if self.data is None else "no labels"
        if self.data is None or (labels and self.data.labels is None):
            raise PlanError(
                f"The importance '{self.settings.name}' is read from data: give {what}, about 256 images of the "
                f"training split{' with their class numbers' if labels else ''}. Received: {lacking}"
            )
        check_images(self.model, self.data)
        return self.data


Criterion = Callable[[ChannelGroup], np.ndarray]
CriterionFactory = Callable[[ImportanceContext], Criterion]

IMPORTANCES: Registry[CriterionFactory] = Registry("importance")
