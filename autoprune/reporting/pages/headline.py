"""The sentence at the head of a search's page: what came of it, no more than its figures bear."""

import math
from collections.abc import Sequence

from autoprune.records import CostReport
from autoprune.records.measure import ACCURACY
from autoprune.reporting.pages.page import Figure
from autoprune.reporting.tables import ResultRow, byte_count, kinds_of, seconds
from autoprune.searchers.hand_set import is_hand_set

_SAME = 0.01  # Latencies that differ by less are called the same, as in comparisons.
_POINTS = 0.05  # Of accuracy, below which none is told.


def headline(rows: Sequence[ResultRow], kept: str, searcher: str, *, same_plan: bool, limits: str) -> str:
    """What the saved model is, beside the dense network and the best hand-set plan.

    Args:
        rows: the dense model first, then every finished plan.
        kept: name of the row that the saved model is.
        searcher: name of the searcher that the run is about.
        same_plan: whether the searched plan is the best hand-set one.
        limits: what the budget limits: `latency`, `memory`, `both` or nothing.
    """
    dense, of = rows[0], {row.name: row for row in rows}
    held = of[kept]
    told = [speed_words(held.cost, dense.cost)]
    if held.cost.memory.total and dense.cost.memory.total:
        told.append(f"{held.cost.memory.total / dense.cost.memory.total:.0%} of the memory".replace("%", "\u00a0%"))
    sentence = f"{' and '.join(told)}, {quality_words(held, dense)}"
    by_hand = [row for row in rows[1:] if is_hand_set(row.name)]
    best = max(by_hand, key=lambda row: row.reward_accuracy, default=None)
    within = " within the budget" if limits else ""
    if is_hand_set(searcher):
        ending = "the plan is set by hand"
    elif best is None:
        ending = f"no hand-set plan{within} was found"
    elif same_plan:
        ending = "the search came to the plan that is set by hand"
    elif is_hand_set(kept):
        found = of.get(searcher)
        own = f"found none{within}" if found is None else f"found one that {_loss(dense, found)}"
        ending = f"the plan is set by hand, the best on the reward split, and {searcher} {own}"
    else:
        how = _beside(best.cost, held.cost, dense.cost, limits)
        ending = f"the best hand-set plan{how or within} {_loss(dense, best)}"
    return f"{sentence[0].upper()}{sentence[1:]}; {ending}."


def speed_words(cost: CostReport, dense: CostReport) -> str:
    """Such as `2.3 times as fast on a TPU v5e at batch 128`; of several targets each."""
    pairs = [(part, dense.parts[name]) for name, part in cost.parts.items()] or [(cost, dense)]
    told = [f"{_times(one.latency, whole.latency)} on {device_words(one.target.name)}" for one, whole in pairs]
    return f"{' and '.join(told)} at batch {cost.target.batch_size}"


def _times(latency: float, whole: float) -> str:
    ratio = whole / latency
    if abs(ratio - 1) < _SAME:
        return "as fast"
    if ratio >= 1.1:
        return f"{ratio:.1f} times as fast"
    return f"{abs(latency / whole - 1):.0%}".replace("%", "\u00a0%") + (" faster" if ratio > 1 else " slower")


def device_words(name: str) -> str:
    """A target as it is spoken of: `tpu_v5e` as `a TPU v5e`."""
    if name == "cpu":
        return "the CPU it was measured on"
    return "a " + name.replace("tpu_", "TPU ").replace("tpu", "TPU")


def quality_words(row: ResultRow, dense: ResultRow) -> str:
    """How accurate a network is beside the dense one."""
    measure = row.measure
    if not measure.is_share:
        here, there = measure.tell(row.test_accuracy), measure.tell(dense.test_accuracy)
        return f"with {measure.name} {here}, where the dense network has {there}"
    points = 100 * (row.test_accuracy - dense.test_accuracy)
    if abs(points) < _POINTS:
        return "as accurate as the dense network"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} the dense network"


def _loss(dense: ResultRow, row: ResultRow) -> str:
    if not row.measure.is_share:
        return f"has {row.measure.tell(row.test_accuracy)}"
    points = 100 * (dense.test_accuracy - row.test_accuracy)
    if abs(points) < _POINTS:
        return "loses nothing"
    return f"{'loses' if points > 0 else 'gains'} {abs(points):.1f} points"


def _beside(best: CostReport, held: CostReport, dense: CostReport, limits: str) -> str:
    """How the best hand-set plan stands to the saved one in what the budget limits; plans are seldom just as costly."""
    if limits == "memory" and best.memory.total and held.memory.total and dense.memory.total:
        if abs(best.memory.total / held.memory.total - 1) < _SAME:
            return " as small"
        share = f"{best.memory.total / dense.memory.total:.0%}".replace("%", "\u00a0%")
        return f" within the budget, at {share} of the memory,"
    if abs(best.latency / held.latency - 1) < _SAME:
        return " as fast"
    return f" within the budget, {_times(best.latency, dense.latency)},"


def chance_words(dense: ResultRow, held: ResultRow, images: int | None) -> str:
    """How much of a difference in accuracy is chance, by the number of test images; empty if that is not known."""
    if not images or held.measure != ACCURACY:
        return ""
    variance = sum(row.test_accuracy * (1 - row.test_accuracy) for row in (dense, held)) / images
    half = 196 * math.sqrt(variance)
    if half == 0:
        return ""
    within = abs(100 * (held.test_accuracy - dense.test_accuracy)) <= half
    told = f"With {images:,} test images chance alone may make a difference of {half:.1f} points"
    return f"{told}, and the one to the dense network is no larger." if within else f"{told}."


def large_figures(dense: ResultRow, held: ResultRow, images: int | None) -> list[Figure]:
    """Speed, memory, accuracy and parameters of the saved model."""
    cost, whole = held.cost, dense.cost
    ratio = whole.latency / cost.latency
    figures = [
        Figure(
            value=f"{ratio:.1f} \u00d7" if ratio >= 1.1 else f"{ratio:.2f} \u00d7",
            name="speed",
            note=f"{seconds(whole.latency)} \u2192 {seconds(cost.latency)} per batch, {kinds_of([cost])}",
        )
    ]
    if cost.memory.total and whole.memory.total:
        note = f"{byte_count(whole.memory.total)} \u2192 {byte_count(cost.memory.total)}"
        figures.append(Figure(value=f"{cost.memory.total / whole.memory.total:.0%}", name="memory", note=note))
    measure = held.measure
    note = f"{measure.tell(dense.test_accuracy)} \u2192 {measure.tell(held.test_accuracy)}"
    note += f", {images:,} images" if images else ""
    points = 100 * (held.test_accuracy - dense.test_accuracy)
    sign = "\u00b1" if abs(points) < _POINTS else "+" if points > 0 else "\u2212"
    value, name = f"{sign}{abs(points):.1f}", f"points of test {measure.name}"
    if not measure.is_share:
        value, name = measure.tell(held.test_accuracy), f"test {measure.name}"
    figures.append(Figure(value=value, name=name, note=note))
    note = f"{whole.parameters:,} \u2192 {cost.parameters:,}"
    return [*figures, Figure(value=f"{cost.parameters / whole.parameters:.0%}", name="parameters", note=note)]
