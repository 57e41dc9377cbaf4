"""How a pruned model is run: compiled for all widths at once, or eagerly where that cannot be."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from autoprune.models import keras_internals
from autoprune.records import ChannelGroup

if TYPE_CHECKING:
    from autoprune.evaluation.traced import TracedNetwork

logger = logging.getLogger(__name__)


class Passes:
    """The compiled passes of one model for all widths, as long as they do what the model does eagerly.

    They are traced for the dense model and tried whenever a group is pruned for the first time: a layer may hold
    something that depends on its width. Keras's other backends compile for one set of shapes only: there everything
    runs eagerly.

    Args:
        model: the dense model. It must not change but in its widths.
        groups: its channel groups.
        images: (n, *input shape), a few.
        targets: for these images, of a training step; none for a model that is not tuned.
        loss: of a training step, see `TracedNetwork`.
    """

    _traced: "TracedNetwork | None"

    def __init__(
        self,
        model: Any,
        groups: Sequence[ChannelGroup],
        images: np.ndarray,
        targets: np.ndarray | None = None,
        loss: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._few = images, targets
        self._tried: set[str] = set()
        self._traced = None
        layers = keras_internals.layers_by_path(model).values()
        # In half precision gradients have to be scaled, which Keras's own training does.
        if keras.backend.backend() == "tensorflow" and all(layer.compute_dtype != "float16" for layer in layers):
            from autoprune.evaluation.traced import TracedNetwork  # It imports TensorFlow.

            self._traced = TracedNetwork(model, groups, loss)
            self._try(self._traced)

    def compiled(self, pruned: set[str]) -> "TracedNetwork | None":
        """A `TracedNetwork`, or none.

        Args:
            pruned: names of the groups that have fewer channels now than the dense model.
        """
        if self._traced is not None and not pruned <= self._tried:
            self._try(self._traced)
        self._tried |= pruned
        return self._traced

    def _try(self, traced: "TracedNetwork") -> None:
        complaint = traced.complaint(*self._few)
        if complaint:
            logger.info("plans are scored eagerly: %s", complaint)
            self._traced = None
