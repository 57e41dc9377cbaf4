"""The one way to score a plan."""

import hashlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.cost import CostModel
from autoprune.data import Dataset, LazyImages
from autoprune.errors import CostError
from autoprune.evaluation.accuracy import Signals, check_fit, read_signals
from autoprune.evaluation.contributions import Contribution, measure_contributions
from autoprune.evaluation.journal import Journal
from autoprune.evaluation.passes import Passes
from autoprune.evaluation.recovery import ShortTuning, recalibrate
from autoprune.models.distilling import predict_log_probabilities
from autoprune.planning import Candidate, Planner, SearchSpace
from autoprune.records import CostReport, Evaluation, Plan
from autoprune.settings import EvaluationSettings
from autoprune.surgery import Surgeon
from autoprune.surgery.reconstruction import apply_with_reconstruction

logger = logging.getLogger(__name__)


class Evaluator:
    """Scores plans for one model on one target: prunes it in place, measures, and puts it back bit by bit.

    The compiler works in its own process while the accuracy is taken in this one.

    Args:
        model: the dense model. It must not change while the evaluator lives.
        planner: has the space of plans.
        data: rewards come from its reward split, batch-norm statistics from its training split.
        cost_model: costs the pruned models.
        journal: where evaluations are kept.
        settings: how plans are scored.

    Raises:
        DataError: the data do not fit the model.
    """

    def __init__(
        self,
        model: Any,
        planner: Planner,
        data: Dataset,
        *,
        cost_model: CostModel,
        journal: Journal,
        settings: EvaluationSettings | None = None,
    ) -> None:
        check_fit(model, data)
        self.model = model
        self.planner = planner
        self.journal = journal
        self._data = data
        self._cost_model = cost_model
        self._settings = settings or EvaluationSettings()
        self._score_name = self._settings.score or "likelihood"
        self._surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
        self._snapshot = self._surgeon.snapshot()
        self._failed: set[str] = set()
        self._dense: _Dense | None = None
        self._recoveries: dict[int, _Recovery] = {}  # By draw.

    @property
    def space(self) -> SearchSpace:
        """The plans that may be scored."""
        return self.planner.space

    def evaluate(self, candidate: Candidate, draw: int = 0) -> Evaluation:
        """Score a candidate's plan, or look it up if the journal has it.

        A plan that cannot be compiled, or whose outputs are not finite, gives an evaluation that has failed; the
        search can go on. A failure of an earlier process is not believed: it may have been that machine's.

        Args:
            candidate: to be scored.
            draw: which images of the training split it recovers with before it is scored: 0 is the first ones, each
                number above it a draw of as many. How scores of one plan differ between draws is their chance.
        """
        plan = self.space.plan(candidate)
        evaluation = self.journal.find(plan_key(plan), draw)
        if evaluation is None or (evaluation.failed and evaluation.key not in self._failed):
            evaluation = self._score(plan, draw)
            if evaluation.failed:
                self._failed.add(evaluation.key)
            self.journal.add(evaluation, draw)
        return evaluation

    def note(self, searcher: str, number: int, evaluation: Evaluation) -> None:
        """Note in the journal that this was a searcher's evaluation of this number, from 1."""
        self.journal.add_request(searcher, number, evaluation.key)

    def cost(self, candidate: Candidate) -> CostReport:
        """Only the cost of a candidate: no evaluation, and nothing for the journal.

        Raises:
            CostError: the model cannot be costed.
        """
        return next(self.costs([candidate]))

    def costs(self, candidates: Sequence[Candidate]) -> Iterator[CostReport]:
        """The costs of several candidates in their order, all asked for before the first is waited for.

        Raises:
            CostError: a model cannot be costed.
        """
        waiting: list[Future[CostReport]] = []
        for candidate in candidates:
            with self._surgeon.pruning(self.space.plan(candidate), self._snapshot):
                waiting.append(self._cost_model.submit(self.model))
        for pending in waiting:
            yield pending.result()

    def measure_contributions(self, count: int = 32) -> dict[str, Contribution]:
        """What each branch that may go changes in the dense model, by name, over so many images of the training split.

        One is left out whose numbers are not finite.
        """
        images = self._data.train.head(count).images
        return measure_contributions(self.model, self.planner.branches, images)

    def _score(self, plan: Plan, draw: int) -> Evaluation:
        start = time.perf_counter()
        cost, signals = None, Signals(math.nan, math.nan, math.nan)
        if draw not in self._recoveries:
            self._recoveries[draw] = self._prepare_recovery(draw)
        recovery = self._recoveries[draw]
        self._dense = dense = self._dense or self._look_at_dense(recovery)
        try:
            with self._prune(plan, recovery):
                pending = self._cost_model.submit(self.model)
                signals = self._signals(dense, recovery, plan.pruned)
            cost = pending.result()
            error = self._complaint(signals, plan.pruned)
        except CostError as failure:
            error = str(failure)
        if error:
            logger.warning("plan %s failed: %s", plan_key(plan), error)
        seconds, score = time.perf_counter() - start, getattr(signals, self._score_name)
        return Evaluation(
            key=plan_key(plan),
            keep_ratios=plan.keep_ratios,  # For people.
            widths=plan.widths,
            accuracy=signals.accuracy,
            cost=cost,
            error=error,
            seconds=seconds,
            score=score,
            dropped=plan.dropped,
        )

    def _complaint(self, signals: Signals, pruned: set[str]) -> str:
        """Why these signals of a model with some parts pruned are no score, and what to do; empty when they are."""
        settings, score = self._settings, getattr(signals, self._score_name)
        if math.isfinite(score):
            return ""
        if not signals.broken:
            what = f"evaluation.score={self._score_name} must be a finite number. Received: {score}."
            return f"{what} The dense model's outputs are not finite: choose evaluation.score=likelihood."
        images = len(self._data.reward)
        what = f"Outputs must be finite. They are not for {signals.broken} of the {images} images of the reward split."
        if not pruned:
            return f"{what} Check the weights of the model, and that it gets the pixels it wants (data.preprocessing)."
        if settings.recovery == "tuning":
            return (
                f"{what} The short tuning has diverged: try fewer steps (evaluation.tuning_steps is "
                f"{settings.tuning_steps}), or another recovery (evaluation.recovery=reconstruction or none)."
            )
        return (
            f"{what} Try more images for batch-norm statistics (evaluation.recalibration_images is "
            f"{settings.recalibration_images}), or another recovery (evaluation.recovery={settings.recovery} now)."
        )

    def _signals(self, dense: "_Dense", recovery: "_Recovery", pruned: set[str]) -> Signals:
        """Of the model as it is now, with these groups and branches pruned; it is tuned and recalibrated."""
        batch_size, model = self._settings.batch_size, self.model
        compiled = dense.passes.compiled(pruned)
        tune, collect = (None, None) if compiled is None else (compiled.tune, compiled.collect)
        # The dense model has nothing to recover from: a few steps would only unsettle it.
        if recovery.tuning is not None and pruned:
            recovery.tuning(model, tune)
        recalibrate(model, recovery.recalibrating, batch_size, collect)
        return read_signals(model, self._data.reward, dense.log_probabilities, batch_size, compiled)

    def _prepare_recovery(self, draw: int) -> "_Recovery":
        """Images to recover with, and what the dense model, which the model is between plans, says of them."""
        settings, train = self._settings, self._data.train
        if draw:
            count = max(settings.recovery_images, settings.recalibration_images)
            train = train.part(np.random.default_rng(draw).permutation(len(train))[:count])
        tuning, some = None, train.head(settings.recovery_images)
        if settings.recovery == "tuning":
            teacher = predict_log_probabilities(self.model, some.images, settings.batch_size)
            tuning = ShortTuning(some.images, some.labels, teacher, steps=settings.tuning_steps)
        return _Recovery(train.head(settings.recalibration_images).images, some.images, tuning)

    def _look_at_dense(self, recovery: "_Recovery") -> "_Dense":
        """Ask the dense model, which the model is between plans, what is needed of it."""
        settings, data, tuning = self._settings, self._data, recovery.tuning
        found = None
        if settings.score == "agreement":
            found = predict_log_probabilities(self.model, data.reward.images, settings.batch_size)
        groups, branches = self.planner.all_groups, self.planner.branches
        if tuning is None:
            passes = Passes(self.model, groups, data.train.images[:8], branches=branches)
        else:
            passes = Passes(self.model, groups, *tuning.first(8), tuning.loss_for(self.model), branches)
        return _Dense(passes, found)

    @contextmanager
    def _prune(self, plan: Plan, recovery: "_Recovery") -> Iterator[None]:
        """The model is pruned within the block, its layers fitted anew where that is asked for."""
        if self._settings.recovery != "reconstruction":
            with self._surgeon.pruning(plan, self._snapshot):
                yield
            return
        try:
            apply_with_reconstruction(self._surgeon, plan, recovery.fitting)
            yield
        finally:
            self._surgeon.restore(self._snapshot)


@dataclass(frozen=True)
class _Recovery:
    """What a pruned model recovers with before it is scored, the same for all plans of one draw.

    Attributes:
        recalibrating: images for batch-norm statistics.
        fitting: images that tune it, or that its layers are fitted to.
        tuning: that every plan gets, if any.
    """

    recalibrating: np.ndarray | LazyImages
    fitting: np.ndarray | LazyImages
    tuning: ShortTuning | None


@dataclass(frozen=True)
class _Dense:
    """What is asked of the dense model once for all plans.

    Attributes:
        passes: compiled for all plans.
        log_probabilities: (n, classes) for the reward split, if plans are scored by them.
    """

    passes: Passes
    log_probabilities: np.ndarray | None


def plan_key(plan: Plan) -> str:
    """Hash of the model, the kept channels and the dropped branches, whose means are those of one search.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(plan.model.encode())
    for name in sorted(plan.kept):
        digest.update(f"|{name}:".encode())
        digest.update(plan.kept[name].astype("<i8").tobytes())
    for name in sorted(plan.dropped):
        digest.update(f"|without {name}".encode())
    return digest.hexdigest()[:16]
