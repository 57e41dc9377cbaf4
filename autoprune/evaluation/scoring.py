"""Scores plans of a model that is at hand: prunes it, lets it recover, looks at the reward split, puts it back.

A pruned model is run compiled for all plans at once, or eagerly where that cannot be.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from autoprune.data import LazyImages, Split
from autoprune.errors import ScoringError, words_of
from autoprune.evaluation.accuracy import Signals, read_signals
from autoprune.evaluation.recovery import ShortTuning, recalibrate
from autoprune.models import keras_internals
from autoprune.records import Branch, ChannelGroup, Plan
from autoprune.settings import EvaluationSettings
from autoprune.surgery import Surgeon
from autoprune.surgery.reconstruction import apply_with_reconstruction
from autoprune.tasks import Judge

if TYPE_CHECKING:
    from autoprune.evaluation.traced import TracedNetwork

logger = logging.getLogger(__name__)

# How TensorFlow, JAX and PyTorch tell of it, whose errors are no `MemoryError`.
_OUT_OF_MEMORY = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OutOfMemory")


class Scorer:
    """Scores plans of one model, which is the dense one again after each, bit by bit.

    Args:
        surgeon: made for the dense model. The model must not change while the scorer lives.
        branches: those that plans may drop.
        train: images that plans recover with come from this split.
        reward: scores come from this split.
        settings: how plans are scored.
    """

    def __init__(
        self, surgeon: Surgeon, branches: Sequence[Branch], train: Split, reward: Split, settings: EvaluationSettings
    ) -> None:
        self.surgeon = surgeon
        self.snapshot = surgeon.snapshot()
        self._model = surgeon.model
        self._branches = branches
        self._train = train
        self._reward = reward
        self._settings = settings
        self._dense: _Dense | None = None
        self._recoveries: dict[int, _Recovery] = {}  # By draw.

    def score(self, plan: Plan, draw: int = 0, look: Callable[[], None] = lambda: None) -> Signals:
        """The signals of a plan's model, which is tuned and recalibrated first.

        Args:
            plan: for this model.
            draw: see `Evaluator.evaluate`.
            look: called while the model is pruned, before it recovers.

        Raises:
            PlanError: the plan is for another model.
            ScoringError: memory runs out.
        """
        try:
            if draw not in self._recoveries:
                self._recoveries[draw] = self._prepare_recovery(draw)
            recovery = self._recoveries[draw]
            self._dense = dense = self._dense or self._look_at_dense(recovery)
            with self._prune(plan, recovery):
                look()
                batch_size, pruned = self._settings.batch_size, plan.pruned
                compiled = dense.passes.network_for(pruned)
                tune, collect = (None, None) if compiled is None else (compiled.tune, compiled.collect)
                # The dense model has nothing to recover from: a few steps would only unsettle it.
                if recovery.tuning is not None and pruned:
                    recovery.tuning(self._model, tune)
                recalibrate(self._model, recovery.recalibrating, batch_size, collect)
                return read_signals(self._model, self._reward, dense.told, batch_size, compiled)
        except Exception as error:
            if not (isinstance(error, MemoryError) or any(sign in f"{type(error)} {error}" for sign in _OUT_OF_MEMORY)):
                raise
            raise ScoringError(
                f"Memory ran out while the plan was scored: {words_of(error, 200)}. Look at fewer images at a time "
                f"(evaluation.batch_size is {self._settings.batch_size}), or score fewer plans side by side (workers)."
            ) from error

    def _prepare_recovery(self, draw: int) -> "_Recovery":
        """Images to recover with, and what the dense model, which the model is between plans, says of them."""
        settings, train = self._settings, self._train
        if draw:
            count = max(settings.recovery_images, settings.recalibration_images)
            train = train.part(np.random.default_rng(draw).permutation(len(train))[:count])
        tuning, some = None, train.head(settings.recovery_images)
        if settings.recovery == "tuning":
            teacher = Judge(some.task, self._model).ask(some.images, settings.batch_size)
            tuning = ShortTuning(some, teacher, steps=settings.tuning_steps)
        return _Recovery(train.head(settings.recalibration_images).images, some.images, tuning)

    def _look_at_dense(self, recovery: "_Recovery") -> "_Dense":
        """Ask the dense model, which the model is between plans, what is needed of it."""
        model, settings, tuning = self._model, self._settings, recovery.tuning
        found = None
        if settings.score == "agreement":
            found = Judge(self._reward.task, model).ask(self._reward.images, settings.batch_size)
        groups, branches = self.surgeon.groups, self._branches
        if tuning is None:
            passes = Passes(model, groups, self._train.images[:8], branches=branches)
        else:
            passes = Passes(model, groups, *tuning.first(8), tuning.loss_for(model), branches)
        return _Dense(passes, found)

    @contextmanager
    def _prune(self, plan: Plan, recovery: "_Recovery") -> Iterator[None]:
        """The model is pruned within the block, its layers fitted anew where that is asked for."""
        if self._settings.recovery != "reconstruction":
            with self.surgeon.pruning(plan, self.snapshot):
                yield
            return
        try:
            apply_with_reconstruction(self.surgeon, plan, recovery.fitting)
            yield
        finally:
            self.surgeon.restore(self.snapshot)


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

    def network_for(self, pruned: set[str]) -> "TracedNetwork | None":
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


@dataclass(frozen=True)
class _Recovery:
    """What a pruned model recovers with before it is scored, the same for all plans of one draw.

    Attributes:
        recalibrating: images for batch-norm statistics.
        fitting: images that tune it, or that its layers are fitted to.
        tuning: the short tuning that every plan gets, or None.
    """

    recalibrating: np.ndarray | LazyImages
    fitting: np.ndarray | LazyImages
    tuning: ShortTuning | None


@dataclass(frozen=True)
class _Dense:
    """What is asked of the dense model once for all plans.

    Attributes:
        passes: compiled for all plans.
        told: (n, k) of the reward split, if plans are scored by it.
    """

    passes: Passes
    told: np.ndarray | None
