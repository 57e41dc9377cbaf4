"""From what a comparison has done to what may be concluded; every figure is after fine-tuning, on the test split."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from autoprune.comparison import statistics
from autoprune.comparison.cells import cell_names, cells_of
from autoprune.comparison.conclusions import (
    ALL,
    DENSE,
    HIGHEST_SCORE,
    SCRATCH,
    UNIFORM,
    CostRatio,
    Curves,
    Difference,
    Row,
    SearchOutcome,
    Summary,
)
from autoprune.comparison.jobs import scratch_searchers
from autoprune.comparison.matching import kind_of
from autoprune.comparison.record import AS_IT_IS, FINE_TUNED, FROM_SCRATCH, PlanResult, Record
from autoprune.comparison.selection import most_accurate, select_finalist
from autoprune.comparison.statistics import Interval, Matched, Point
from autoprune.searchers.hand_set import is_hand_set
from autoprune.settings import CompareSettings
from autoprune.tasks import make_task


def summarise(settings: CompareSettings, record: Record) -> Summary:
    """Draw the conclusions of a comparison in which everything was finished."""
    outcomes = list(_outcomes(settings, record))
    dense = record.require(record.required_dense.key, AS_IT_IS, None)
    uniform = {kind: _uniform_points(settings, record, kind) for kind in dict.fromkeys(map(kind_of, settings.budgets))}
    tuned = [record.find(record.required_dense.key, FINE_TUNED, seed) for seed in settings.seeds]
    tuned_accuracies = [done.test_accuracy for done in tuned if done is not None]
    # The worst of both: the dense model's cost, and the least accuracy of any searched plan.
    corners = {}
    for kind in uniform:
        accuracies = [plan.tested.test_accuracy for plan in outcomes if kind_of(plan.budget) == kind]
        corners[kind] = (1.0, min(accuracies, default=dense.test_accuracy))
    curves: dict[str, dict[str, Curves]] = {budget: {} for budget in settings.budgets}
    for budget in settings.budgets:
        for searcher in settings.searchers:
            runs = [record.runs[name] for name in cell_names(settings, searcher, budget)]
            best = [statistics.best_so_far(run.rewards) for run in runs]
            seconds = statistics.mean_over_time(best, [run.seconds for run in runs])
            curves[budget][searcher] = Curves(statistics.mean_curve(best), seconds)
    return Summary(
        rows=list(_rows(settings, record, outcomes, dense)),
        differences=list(_differences(settings, record, outcomes)),
        ratios=list(_ratios(settings, outcomes, uniform)),
        volumes={kind: _volumes(settings, outcomes, dense, kind, corners[kind]) for kind in uniform},
        corners=corners,
        dense=dense,
        dense_tuned=statistics.student_interval(tuned_accuracies) if tuned_accuracies else None,
        uniform=uniform,
        outcomes=outcomes,
        curves=curves,
        measure=make_task(settings.task).measure,
    )


def _outcomes(settings: CompareSettings, record: Record) -> Iterator[SearchOutcome]:
    scratch = scratch_searchers(settings)
    for cell in cells_of(settings):
        finalists = record.runs[cell.name].finalists
        matches = {match.evaluation.key: match for match in record.matches.get(cell.name, ())}
        for seed in cell.seeds if finalists else ():
            best = select_finalist(finalists, seed, settings, record)
            if best is None:
                raise ValueError(f"not every finalist of {cell.name} is finished")
            uniform = most_accurate([match.evaluation for match in matches.values()], seed, record)
            yield SearchOutcome(
                searcher=cell.searcher,
                budget=cell.budget,
                seed=seed,
                tested=record.require(best.key, FINE_TUNED, seed),
                uniform=None if uniform is None else record.find(uniform.key, FINE_TUNED, seed),
                excess=None if uniform is None else matches[uniform.key].excess,
                scratch=record.find(best.key, FROM_SCRATCH, seed) if cell.searcher in scratch else None,
                first=record.require(finalists[0].key, FINE_TUNED, seed),
                score=best.score,
                dropped=best.dropped,
            )


def _of(outcomes: Sequence[SearchOutcome], searcher: str, budgets: Sequence[str]) -> list[SearchOutcome]:
    """A searcher's plans at some budgets."""
    return [plan for plan in outcomes if plan.searcher == searcher and plan.budget in budgets]


def _spans(settings: CompareSettings) -> Iterator[tuple[str, str, list[str]]]:
    """Each budget by itself, then all of a kind where there are several: name, kind, budgets."""
    for kind in dict.fromkeys(map(kind_of, settings.budgets)):
        budgets = [budget for budget in settings.budgets if kind_of(budget) == kind]
        for budget in budgets:
            yield budget, kind, [budget]
        if len(budgets) > 1:
            yield ALL, kind, budgets


def _rows(
    settings: CompareSettings, record: Record, outcomes: Sequence[SearchOutcome], dense: PlanResult
) -> Iterator[Row]:
    for budget in settings.budgets:
        for searcher in settings.searchers:
            plans = _of(outcomes, searcher, [budget])
            if not plans:
                continue
            tested = [plan.tested for plan in plans]
            matches = [plan.uniform for plan in plans if plan.uniform is not None]
            excesses = [plan.excess for plan in plans if plan.excess is not None]
            memories = [done.memory for done in tested if done.memory is not None]
            kept = [
                statistics.real_speed_up((dense.latency, dense.flops), (done.latency, done.flops))
                for done in tested
                if done.flops
            ]
            yield Row(
                searcher=searcher,
                budget=budget,
                accuracy=statistics.student_interval([done.test_accuracy for done in tested]),
                score=_mean([plan.score for plan in plans]),
                latency=_mean([done.latency / dense.latency for done in tested]),
                memory=_mean([taken / dense.memory for taken in memories])
                if dense.memory and len(memories) == len(tested)
                else None,
                uniform=statistics.student_interval([match.test_accuracy for match in matches]) if matches else None,
                excess=(min(excesses), max(excesses)) if excesses else None,
                unmatched=0 if is_hand_set(searcher) else len(plans) - len(matches),
                speed_up=_mean([dense.latency / done.latency for done in tested]),
                speed_up_kept=statistics.student_interval(kept) if kept else None,
                evaluations=_mean([len(record.runs[name].keys) for name in cell_names(settings, searcher, budget)]),
                dropped=dict(Counter(name for plan in plans for name in plan.dropped)),
            )


def references_of(settings: CompareSettings) -> list[str]:
    """What searchers are compared with, in order: as cheap uniform plans, other ways to search, and the controls.

    The last is what they would have found without a choice among finalists.
    """
    others = [name for name in settings.searchers if not is_hand_set(name) and not name.startswith("rl")]
    scratch = [SCRATCH] if any(control.startswith("scratch") for control in settings.controls) else []
    dense = [DENSE] if "dense" in settings.controls else []
    return [UNIFORM, *others, *scratch, *dense, *([HIGHEST_SCORE] if settings.search.finalists > 1 else [])]


def _differences(settings: CompareSettings, record: Record, outcomes: Sequence[SearchOutcome]) -> Iterator[Difference]:
    searched = {(plan.searcher, plan.budget, plan.seed): plan.tested for plan in outcomes}
    for (budget, kind, budgets), searcher, reference in itertools.product(
        _spans(settings), settings.searchers, references_of(settings)
    ):
        pairs = []
        for plan in _of(outcomes, searcher, budgets) if searcher != reference else ():
            controls = {
                UNIFORM: plan.uniform,
                SCRATCH: plan.scratch,
                DENSE: record.find(record.required_dense.key, FINE_TUNED, plan.seed),
                HIGHEST_SCORE: plan.first,
            }
            # Any other reference is a searcher.
            other = controls.get(reference, searched.get((reference, plan.budget, plan.seed)))
            if other is not None:
                pairs.append((plan.tested.test_accuracy, other.test_accuracy))
        if pairs:
            interval = statistics.interval_of_pairs(*zip(*pairs, strict=True))
            yield Difference(searcher=searcher, reference=reference, budget=budget, kind=kind, interval=interval)


def _uniform_points(settings: CompareSettings, record: Record, kind: str) -> dict[int, list[Point]]:
    """For each seed every hand-set plan that was fine-tuned with it, chosen or not, the dense model among them."""
    keys = {evaluation.key for evaluation in record.curve} | {record.required_dense.key}
    for cell in cells_of(settings):
        if is_hand_set(cell.searcher):
            keys |= {evaluation.key for evaluation in record.runs[cell.name].finalists}
    keys |= {match.evaluation.key for matches in record.matches.values() for match in matches}
    points: dict[int, list[Point]] = {}
    for seed in settings.seeds:
        tested = [record.find(key, FINE_TUNED, seed) for key in sorted(keys)]
        points[seed] = [(done.taken(kind), done.test_accuracy) for done in tested if done and getattr(done, kind)]
    return points


def _ratios(
    settings: CompareSettings, outcomes: Sequence[SearchOutcome], uniform: Mapping[str, Mapping[int, list[Point]]]
) -> Iterator[CostRatio]:
    for budget, kind, budgets in _spans(settings):
        for searcher in settings.searchers:
            plans = [plan for plan in _of(outcomes, searcher, budgets) if uniform[kind][plan.seed]]
            if is_hand_set(searcher) or not plans:
                continue
            matched: list[Matched] = [
                statistics.cost_at_accuracy(uniform[kind][plan.seed], plan.tested.test_accuracy) for plan in plans
            ]
            ratios = [match.cost / plan.tested.taken(kind) for match, plan in zip(matched, plans, strict=True)]
            bounds = [match.bound for match in matched]
            interval, beyond = statistics.geometric_interval(ratios), sum(map(bool, bounds))
            yield CostRatio(
                searcher=searcher,
                budget=budget,
                kind=kind,
                interval=interval,
                bound=statistics.joint_bound(bounds),
                bounds=beyond,
            )


def _volumes(
    settings: CompareSettings, outcomes: Sequence[SearchOutcome], dense: PlanResult, kind: str, corner: Point
) -> dict[str, Interval]:
    """For each searcher, over the seeds, the hypervolume of its plans at all budgets of a kind."""
    volumes = {}
    budgets = [budget for budget in settings.budgets if kind_of(budget) == kind]
    for searcher in settings.searchers:
        plans = _of(outcomes, searcher, budgets)
        by_seed: dict[int, list[Point]] = {}
        for plan in plans:
            by_seed.setdefault(plan.seed, []).append(
                (plan.tested.taken(kind) / dense.taken(kind), plan.tested.test_accuracy)
            )
        if by_seed:
            values = [statistics.hypervolume(points, corner) for points in by_seed.values()]
            volumes[searcher] = statistics.student_interval(values)
    return volumes


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
