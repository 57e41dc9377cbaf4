"""Writes down how a search ended: figures as JSON, the report as HTML."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoprune.cost.surrogate import GuessError
from autoprune.data import Dataset
from autoprune.evaluation.cautions import chance_caution, gap_caution
from autoprune.evaluation.journal import evaluation_to_json
from autoprune.planning.plan_file import plan_to_json
from autoprune.records import Branch, ChannelGroup, Target
from autoprune.records.measure import ACCURACY, Measure, compare_qualities
from autoprune.records.plain import write_json
from autoprune.reporting.depth import branch_rows, describe_dropped, gone_branches, gone_groups
from autoprune.reporting.pages.page import write_page
from autoprune.reporting.pages.saved import Saved, library_versions
from autoprune.reporting.pages.search import search_page
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tables import ResultRow, shares
from autoprune.searchers import History, Problem
from autoprune.searchers.hand_set import WIDTH_RULE, is_hand_set
from autoprune.settings import SearchSettings
from autoprune.training.finishing import Finished

FORMAT = "autoprune.metrics"
VERSION = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """A search that has ended.

    Attributes:
        settings: what was asked for.
        target: what `auto` became.
        problem: groups, budget, dense evaluation.
        groups: all channel groups, frozen ones too.
        branches: those that a plan may drop.
        histories: each searcher's trials in order.
        finished: the dense model and the finished plans, the search's last.
        kept: the finished plan that the saved model holds.
        seconds: wall time from the first evaluation to the last test.
        guesses: how good the surrogate's guesses of cost were; None when it made none.
        predictions: latencies in seconds as the surrogate guessed them, each with the truth.
        images: how many there are for training, reward and test.
        cautions: what a reader should know before trusting it.
        measure: how accuracies are told.
    """

    settings: SearchSettings
    target: Target
    problem: Problem
    groups: Sequence[ChannelGroup]
    histories: Mapping[str, History]
    finished: Sequence[Finished]
    kept: Finished
    seconds: float
    branches: Sequence[Branch] = ()
    guesses: GuessError | None = None
    predictions: Sequence[tuple[float, float]] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    cautions: Sequence[str] = ()
    measure: Measure = ACCURACY


def result_rows(
    finished: Sequence[Finished], branches: Sequence[Branch] = (), measure: Measure = ACCURACY
) -> list[ResultRow]:
    """The result table's rows.

    Args:
        finished: the dense model first.
        branches: those that a plan may drop.
        measure: how accuracies are told.
    """
    return [
        ResultRow(
            name=done.name,
            test_accuracy=done.test_accuracy,
            reward_accuracy=done.reward_accuracy,
            one_shot_accuracy=done.evaluation.accuracy,
            cost=done.cost,
            # Channels that are left of all groups' channels; of groups that leave with a branch none are.
            keep_ratio=sum(done.plan.widths.values()) / sum(done.plan.sizes.values()) if done.plan.sizes else 1.0,
            branches=(len(branches) - len(gone_branches(done.plan, branches)), len(branches)) if branches else None,
            measure=measure,
        )
        for done in finished
    ]


def write_outcome(outcome: Outcome, folder: RunFolder) -> None:
    """Write `metrics.json` and, from what is saved, `report.html`."""
    rows = result_rows(outcome.finished, outcome.branches, outcome.measure)
    branches = branch_rows(outcome.finished, outcome.branches)
    metrics = {
        "format": FORMAT,
        "version": VERSION,
        "settings": dataclasses.asdict(outcome.settings),
        "target": dataclasses.asdict(outcome.target),
        "budget": dataclasses.asdict(outcome.problem.budget),
        "anchor": outcome.problem.anchor,
        "measure": dataclasses.asdict(outcome.measure),
        "rows": [dataclasses.asdict(row) for row in rows],
        "branches": [dataclasses.asdict(row) for row in branches],
        "kept": outcome.kept.name,
        "cautions": list(outcome.cautions),
        "plans": {done.name: plan_to_json(done.plan) for done in outcome.finished},
        "finalists": {done.name: [dataclasses.asdict(one) for one in done.finalists] for done in outcome.finished},
        "fine_tuning": {done.name: dataclasses.asdict(done.training) for done in outcome.finished},
        "courses": {
            name: [evaluation_to_json(trial.evaluation) for trial in history]
            for name, history in outcome.histories.items()
        },
        "means": {name: history.sources for name, history in outcome.histories.items()},
        "seconds": outcome.seconds,
        "guesses": dataclasses.asdict(outcome.guesses) if outcome.guesses else None,
        "predictions": [list(pair) for pair in outcome.predictions],
        "verdict": verdict(outcome),
        "gone": {done.name: gone_groups(done.plan, outcome.branches, outcome.groups) for done in outcome.finished[1:]},
        "left_alone": dict(outcome.kept.surgery.left_alone),
        "images": dict(outcome.images),
        "versions": library_versions(),
        "ended": time.strftime("%Y-%m-%d %H:%M"),
    }
    write_json(folder.metrics, metrics)
    write_page(search_page(Saved(folder.path)), folder.report)


def cautions(finished: Sequence[Finished], kept: Finished, data: Dataset, before: Sequence[str] = ()) -> list[str]:
    """What a reader of the result should know before trusting it; usually nothing.

    Args:
        finished: the dense model first.
        kept: what the saved model holds.
        data: its data.
        before: what was known before the search, see `data_cautions`.
    """
    dense, found = finished[0], list(before)
    found += chance_caution(dense.reward_accuracy, data.reward, data.classes)
    lost = dense.test_accuracy - kept.test_accuracy
    measure = data.task.measure
    if not measure.is_share and compare_qualities(kept.test_accuracy, dense.test_accuracy) < 0.8:
        before, now = measure.tell(dense.test_accuracy), measure.tell(kept.test_accuracy)
        found.append(
            f"The saved model's test {measure.name} is {now}, the dense model's {before}. Raise the budget, or "
            "fine-tune for longer (training.fine_tune_epochs)."
        )
    if measure.is_share and lost > 0.05:
        found.append(
            f"The saved model lost {100 * lost:.1f} points of test {measure.name}. Raise the budget, or fine-tune for "
            "longer (training.fine_tune_epochs)."
        )
    gap = gap_caution("The dense model", dense.reward_accuracy, dense.test_accuracy, data)
    # What holds of the dense model holds of the other for the same reason.
    found += gap or gap_caution("The saved model", kept.reward_accuracy, kept.test_accuracy, data)
    return found


def verdict(outcome: Outcome) -> str:
    """One sentence: what is in the saved model, and how the search compares with the best plan that is set by hand.

    The best of these is that of the highest accuracy on the reward split.
    """
    by_name = {done.name: done for done in outcome.finished}
    searched = by_name.get(outcome.settings.searcher.name)
    hand_set = [done for done in outcome.finished[1:] if is_hand_set(done.name)]
    best = max(hand_set, key=lambda done: done.reward_accuracy, default=None)
    dense = outcome.finished[0]
    kept = outcome.kept
    found = ""
    for trial in outcome.histories.get(kept.name, ()):
        if trial.evaluation.key == kept.evaluation.key:
            by = "" if trial.source == kept.name else f", by {trial.source}"
            found = f" It was evaluation {trial.number} of {len(outcome.histories[kept.name])}{by}."
            break
    if without := describe_dropped(kept, dense, outcome.branches):
        found += f" It is {without}."
    if kept.training.only_worse:
        found += " Fine-tuning only made it worse on the reward split: it is as it was pruned."
    measure = outcome.measure
    before, now = measure.tell(dense.test_accuracy), measure.tell(kept.test_accuracy)
    told = f"{now} test {measure.name}" if measure.is_share else f"test {measure.name} {now}"
    told += f" (dense {before})"
    cost = shares(kept.cost, dense.cost, outcome.problem.budget)
    held = f"The saved model holds the {kept.name} plan: {told} at {cost}.{found}"
    if searched is None:
        return f"{held} The search itself found no plan within the budget."
    if best is None or searched in hand_set:
        return held
    if searched.evaluation.key == best.evaluation.key:
        return f"{held} The searched plan is the {best.name} plan, which was fine-tuned once."
    difference = measure.tell_difference(searched.test_accuracy - best.test_accuracy)
    gained = f"{difference} points of test {measure.name}" if measure.is_share else f"{difference} {measure.name}"
    against = shares(searched.cost, best.cost, outcome.problem.budget).replace("the dense", "its")
    named = "uniform plan" if best.name == WIDTH_RULE else f"plan set by hand ({best.name})"
    return f"{held} Against the best {named} the searched one has {gained} at {against}, in one run with one seed."
