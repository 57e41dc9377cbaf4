"""From the evaluation of a plan to a finished model: pruned in place, fine-tuned, tested once, costed as it is."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from autoprune.cost import CostModel
from autoprune.data import Dataset
from autoprune.evaluation.accuracy import accuracy
from autoprune.evaluation.recovery import recalibrate
from autoprune.evaluation.scoring import Passes
from autoprune.planning import Planner
from autoprune.planning.ranking import stage_removal
from autoprune.records import CostReport, Evaluation, Plan, SurgeryReport
from autoprune.records.measure import Measure
from autoprune.settings import SearchSettings
from autoprune.surgery import Surgeon
from autoprune.surgery.cutting import groups_without
from autoprune.training.course import OnProgress, TrainingError, TrainingRecord
from autoprune.training.feedback import Feedback
from autoprune.training.fit import carry_out
from autoprune.training.hyper_search import find_scales
from autoprune.training.reparameterization import Scales, keep_channels
from autoprune.training.training import Training, ask_teacher

logger = logging.getLogger(__name__)
Train = Callable[..., TrainingRecord]  # Of epochs, what hears of them, and more of `Training`.
_CHOOSING = 0.75  # Share of the epochs in which channels are chosen: in the paper's recipe until its second milestone.


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
        self._scales: Scales | None = None

    def ask_teacher(self) -> np.ndarray | None:
        """What the model, which has to be the dense one, says of the training images; None without distillation."""
        training = self._settings.training
        if self._teacher is None and training.needs_teacher:
            batch_size, features = self._settings.evaluation.batch_size, training.feature_distillation > 0
            self._teacher = ask_teacher(self._model, self._data, batch_size, features=features)
        return self._teacher

    def find_scales(self) -> None:
        """Get the scales of the model, which has to be the dense one, for an optimiser that needs some."""
        if self._scales is None:
            settings = self._settings
            self._scales = find_scales(self._model, self._data, settings.training, settings.seed)

    def scales_of(self, plan: Plan | None) -> Scales | None:
        """What is left of these scales by a plan, None being one that keeps all; None if there are no scales."""
        if self._scales is None or plan is None:
            return self._scales
        gone = {layer for branch in self._planner.branches if branch.name in plan.dropped for layer in branch.layers}
        stays = {name: found for name, found in self._scales.items() if name not in gone}
        return keep_channels(stays, self._surgeon.slices(plan))


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

        With `search.stages` it is pruned in so many stages, and its epochs are spread over them; with `search.cascade`
        each stage chooses anew which channels go, and has all epochs, and a plan that has no more to lose is trained as
        long as the others. With `training.removal=dpf` channels, as many as the plan keeps, are chosen in the first
        three quarters of them, and the others are removed then.

        When fine-tuning diverges, or no epoch after the last cut is as good on the reward split, the model stays as it
        was pruned, with a warning: a search is not lost for that.

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
        whole = self._planner.space.plan(candidate)
        epochs = settings.training.after_pruning if whole.pruned or whole_too else 0
        if epochs:
            self.find_scales()
        cascade = settings.search.cascade
        narrower = any(len(kept) < whole.sizes[group] for group, kept in whole.kept.items())
        train = partial(self._train, name, settings.seed if seed is None else seed, teacher)
        if settings.training.removal == "dpf" and epochs and narrower:
            plan, record = self._choose_channels(whole, epochs, train, on_progress)
            taking, before, cascade = [plan], self._surgeon.applied, False
        else:
            record, before = TrainingRecord(0, (), (), 0), None
            most = epochs if not cascade else settings.search.stages if epochs else 1
            some = stage_removal(self._planner.space, candidate, max(1, min(settings.search.stages, most)))
            if not cascade:
                # Steps that take nothing, of a plan that keeps nearly all, are none.
                some = [stage for stage in dict.fromkeys(some) if stage != self._planner.space.full]
            taking = [self._planner.space.plan(stage) for stage in some or [candidate]]
        ends = np.linspace(record.epochs, max(epochs, record.epochs), len(taking) + 1).astype(int)
        shares = [epochs] * len(taking) if cascade else np.diff(ends).tolist()
        for number, (plan, share) in enumerate(zip(taking, shares, strict=True), start=1):
            if cascade and before is not None:
                plan = self._planner.choose_again(plan, before)
            # A stage before may have taken nothing.
            going_on = self._surgeon.applied is not None
            surgery = self._surgeon.prune_further(plan, self._snapshot) if going_on else self._surgeon.apply(plan)
            before = plan
            run = passes.network_for(plan.pruned)
            if plan.pruned:
                images = data.train.images[: settings.evaluation.recalibration_images]
                recalibrate(model, images, settings.evaluation.batch_size)
            if number == len(taking):  # Compiled while it is trained.
                pending = self._cost_model.submit(model)
            start = accuracy(model, data.reward, settings.evaluation.batch_size, run) if share else None
            record = record.append(train(share, record.shift_progress(on_progress), start=start, before=record.epochs))
        batch_size = settings.evaluation.batch_size
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

    def _choose_channels(
        self, plan: Plan, epochs: int, train: Train, on_progress: OnProgress | None
    ) -> tuple[Plan, TrainingRecord]:
        """A plan that keeps as many channels as another, chosen while the model is trained in three quarters of epochs.

        The model is left with these weights and all channels, without the plan's branches.
        """
        # Gates stay until the channels go: their means are folded into weights, once.
        gone = tuple(dropped for dropped in plan.dropped if dropped not in plan.gate_means)
        whole = {group: np.arange(plan.sizes[group]) for group in plan.kept}
        first = replace(plan, kept=whole, dropped=gone, gate_means={})
        if gone:
            self._surgeon.apply(first)
        feedback = Feedback(self._model, groups_without(self._surgeon.groups, self._surgeon.branches, first), plan)
        record = train(max(1, round(_CHOOSING * epochs)), on_progress, feedback=feedback)
        return feedback.plan if record.epochs else plan, record

    def _train(
        self,
        name: str,
        seed: int,
        teacher: np.ndarray | None,
        epochs: int,
        on_progress: OnProgress | None,
        before: int = 0,
        **how: Any,
    ) -> TrainingRecord:
        """Fine-tune the model as it is now, `how` being more of `Training`; what diverges is undone.

        Epochs that were `before`, of an earlier stage, saw the images in other orders.
        """
        training = Training(
            model=self._model,
            data=self._data,
            settings=self._settings.training,
            epochs=epochs,
            learning_rate=None,
            seed=int(np.random.default_rng([seed, before]).integers(2**31)) if before else seed,
            teacher=teacher,
            scales=self.scales_of(self._surgeon.applied),
            **how,
        )
        weights = self._model.get_weights()
        try:
            return carry_out(training, on_progress)
        except TrainingError as error:
            logger.warning("%s is shown without fine-tuning, which diverged. %s", name, error)
            self._model.set_weights(weights)
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
