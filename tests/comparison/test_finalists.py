"""Each searcher sends several plans into fine-tuning; the reward split, never the test split, says which one counts."""

from dataclasses import replace

import pytest

from autoprune.comparison import PlanResult, Record, Run, cells_of, summarise
from autoprune.comparison.jobs import jobs_of
from autoprune.comparison.matching import HandSetPlan, match_hand_set
from autoprune.comparison.record import AS_IT_IS, FROM_SCRATCH
from autoprune.comparison.selection import most_accurate, select_finalist
from autoprune.reporting.comparison import comparison_tables
from autoprune.settings import CompareSettings, LimitsSettings, RewardSettings
from helpers import toy

SETTINGS = CompareSettings(
    searchers=["uniform", "rl"],
    latencies=[0.5],
    seeds=[0, 1],
    uniform_curve=0,
    controls=["scratch:rl"],
    search=LimitsSettings(finalists=2),
)
# The search took the first of them for the better one.
FIRST = toy.evaluation_of(dict(zip(toy.NAMES, (1, 0.25, 1, 0.25), strict=True)))
SECOND = toy.evaluation_of(dict(zip(toy.NAMES, (1, 0.375, 1, 0.25), strict=True)))
UNIFORM = toy.evaluation_of(0.5), toy.evaluation_of(0.375)
DENSE = toy.evaluation_of(1.0)
# After fine-tuning: accuracy on the reward split, and on the test split, which says the contrary for the second seed.
ENDS = {
    (DENSE.key, None): (0.95, 0.95),
    (FIRST.key, 0): (0.80, 0.80),
    (SECOND.key, 0): (0.85, 0.86),
    (FIRST.key, 1): (0.80, 0.90),
    (SECOND.key, 1): (0.85, 0.84),
    (UNIFORM[0].key, 0): (0.82, 0.81),
    (UNIFORM[1].key, 0): (0.70, 0.70),
    (UNIFORM[0].key, 1): (0.70, 0.70),
    (UNIFORM[1].key, 1): (0.75, 0.74),
}


def record_of():
    record = Record({}, lambda data: None)
    record.dense = DENSE
    for cell in cells_of(SETTINGS):
        plans = (FIRST, SECOND) if cell.searcher == "rl" else UNIFORM
        record.runs[cell.name] = Run(
            keys=tuple(plan.key for plan in plans), rewards=(0.9, 0.8), seconds=(1.0, 1.0), costed=0, finalists=plans
        )
    return record


def finish(record, settings=SETTINGS):
    """Finish what there is to finish, as often as something is."""
    for job in jobs_of(settings, record):
        if job.name not in record.tested:
            reward, test = ENDS[job.evaluation.key, None if job.recipe == AS_IT_IS else job.seed]
            cost = job.evaluation.cost
            tested = PlanResult(
                key=job.evaluation.key,
                recipe=job.recipe,
                seed=job.seed,
                test_accuracy=test,
                reward_accuracy=reward,
                latency=cost.latency,
                memory=cost.memory.total,
                flops=cost.flops,
                parameters=1000,
                epochs=2,
            )
            record.add_tested(tested)


def whole():
    """A comparison as the command goes through it: finalists, then what depends on the choice."""
    record = record_of()
    finish(record)
    family = [HandSetPlan("uniform", toy.SPACE.nearest(plan.keep_ratios), plan.cost) for plan in (DENSE, *UNIFORM)]
    for cell in cells_of(SETTINGS):
        if cell.searcher == "rl":
            best = select_finalist((FIRST, SECOND), *cell.seeds, SETTINGS, record)
            allowed = replace(best, cost=replace(best.cost, latency=0.5))
            record.matches[cell.name] = match_hand_set(toy.ToyEvaluator(), family, allowed, "latency", 2)
    finish(record)
    return record


def test_the_reward_split_chooses_and_not_the_test_split():
    summary = summarise(SETTINGS, whole())
    tested = {(plan.searcher, plan.seed): plan.tested for plan in summary.outcomes}
    assert {seed: tested["rl", seed].key for seed in (0, 1)} == {0: SECOND.key, 1: SECOND.key}
    assert tested["rl", 1].test_accuracy == 0.84
    assert {seed: tested["uniform", seed].key for seed in (0, 1)} == {0: UNIFORM[0].key, 1: UNIFORM[1].key}
    rows = {row.searcher: row for row in summary.rows}
    assert rows["rl"].score == SECOND.score


def test_as_many_hand_set_plans_stand_against_it():
    record = whole()
    assert [match.evaluation.key for match in record.matches["rl@0.5/0"]] == [plan.key for plan in UNIFORM]
    found = [plan for plan in summarise(SETTINGS, record).outcomes if plan.searcher == "rl"]
    assert [plan.uniform.key for plan in found] == [UNIFORM[0].key, UNIFORM[1].key]
    assert [plan.excess for plan in found] == [pytest.approx(0), pytest.approx(0.375 / 0.5 - 1)]


def test_above_an_accuracy_floor_too_the_most_accurate_hand_set_plan_stands_against_it():
    """It is as fast whichever it is: a narrower one would flatter the search."""
    record = whole()
    floored = replace(SETTINGS, reward=RewardSettings("latency_at_accuracy", accuracy_floor=0.7))
    assert select_finalist(UNIFORM, 0, floored, record) is UNIFORM[1], "a searcher's own would be the fastest"
    assert most_accurate(UNIFORM, 0, record) is UNIFORM[0]
    assert most_accurate(UNIFORM, 7, record) is None
    found = [plan for plan in summarise(floored, record).outcomes if plan.searcher == "rl"]
    assert [plan.uniform.key for plan in found] == [UNIFORM[0].key, UNIFORM[1].key]


def headers(table):
    return [column.header for column in table.columns]


def test_what_the_choice_was_worth_is_told():
    summary = summarise(SETTINGS, whole())
    (gain,) = [d for d in summary.differences if (d.searcher, d.reference) == ("rl", "its highest score")]
    assert gain.interval.mean == pytest.approx(((0.86 - 0.80) + (0.84 - 0.90)) / 2)
    assert "over its highest score" in headers(comparison_tables(SETTINGS, summary)[1])
    alone = replace(SETTINGS, search=LimitsSettings(finalists=1))
    assert "over its highest score" not in headers(comparison_tables(alone, summarise(alone, whole()))[1])


def test_only_what_was_chosen_is_trained_from_scratch():
    record = record_of()
    assert not [job for job in jobs_of(SETTINGS, record) if job.recipe == FROM_SCRATCH], "not known before"
    finish(record)
    scratch = [(job.evaluation.key, job.seed) for job in jobs_of(SETTINGS, record) if job.recipe == FROM_SCRATCH]
    assert scratch == [(SECOND.key, 0), (SECOND.key, 1)]


def test_nothing_is_chosen_before_all_finalists_are_finished():
    record = record_of()
    assert select_finalist((FIRST, SECOND), 0, SETTINGS, record) is None
    finish(record)
    assert select_finalist((FIRST, SECOND), 0, SETTINGS, record) is SECOND
    assert select_finalist((FIRST, SECOND), 7, SETTINGS, record) is None
    assert select_finalist((), 0, SETTINGS, record) is None


def test_above_an_accuracy_floor_the_fastest_is_chosen():
    record = record_of()
    finish(record)
    assert FIRST.cost.latency < SECOND.cost.latency
    floored = replace(SETTINGS, reward=RewardSettings("latency_at_accuracy", accuracy_floor=0.84))
    assert select_finalist((SECOND, FIRST), 0, floored, record) is FIRST
    floored = replace(SETTINGS, reward=RewardSettings("latency_at_accuracy", accuracy_floor=0.85))
    assert select_finalist((SECOND, FIRST), 0, floored, record) is SECOND
