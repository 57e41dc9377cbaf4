"""How a pruned model is run: compiled for all plans at once, or eagerly where that cannot be."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from autoprune.models import keras_internals
from autoprune.records import Branch, ChannelGroup

if TYPE_CHECKING:
    from autoprune.evaluation.traced import TracedNetwork

logger = logging.getLogger(__name__)


class Passes:
    """The compiled passes of one model for all plans, as long as they do what the model does eagerly.

    They are traced for the dense model and tried whenever a group is pruned, or a branch dropped, for the first time: a
    layer may hold something that depends on its width. Where they fail with branches dropped, or cannot be traced so
    that branches can be, models without these run eagerly and others compiled. Keras's other backends compile for one
    set of shapes only: there everything runs eagerly.

    Args:
        model: the dense model. It must not change but by surgery.
        groups: its channel groups.
        images: (n, *input shape), a few.
        targets: for these images, of a training step; none for a model that is not tuned.
        loss: of a training step, see `TracedNetwork`.
        branches: its branches; none for a model that only gets narrower.
    """

    _traced: "TracedNetwork | None"

    def __init__(
        self,
        model: Any,
        groups: Sequence[ChannelGroup],
        images: np.ndarray,
        targets: np.ndarray | None = None,
        loss: Callable[[Any, Any], Any] | None = None,
        branches: Sequence[Branch] = (),
    ) -> None:
        self._few = images, targets
        self._tried: set[str] = set()
        self._branches = {branch.name for branch in branches}
        self._serves_drops = any(branch.removable for branch in branches)
        self._traced = None
        layers = keras_internals.layers_by_path(model).values()
        # In half precision gradients have to be scaled, which Keras's own training does.
        if keras.backend.backend() != "tensorflow" or any(layer.compute_dtype == "float16" for layer in layers):
            return
        from autoprune.evaluation.traced import TracedNetwork  # It imports TensorFlow.

        if self._serves_drops:
            self._traced = TracedNetwork(model, groups, loss, branches)
            self._serves_drops = self._agrees(self._traced, "plans that drop branches are")
        if not self._serves_drops:
            traced = TracedNetwork(model, groups, loss)
            self._traced = traced if self._agrees(traced, "plans are") else None

    def compiled(self, pruned: set[str]) -> "TracedNetwork | None":
        """A `TracedNetwork`, or none.

        Args:
            pruned: names of the groups that have fewer channels now than the dense model, and of the branches that it
                lacks, see `Plan.pruned`.
        """
        drops = bool(pruned & self._branches)
        if self._traced is None or (drops and not self._serves_drops):
            return None
        if not pruned <= self._tried:
            what = "plans that drop branches are" if drops else "plans are"
            agrees = self._agrees(self._traced, what)
            if not agrees and drops:
                self._serves_drops = False
                return None
            if not agrees:
                self._traced = None
        self._tried |= pruned
        return self._traced

    def _agrees(self, traced: "TracedNetwork", what: str) -> bool:
        """Whether it can run the model as it is now; says what is scored eagerly if it cannot."""
        complaint = traced.complaint(*self._few)
        if complaint:
            logger.info("%s scored eagerly: %s", what, complaint)
        return not complaint
