"""The one way to score a plan."""

import hashlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.cost import CostModel
from autoprune.data import Dataset
from autoprune.errors import CostError, ScoringError, SettingsError, future_of
from autoprune.evaluation.accuracy import Signals, check_fit
from autoprune.evaluation.contributions import Contribution, measure_contributions
from autoprune.evaluation.journal import Journal
from autoprune.evaluation.scoring import Scorer
from autoprune.evaluation.scoring_pool import Scored, ScoringPool
from autoprune.models import keras_internals
from autoprune.planning import Candidate, Planner, SearchSpace
from autoprune.records import CostReport, Evaluation, Plan
from autoprune.records.measure import compare_qualities
from autoprune.settings import EvaluationSettings
from autoprune.surgery import Surgeon

if TYPE_CHECKING:
    from autoprune.evaluation.gated import GatedNetwork

WEIGHTS = 0.7  # Share of the training split that weights are trained on where gates are, too.

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
        workers: processes that score plans; None scores them in this one.

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
        workers: ScoringPool | None = None,
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
        self._scorer = Scorer(self._surgeon, planner.branches, data.train, data.reward, self._settings)
        self._workers = workers
        self._failed: set[str] = set()
        self._costing: set[Future[CostReport]] = set()
        self._begun: dict[tuple[str, int], _Begun] = {}  # By plan and draw, what workers have not answered yet.
        self._concluded = -math.inf  # When the last evaluation was there.

    @property
    def space(self) -> SearchSpace:
        """The plans that may be scored."""
        return self.planner.space

    def evaluate(self, candidate: Candidate, draw: int = 0) -> Evaluation:
        """Score a candidate's plan, or look it up if the journal has it; see `evaluate_many`."""
        return next(self.evaluate_many([candidate], draw))

    def evaluate_many(self, candidates: Sequence[Candidate], draw: int = 0) -> Iterator[Evaluation]:
        """Score the plans of candidates, or look them up if the journal has them; with workers, side by side.

        A plan that cannot be compiled, or whose outputs are not finite, gives an evaluation that has failed; the
        search can go on. A failure of an earlier process is not believed: it may have been that machine's.

        Args:
            candidates: to be scored.
            draw: which images of the training split they recover with before they are scored: 0 is the first ones, each
                number above it a draw of as many. How scores of one plan differ between draws is their chance.

        Yields:
            The evaluations, in the order of the candidates, each as soon as it is there and in the journal.

        Raises:
            WorkerError: the processes that score plans cannot get ready.
        """
        plans = [self.space.plan(candidate) for candidate in candidates]
        for plan in plans:
            # The dense model is scored here: all else is asked of it here too.
            key = plan_key(plan), draw
            if self._workers is None or not plan.pruned or key in self._begun or self._find(plan, draw) is not None:
                continue
            start, cost = time.perf_counter(), None
            if not self._workers.costs:  # The compiler works meanwhile.
                try:
                    cost = self._submit(plan)
                except CostError as error:
                    cost = future_of(error)
            self._begun[key] = _Begun(plan, draw, self._workers.submit(plan, draw), cost, start)
        for plan in plans:
            found, key = self._find(plan, draw), (plan_key(plan), draw)
            while found is None and key in self._begun:
                # Whatever else is done by now is in the journal, too.
                done = {
                    key: self._conclude(one)
                    for key, one in list(self._begun.items())
                    if all(future.done() for future in one.futures)
                }
                for other in done:
                    del self._begun[other]
                found = done.get(key)
                if found is None:
                    waiting = [future for one in self._begun.values() for future in one.futures if not future.done()]
                    wait(waiting, return_when=FIRST_COMPLETED)
            yield found or self._score_here(plan, draw)

    def _find(self, plan: Plan, draw: int) -> Evaluation | None:
        """What the journal has."""
        found = self.journal.find(plan_key(plan), draw)
        return None if found is None or (found.failed and found.key not in self._failed) else found

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
            waiting.append(self._submit(self.space.plan(candidate)))
        for pending in waiting:
            yield pending.result()

    def measure_contributions(self, count: int = 32) -> dict[str, Contribution]:
        """What each branch that may go changes in the dense model, by name, over so many images of the training split.

        One is left out whose numbers are not finite.
        """
        images = self._data.train.head(count).images
        return measure_contributions(self.model, self.planner.branches, images)

    def relax(self, seed: int) -> "GatedNetwork":
        """The dense model with a gate for every option, to be trained beside it: see `Relaxation` of the searchers.

        Weights are trained on 70 % of the training split, gates on the other images.

        Args:
            seed: what the images are divided and ordered by.

        Raises:
            SettingsError: the model has layers in half precision.
        """
        layers = keras_internals.layers_by_path(self.model).values()
        halves = [layer.name for layer in layers if layer.compute_dtype == "float16"]
        if halves:
            raise SettingsError(
                f"Gates are trained in float32 or bfloat16. Received: a layer '{halves[0]}' in float16. Choose another "
                "searcher."
            )
        from autoprune.evaluation.gated import GatedNetwork  # It imports TensorFlow.

        train = self._data.train
        order = np.random.default_rng(seed).permutation(len(train))
        weights, gates = np.split(order, [round(WEIGHTS * len(train))])
        return GatedNetwork(self.model, self.planner, train.part(weights), train.part(gates), seed)

    def _submit(self, plan: Plan) -> Future[CostReport]:
        """Ask for the cost of a plan's model."""
        with self._surgeon.pruning(plan, self._scorer.snapshot):
            return self._ask_cost()

    def _ask_cost(self) -> Future[CostReport]:
        """Ask for the cost of the model as it is now."""
        asked = self._cost_model.submit(self.model)
        self._costing.add(asked)
        asked.add_done_callback(self._costing.discard)
        return asked

    @property
    def costing(self) -> int:
        """How many models wait for the compiler, or are on the target."""
        return len(self._costing)

    def _score_here(self, plan: Plan, draw: int) -> Evaluation:
        """Score a plan in this process, while the compiler works in its own."""
        start, scored, asked = time.perf_counter(), Future[Any](), list[Future[Any]]()
        try:
            signals = self._scorer.score(plan, draw, lambda: asked.append(self._ask_cost()))
            scored.set_result(Scored(signals))
        except (CostError, ScoringError) as error:
            scored = future_of(error)
        return self._conclude(_Begun(plan, draw, scored, asked[0] if asked else None, start))

    def _conclude(self, begun: "_Begun") -> Evaluation:
        """The evaluation of a plan once its signals and its cost are known; it is put into the journal."""
        plan, cost, signals = begun.plan, None, Signals(math.nan, math.nan, math.nan)
        try:
            scored = begun.scored.result()
            signals = scored.signals
            found = scored.cost if begun.cost is None else begun.cost.result()
            if isinstance(found, CostError):
                raise found
            cost, error = found, self._complaint(signals, plan.pruned)
        except (CostError, ScoringError) as failure:
            error = str(failure)
        if error:
            logger.warning("plan %s failed: %s", plan_key(plan), error)
        # Of plans that are scored side by side the times add up to what has passed.
        now = time.perf_counter()
        seconds, self._concluded = now - max(begun.start, self._concluded), now
        # What plans are told apart by, from 0 to 1: a quality that is no share is seen beside the dense model's.
        if self._score_name == "accuracy" and not self._data.task.measure.is_share:
            dense = self.evaluate(self.space.full).accuracy if plan.pruned else signals.accuracy
            score = compare_qualities(signals.accuracy, dense)
        else:
            score = getattr(signals, self._score_name)
        evaluation = Evaluation(
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
        if evaluation.failed:
            self._failed.add(evaluation.key)
        self.journal.add(evaluation, begun.draw)
        return evaluation

    def _complaint(self, signals: Signals, pruned: set[str]) -> str:
        """Why these signals of a model with some parts pruned are no score, and what to do; empty when they are."""
        settings, score = self._settings, getattr(signals, self._score_name)
        score = score if math.isfinite(signals.accuracy) else math.nan
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


@dataclass(frozen=True, eq=False)
class _Begun:
    """A plan on its way: what is asked of it.

    Attributes:
        plan, draw: what is scored.
        scored: its signals, and its cost where whoever scores says that too.
        cost: else.
        start: when it was begun, by `time.perf_counter`.
    """

    plan: Plan
    draw: int
    scored: Future[Scored]
    cost: Future[CostReport] | None
    start: float

    @property
    def futures(self) -> tuple[Future[Any], ...]:
        """What is waited for."""
        return (self.scored,) if self.cost is None else (self.scored, self.cost)


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
