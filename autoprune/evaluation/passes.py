"""How a pruned model is run: compiled for all widths at once, or eagerly where that cannot be."""

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

logger = logging.getLogger(__name__)


class Passes:
    """The compiled passes of one model, as long as they do what the model does eagerly.

    They are tried, on a few images, whenever a group is pruned for the first time: a layer may hold something that
    depends on its width. Keras's other backends compile for one set of shapes only: there everything runs eagerly.

    Args:
        model: must not change but in its widths.
        loss: of a training step, see `TracedNetwork`; none for a model that is not tuned.
    """

    def __init__(self, model: Any, loss: Callable[[Any, Any], Any] | None = None) -> None:
        self._tried: set[str] = set()
        self._traced = None
        if keras.backend.backend() == "tensorflow" and keras.config.dtype_policy().name != "mixed_float16":
            from autoprune.evaluation.traced import TracedNetwork  # It imports TensorFlow.

            self._traced = TracedNetwork(model, loss)

    def compiled(self, pruned: set[str], images: np.ndarray, targets: np.ndarray | None = None) -> Any | None:
        """A `TracedNetwork`, or none.

        Args:
            pruned: names of the groups that have fewer channels now than the dense model.
            images: (n, *input shape), a few.
            targets: of a training step, for a model that is tuned.
        """
        if self._traced is not None and not pruned <= self._tried:
            complaint = self._traced.complaint(images, targets)
            if complaint:
                logger.info("plans are scored eagerly: %s", complaint)
                self._traced = None
        self._tried |= pruned
        return self._traced
