"""From the evaluation of a plan to a finished model: pruned in place, fine-tuned, tested once, costed as it is."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from autoprune.cost import CostModel
from autoprune.data import Dataset
from autoprune.errors import BudgetError
from autoprune.evaluation.accuracy import accuracy
from autoprune.evaluation.recovery import recalibrate
from autoprune.evaluation.scoring import Passes
from autoprune.planning import Candidate, Planner
from autoprune.planning.ranking import stage_removal
from autoprune.records import CostReport, Evaluation, Plan, SurgeryReport
from autoprune.records.measure import Measure
from autoprune.searchers.objective import Objective, best_finished, least_accuracy
from autoprune.settings import SearchSettings
from autoprune.surgery import Surgeon
from autoprune.surgery.cutting import groups_without
from autoprune.training.course import OnProgress, TrainingError, TrainingRecord
from autoprune.training.feedback import Feedback
from autoprune.training.fit import carry_out
from autoprune.training.training import Training, ask_teacher

logger = logging.getLogger(__name__)
Train = Callable[..., TrainingRecord]  # Of epochs, what hears of them, and more of `Training`.


@dataclass(frozen=True)
class Finalist:
    """One of the plans of a searcher that were fine-tuned for one of them to be chosen.

    Attributes:
        key: hash of the plan, as `Evaluation.key`.
        score: in the search.
        reward_accuracy: on the reward split, after fine-tuning.
        latency: of the finished model, in seconds per batch.
    """

    key: str
    score: float
    reward_accuracy: float
    latency: float


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished model.

    Attributes:
        name: whose plan it is.
        plan: what was kept.
        evaluation: the plan's score in the search, before fine-tuning.
        surgery: what was cut.
        training: the fine-tuning.
        reward_accuracy: on the reward split, after fine-tuning.
        test_accuracy: on the test split, after fine-tuning.
        cost: what the finished model costs on the target.
        weights: its weights, to come back to it.
        finalists: those that it was chosen from, itself too, in the order of `Objective.finalists`; empty where it was
            the only one.
    """

    name: str
    plan: Plan = field(repr=False)
    evaluation: Evaluation = field(repr=False)
    surgery: SurgeryReport = field(repr=False)
    training: TrainingRecord = field(repr=False)
    reward_accuracy: float
    test_accuracy: float
    cost: CostReport
    weights: list[Any] = field(repr=False)
    finalists: tuple[Finalist, ...] = field(default=(), repr=False)


class PlanTrainer:
    """The dense model, and what else a training of the networks of its plans needs, whichever weights they begin with.

    Args:
        model: the dense model.
        planner: made the plans.
        data: trained on its training split, tested on its test split.
        cost_model: costs the networks.
        settings: recipe and seed.
    """

    def __init__(
        self, model: Any, planner: Planner, data: Dataset, *, cost_model: CostModel, settings: SearchSettings
    ) -> None:
        self._model = model
        self._planner = planner
        self._data = data
        self._cost_model = cost_model
        self._settings = settings
        self._surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
        self._snapshot = self._surgeon.snapshot()
        self._teacher: np.ndarray | None = None

    def ask_teacher(self) -> np.ndarray | None:
        """What the model, which has to be the dense one, says of the training images; None without distillation."""
        training = self._settings.training
        if self._teacher is None and training.needs_teacher:
            batch_size, features = self._settings.evaluation.batch_size, training.feature_distillation > 0
            self._teacher = ask_teacher(self._model, self._data, batch_size, features=features)
        return self._teacher


class Finisher(PlanTrainer):
    """Finishes plans of one model, one after the other, each from the dense weights and by the same recipe.

    The model is the last finished one when done. Arguments are those of `PlanTrainer`.
    """

    @cached_property
    def _passes(self) -> Passes:
        """Forward passes of all plans, compiled once, of the dense model."""
        groups, branches = self._planner.all_groups, self._planner.branches
        return Passes(self._model, groups, self._data.train.images[:8], branches=branches)

    def finish(
        self,
        name: str,
        evaluation: Evaluation,
        on_progress: OnProgress | None = None,
        *,
        seed: int | None = None,
        whole_too: bool = False,
    ) -> Finished:
        """Prune the model in place, fine-tune and test it. A plan that keeps everything is tested as it is.

        With `search.stages` it is pruned in so many steps, and its epochs are spread over them. With
        `training.removal=dpf` the channels are chosen as it learns, as many as the plan keeps.

        When fine-tuning diverges, or no epoch is as good on the reward split, the model stays as it was pruned, with a
        warning: a search is not lost for that.

        Args:
            name: whose plan it is.
            evaluation: the plan, as it was evaluated.
            on_progress: called as the fine-tuning goes on.
            seed: of the fine-tuning; None is that of the settings.
            whole_too: also fine-tune a plan that keeps everything.

        Raises:
            CostError: the finished model cannot be costed.
            PlanError: the plan was scored with other legal widths than the planner's.
        """
        self._surgeon.restore(self._snapshot)
        settings, data, model = self._settings, self._data, self._model
        teacher = self.ask_teacher() if settings.training.after_pruning > 0 else None
        passes = self._passes  # While the model is dense.
        candidate = self._planner.space.find(evaluation.values)
        pruned = bool(self._planner.space.plan(candidate).pruned)
        epochs = settings.training.after_pruning if pruned or whole_too else 0
        train = partial(self._train, name, settings.seed if seed is None else seed, teacher)
        with_feedback = settings.training.removal == "dpf" and pruned and epochs
        prune = self._prune_with_feedback if with_feedback else self._prune_in_stages
        plan, surgery, record, pending = prune(candidate, epochs, train, on_progress)
        batch_size, run = settings.evaluation.batch_size, passes.network_for(plan.pruned)
        if record.only_worse:
            logger.warning("%s is shown without fine-tuning. %s", name, worse(record, data.task.measure))
        return Finished(
            name=name,
            plan=plan,
            evaluation=evaluation,
            surgery=surgery,
            training=record,
            reward_accuracy=accuracy(model, data.reward, batch_size, run),
            test_accuracy=accuracy(model, data.test, batch_size, run),
            cost=pending.result(),
            weights=model.get_weights(),
        )

    def _prune_in_stages(
        self, candidate: Candidate, epochs: int, train: Train, on_progress: OnProgress | None
    ) -> tuple[Plan, SurgeryReport, TrainingRecord, Future[CostReport]]:
        """Remove what a candidate takes in `search.stages` steps, and train for a share of the epochs after each.

        Returns:
            The plan, what the last step cut, the whole training, and what the network will turn out to cost.
        """
        settings, space, record = self._settings, self._planner.space, TrainingRecord(0, (), (), 0)
        # Steps that take nothing, of a plan that keeps nearly all, are none.
        stages = dict.fromkeys(stage_removal(space, candidate, max(1, min(settings.search.stages, epochs))))
        taking = [stage for stage in stages if stage != space.full] or [candidate]
        ends = [epochs * number // len(taking) for number in range(len(taking) + 1)]
        for number, (stage, share) in enumerate(zip(taking, np.diff(ends).tolist(), strict=True)):
            plan = space.plan(stage)
            surgery = self._surgeon.prune_further(plan, self._snapshot) if number else self._surgeon.apply(plan)
            self._recalibrate(plan)
            if stage is taking[-1]:  # Compiled while it is trained.
                pending = self._cost_model.submit(self._model)
            start = None
            if share:
                run = self._passes.network_for(plan.pruned)
                start = accuracy(self._model, self._data.reward, settings.evaluation.batch_size, run)
            record = record.then(train(share, record.going_on(on_progress), start=start))
        return plan, surgery, record, pending

    def _prune_with_feedback(
        self, candidate: Candidate, epochs: int, train: Train, on_progress: OnProgress | None
    ) -> tuple[Plan, SurgeryReport, TrainingRecord, Future[CostReport]]:
        """Remove as many channels as a candidate takes, which ones the training says; as `_prune_in_stages`."""
        plan = self._planner.space.plan(candidate)
        # Branches and no channels go first, but gates, whose means are folded into weights: once, at the end.
        gone = tuple(dropped for dropped in plan.dropped if dropped not in plan.gate_means)
        whole = {group: np.arange(plan.sizes[group]) for group in plan.kept}
        first = replace(plan, kept=whole, dropped=gone, gate_means={})
        if gone:
            self._surgeon.apply(first)
        feedback = Feedback(self._model, groups_without(self._surgeon.groups, self._surgeon.branches, first), plan)
        record = train(epochs, on_progress, feedback=feedback)
        plan = feedback.plan
        surgery = self._surgeon.prune_further(plan, self._snapshot) if gone else self._surgeon.apply(plan)
        self._recalibrate(plan)
        return plan, surgery, record, self._cost_model.submit(self._model)

    def _recalibrate(self, plan: Plan) -> None:
        """Estimate the batch-norm statistics of the model anew, if the plan has taken anything from it."""
        if plan.pruned:
            images = self._data.train.images[: self._settings.evaluation.recalibration_images]
            recalibrate(self._model, images, self._settings.evaluation.batch_size)

    def _train(
        self,
        name: str,
        seed: int,
        teacher: np.ndarray | None,
        epochs: int,
        on_progress: OnProgress | None,
        **how: Any,
    ) -> TrainingRecord:
        """Fine-tune the model as it is pruned now, `how` being more of `Training`; one that diverges is undone."""
        training = Training(
            model=self._model,
            data=self._data,
            settings=self._settings.training,
            epochs=epochs,
            learning_rate=None,
            seed=seed,
            teacher=teacher,
            **how,
        )
        before = self._model.get_weights()
        try:
            return carry_out(training, on_progress)
        except TrainingError as error:
            logger.warning("%s is shown without fine-tuning, which diverged. %s", name, error)
            self._model.set_weights(before)
            return TrainingRecord(0, (), (), 0)

    def undo(self) -> None:
        """Make the model the dense one again."""
        self._surgeon.restore(self._snapshot)

    def bring_back(self, finished: Finished) -> None:
        """Make the model the one that was finished earlier."""
        self._surgeon.restore(self._snapshot)
        self._surgeon.apply(finished.plan)
        self._model.set_weights(finished.weights)


def worse(record: TrainingRecord, measure: Measure) -> str:
    """What happened in a training that only made the model worse, and what to change."""
    before, best = (measure.tell(quality) for quality in (record.start or 0.0, max(record.accuracies)))
    return (
        f"Training only made it worse on the reward split ({measure.name} {before} before, {best} at best after an "
        "epoch): it is kept as it was. Lower training.fine_tune_learning_rate, or give it more epochs."
    )


def finish_all(
    finisher: Finisher,
    objective: Objective,
    finalists: Mapping[str, Sequence[Evaluation]],
    progress: Callable[[str], AbstractContextManager[OnProgress]],
) -> tuple[tuple[Finished, ...], Finished]:
    """Finish the dense model and each searcher's finalists; the model ends as the best of these.

    A plan that several searchers found is finished once, and stands for each of them.

    The best is the one most accurate on the reward split after fine-tuning, of equal ones the first finalist and the
    last searcher's. Under a reward with an accuracy floor it is the fastest of those that are above it then. A finished
    model that is over the budget as it was compiled in the end is no result: it is left out, with a warning. Whatever
    interrupts this leaves the model dense.

    Args:
        finisher: fine-tunes plans; its model is dense.
        objective: what the search was for; it has the dense model's evaluation.
        finalists: each searcher's best evaluations within the budget, by name; at least one each.
        progress: from a finalist's name to what shows its fine-tuning.

    Returns:
        All as finished, the dense model first, then the best of each searcher; and the one that the model now is.

    Raises:
        BudgetError: no finished model is within the budget.
        CostError: a finished model cannot be costed.
    """
    try:
        dense = finisher.finish("dense", objective.dense)
        rivals: dict[str, list[Finished]] = {}
        over: dict[str, float] = {}
        by_key: dict[str, Finished] = {}
        turns = [
            (name if len(evaluations) == 1 else f"{name} {number}/{len(evaluations)}", name, evaluation)
            for name, evaluations in finalists.items()
            for number, evaluation in enumerate(evaluations, start=1)
        ]
        for label, name, evaluation in turns:
            known = by_key.get(evaluation.key)
            if known is None:
                with progress(label) as show:
                    done = last = by_key[evaluation.key] = finisher.finish(name, evaluation, show)
            else:
                logger.info("%s has the same plan as %s: it is fine-tuned once", label, known.name)
                done = replace(known, name=name)
            if objective.budget.met_by(done.cost):
                rivals.setdefault(name, []).append(done)
            else:
                over[label] = objective.budget.overrun(done.cost)
        for label, excess in over.items():
            logger.warning("%s is no result: its finished model is %.2f %% over the budget", label, 100 * excess)
        if not rivals:
            raise BudgetError(
                "No finished model is within the budget, though its plan was when it was scored: "
                f"{', '.join(f'{label} is {excess:.2%} over' for label, excess in over.items())}. Where costs are "
                "measured, they vary: ask for a little less, or search on a machine that does nothing else."
            )
        results = [_winner(of_one, dense, objective) for of_one in rivals.values()]
        kept = _best(results[::-1], dense, objective)
        least = least_accuracy(objective.settings, dense.reward_accuracy)
        if least is not None and kept.reward_accuracy < least:
            logger.warning("after fine-tuning no plan is above the accuracy floor: the most accurate one is kept")
        if kept.evaluation.key != last.evaluation.key:
            finisher.bring_back(kept)
    except BaseException:
        finisher.undo()
        raise
    return (dense, *results), kept


def _best(results: Sequence[Finished], dense: Finished, objective: Objective) -> Finished:
    """The best of some results by what the search was for, the first of equal ones."""
    accuracies, latencies = [done.reward_accuracy for done in results], [done.cost.latency for done in results]
    return results[best_finished(objective.settings, accuracies, latencies, dense.reward_accuracy)]


def _winner(rivals: Sequence[Finished], dense: Finished, objective: Objective) -> Finished:
    """The best of a searcher's finalists, which knows of the others."""
    best = _best(rivals, dense, objective)
    if len(rivals) == 1:
        return best
    finalists = [
        Finalist(done.evaluation.key, done.evaluation.score, done.reward_accuracy, done.cost.latency) for done in rivals
    ]
    return replace(best, finalists=tuple(finalists))
