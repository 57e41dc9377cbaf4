"""From plans to conclusions, in a world where every figure is known: no network is trained here."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from autoprune.comparison import PlanResult, Record, Run, cells_of, summarise
from autoprune.comparison.jobs import jobs_of, scratch_searchers
from autoprune.comparison.matching import HandSetPlan, Match, curve_plans, match_hand_set, widest_within
from autoprune.comparison.record import AS_IT_IS, FINE_TUNED, FROM_SCRATCH
from autoprune.errors import JournalError
from autoprune.records.plain import from_plain
from autoprune.reporting.comparison import comparison_tables, verdicts
from autoprune.settings import CompareSettings
from helpers import toy

RATIOS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
CHOICES = {"searchers": ["uniform", "random", "rl"], "latencies": [0.5], "seeds": [0, 1, 2], "uniform_curve": 2}
SETTINGS = CompareSettings(**CHOICES, controls=["scratch:rl", "dense"])


def flat(ratio, rule="uniform", slower=1.0):
    cost = toy.evaluation_of(ratio).cost
    return HandSetPlan(rule, toy.SPACE.nearest(ratio), replace(cost, latency=slower * cost.latency))


FAMILY = [flat(ratio) for ratio in RATIOS]
# What is best in the toy: the groups that take time and are worth little go first.
BEST = toy.evaluation_of(dict(zip(toy.NAMES, (1.0, 0.375, 1.0, 0.25), strict=True)))


# ------------------------------------------------------------------ matching


def test_the_hand_set_plan_may_be_one_per_cent_slower():
    assert [plan.cost.latency for plan in widest_within(FAMILY, 0.5, "latency")] == [0.5]
    searched = replace(BEST, cost=replace(BEST.cost, latency=0.5 / 1.0099))
    (match,) = match_hand_set(toy.ToyEvaluator(), FAMILY, searched, "latency")
    assert match.evaluation.widths == dict.fromkeys(toy.NAMES, 32)
    assert match.excess == pytest.approx(0.0099)
    searched = replace(BEST, cost=replace(BEST.cost, latency=0.5 / 1.0101))
    (match,) = match_hand_set(toy.ToyEvaluator(), FAMILY, searched, "latency")
    assert match.evaluation.widths == dict.fromkeys(toy.NAMES, 24)
    assert match.excess == pytest.approx(0.375 * 1.0101 / 0.5 - 1)


def test_the_best_rule_stands_for_all_of_them():
    whole = {"a": 1.0, "b": 0.5, "c": 1.0, "d": 0.25}
    skip = HandSetPlan("uniform_skip", toy.SPACE.nearest(whole), toy.evaluation_of(whole).cost)
    (match,) = match_hand_set(toy.ToyEvaluator(), [*FAMILY, skip], BEST, "latency")
    assert match.rule == "uniform"
    searched = replace(BEST, cost=replace(BEST.cost, latency=0.52))
    (match,) = match_hand_set(toy.ToyEvaluator(), [*FAMILY, skip], searched, "latency")
    assert match.rule == "uniform_skip"
    assert from_plain(Match, json.loads(json.dumps(match.to_json()))).evaluation == match.evaluation


def test_nothing_stands_against_what_is_faster_than_every_hand_set_plan():
    searched = replace(BEST, cost=replace(BEST.cost, latency=0.1))
    assert match_hand_set(toy.ToyEvaluator(), FAMILY, searched, "latency") == ()


def test_memory_is_matched_under_a_memory_budget():
    memory = replace(BEST.cost.memory, total=2999)
    searched = replace(BEST, cost=replace(BEST.cost, memory=memory))
    # In the toy all plans take the same memory: 3,000, within 1 % of it, so that the widest is the dense one.
    (match,) = match_hand_set(toy.ToyEvaluator(), FAMILY, searched, "memory")
    assert match.evaluation.widths == dict.fromkeys(toy.NAMES, 64)


def test_curve_leaves_out_the_dense_plan_and_what_is_slow_for_nothing():
    family = [*FAMILY[:3], flat(0.625, slower=2.0), *FAMILY[4:], flat(0.5, "uniform_skip")]

    def ratios(count, lowest):
        return [toy.SPACE.keep_ratios(plan.candidate)[0] for plan in curve_plans(family, count, lowest)]

    assert ratios(9, 0.3) == [0.875, 0.75, 0.5, 0.375, 0.25]
    assert ratios(9, 0.4) == [0.875, 0.75, 0.5, 0.375]
    assert ratios(3, 0.3) == [0.875, 0.5, 0.25]
    assert curve_plans(family, 0, 0.3) == []


# ------------------------------------------------------------------ cells and jobs


def test_cells_are_all_searchers_with_all_seeds_and_hand_set_ones_once():
    names = [cell.name for cell in cells_of(replace(SETTINGS, latencies=[0.5, 0.25], memories=[0.3], seeds=[3, 1]))]
    assert names[:3] == ["uniform@0.5", "random@0.5/3", "rl@0.5/3"]
    assert "rl@memory 0.3/1" in names
    assert len(names) == len(set(names)) == 3 * (1 + 2 * 2)


def test_cells_have_their_own_settings():
    settings = replace(SETTINGS, searchers=["uniform", "rl", "rl:ppo"], seeds=[7])
    uniform, rl, ppo = (
        settings.search_settings(cell.searcher, cell.budget, cell.seeds[0]) for cell in cells_of(settings)
    )
    assert (uniform.searcher.name, uniform.seed, uniform.budget.latency) == ("uniform", 7, 0.5)
    assert (rl.searcher.name, rl.agent.name) == ("rl", "dyna_ppo")
    assert (ppo.searcher.name, ppo.agent.name) == ("rl", "ppo")


def ran(name, best):
    return Run(keys=(best.key,), rewards=(0.9,), seconds=(1.0,), costed=2, finalists=(best,))


def record_of(settings=SETTINGS, written=None):
    """A comparison in which rl found the best plan, and random what uniform has."""
    record = Record({"settings": {}}, lambda data: None if written is None else written.append(data))
    record.dense = toy.evaluation_of(1.0)
    record.curve = [toy.evaluation_of(ratio) for ratio in (0.75, 0.25)]
    for cell in cells_of(settings):
        record.runs[cell.name] = ran(cell.name, BEST if cell.searcher == "rl" else toy.evaluation_of(0.5))
        if cell.searcher != "uniform":
            excess = 0.5 / record.runs[cell.name].finalists[0].cost.latency - 1
            record.matches[cell.name] = (Match("uniform", toy.evaluation_of(0.5), excess),)
    return record


def finish(record, settings=SETTINGS):
    """Test accuracies are those of the toy, a little more or less by seed, and less from scratch."""
    jobs = [job for job in jobs_of(settings, record) if job.name not in record.tested]
    for job in jobs:
        luck = 0.001 * (job.seed or 0) * (1 if job.evaluation.key == BEST.key else 2)
        accuracy = job.evaluation.accuracy + luck - (0.01 + luck if job.recipe == FROM_SCRATCH else 0)
        cost = job.evaluation.cost
        tested = PlanResult(
            key=job.evaluation.key,
            recipe=job.recipe,
            seed=job.seed,
            test_accuracy=accuracy,
            reward_accuracy=accuracy,
            latency=cost.latency,
            memory=cost.memory.total,
            flops=cost.flops,
            parameters=1000,
            epochs=2,
        )
        record.add_tested(tested)
    if jobs:
        finish(record, settings)  # what depends on the choice among finalists


def test_every_plan_is_finished_once_with_every_seed():
    record = record_of()
    finish(record)
    jobs = jobs_of(SETTINGS, record)
    kinds = [(job.evaluation.key, job.recipe, job.seed) for job in jobs]
    half, dense = toy.evaluation_of(0.5).key, toy.evaluation_of(1.0).key
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == {
        (dense, AS_IT_IS, None),
        *((key, FINE_TUNED, seed) for key in (half, BEST.key, dense) for seed in (0, 1, 2)),
        *((toy.evaluation_of(ratio).key, FINE_TUNED, seed) for ratio in (0.75, 0.25) for seed in (0, 1, 2)),
        *((BEST.key, FROM_SCRATCH, seed) for seed in (0, 1, 2)),
    }


def test_scratch_is_for_what_was_searched_unless_it_is_named():
    assert scratch_searchers(SETTINGS) == {"rl"}
    assert scratch_searchers(replace(SETTINGS, controls=["scratch"])) == {"random", "rl"}
    assert scratch_searchers(replace(SETTINGS, controls=["scratch:uniform", "scratch:rl"])) == {"uniform", "rl"}


def test_a_run_charges_what_an_evaluation_took_when_it_was_first_scored():
    class Slow(toy.ToyEvaluator):
        def evaluate(self, candidate, draw=0):
            return replace(super().evaluate(candidate, draw), seconds=100.0)

    evaluator = toy.search("random", 5, evaluator=Slow())
    objective, found = evaluator.problem.objective, evaluator.history.evaluations
    run = Run.of(evaluator, 2)
    assert len(run.keys) == len(run.rewards) == len(run.seconds) == 5
    assert all(100 <= seconds < 101 for seconds in run.seconds)
    assert list(run.finalists) == objective.finalists(found, 2)
    again = from_plain(Run, json.loads(json.dumps(run.to_json())))
    assert again.to_json() == run.to_json()
    within = [objective.met_by(evaluation) for evaluation in found]
    assert [reward is not None for reward in run.rewards] == within


# ------------------------------------------------------------------ the record


def test_record_is_written_whenever_something_is_added_and_comes_back():
    written = []
    record = record_of(written=written)
    finish(record)
    assert len(written) == len(record.tested)
    again = Record({"settings": {}}, written.append, json.loads(json.dumps(written[-1])))
    again.save()
    assert json.loads(json.dumps(written[-1])) == json.loads(json.dumps(written[-2]))
    assert again.find(BEST.key, FINE_TUNED, 1) == record.find(BEST.key, FINE_TUNED, 1)
    assert again.find(BEST.key, FINE_TUNED, 9) is None


@pytest.mark.parametrize("stored", [{"format": "autoprune.metrics", "version": 1}, {"format": "autoprune.comparison"}])
def test_record_of_another_kind_is_refused(stored):
    with pytest.raises(JournalError, match="Expected a comparison of version 2. Received: format="):
        Record({}, lambda data: None, stored)


# ------------------------------------------------------------------ conclusions


@pytest.fixture(scope="module")
def summary():
    record = record_of()
    finish(record)
    return summarise(SETTINGS, record)


def difference(summary, searcher, reference):
    (found,) = [d for d in summary.differences if (d.searcher, d.reference) == (searcher, reference)]
    return found.interval


def test_rows_hold_what_was_finished(summary):
    rows = {row.searcher: row for row in summary.rows}
    assert rows["rl"].accuracy.mean == pytest.approx(BEST.accuracy + 0.001)
    assert rows["rl"].accuracy.count == rows["uniform"].accuracy.count == 3
    assert rows["rl"].latency == pytest.approx(BEST.cost.latency)
    assert rows["rl"].uniform.mean == pytest.approx(toy.evaluation_of(0.5).accuracy + 0.002)
    assert rows["rl"].excess == (pytest.approx(0.5 / BEST.cost.latency - 1),) * 2
    assert rows["uniform"].uniform is None
    assert rows["rl"].speed_up_kept.mean == pytest.approx(1 / BEST.cost.latency)


def test_differences_are_paired_by_seed(summary):
    """The luck of a seed is twice as large for what is not the best plan: what is left are 0, -0.001 and -0.002."""
    gain = BEST.accuracy - toy.evaluation_of(0.5).accuracy
    for reference in ("hand-set uniform", "random"):
        interval = difference(summary, "rl", reference)
        assert interval.mean == pytest.approx(gain - 0.001)
        assert interval.high - interval.mean == pytest.approx(4.30265 * 0.001 / 3**0.5, rel=1e-4)
        assert interval.excludes(0)
    assert difference(summary, "random", "hand-set uniform").mean == 0
    assert difference(summary, "rl", "from scratch").mean == pytest.approx(0.011)
    assert not [d for d in summary.differences if d.searcher == "uniform" and d.reference == "hand-set uniform"]
    assert not [d for d in summary.differences if d.searcher == "random" and d.reference == "from scratch"]


def test_uniform_plans_take_longer_for_the_same_accuracy(summary):
    (ratio,) = [r for r in summary.ratios if r.searcher == "rl"]
    assert ratio.interval.mean > 1.1
    assert ratio.bound == ""
    assert ratio.differs


def test_an_accuracy_that_uniform_plans_never_reach_is_a_bound():
    settings = replace(SETTINGS, controls=[], uniform_curve=0)
    record = record_of(settings)
    record.curve = []
    finish(record, settings)
    (ratio,) = [r for r in summarise(settings, record).ratios if r.searcher == "rl"]
    assert (ratio.bound, ratio.bounds) == (">=", 3)
    assert ratio.interval.mean == pytest.approx(0.5 / BEST.cost.latency)


def test_hypervolume_of_one_budget_is_a_rectangle(summary):
    corner = summary.corners["latency"]
    assert corner == (1.0, pytest.approx(toy.evaluation_of(0.5).accuracy))
    expected = (1 - BEST.cost.latency) * (BEST.accuracy + 0.001 - corner[1])
    assert summary.volumes["latency"]["rl"].mean == pytest.approx(expected)


def test_budgets_are_also_taken_together():
    settings = replace(SETTINGS, latencies=[0.5, 0.6])
    record = record_of(settings)
    finish(record, settings)
    found = {d.budget: d.interval.count for d in summarise(settings, record).differences if d.searcher == "rl"}
    assert found == {"0.5": 3, "0.6": 3, "all": 6}


def test_a_searcher_that_found_nothing_has_no_row_and_is_told_of():
    record = record_of()
    for name in [name for name in record.runs if name.startswith("random")]:
        record.runs[name] = Run(keys=("key",), rewards=(None,), seconds=(1.0,), costed=0, finalists=())
        record.matches.pop(name)
    finish(record)
    summary = summarise(SETTINGS, record)
    assert {row.searcher for row in summary.rows} == {"uniform", "rl"}
    assert "random found no plan within any budget." in verdicts(SETTINGS, summary)
    assert comparison_tables(SETTINGS, summary)


@pytest.mark.parametrize("width", [60, 80, 100, 128])
def test_tables_fit_the_terminal(summary, width):
    """One line for each row, and none of them cut."""
    for table in comparison_tables(SETTINGS, summary):
        stream = io.StringIO()
        Console(file=stream, width=width, force_terminal=True, color_system=None).print(table)
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        rows = [line for line in lines if line.startswith("│")]
        assert len(rows) == len(table.rows)
        assert not any("…" in row for row in rows)
        for row, cells in zip(rows, table.rows, strict=True):
            assert all(cell in row for cell in cells[:2])


def test_branches_that_plans_are_without_have_a_table():
    record = record_of()
    for name, dropped in {"rl@0.5/0": ("b1", "b2"), "rl@0.5/1": ("b1",), "rl@0.5/2": ("b1",)}.items():
        record.runs[name] = ran(name, replace(BEST, dropped=dropped))
    finish(record)
    summary = summarise(SETTINGS, record)
    _, table, *_ = comparison_tables(SETTINGS, summary)
    cells = {row[1]: row for row in table.rows}
    assert cells["rl"] == ("latency 0.5", "rl", "3", "b1, b2 (1 of 3)")
    assert cells["uniform"][-1] == "-"
    rows = json.loads(json.dumps(summary.to_json()))["rows"]
    assert [row["dropped"] for row in rows if row["searcher"] == "rl"] == [{"b1": 3, "b2": 1}]


def test_conclusions_are_json(summary):
    data = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert {"rows", "differences", "ratios", "volumes", "corners", "curves", "dense_tuned"} == set(data)
    assert data["differences"][0]["interval"]["n"] == 3


# ------------------------------------------------------------------ words


def test_verdict_says_what_the_interval_allows(summary):
    random, rl = verdicts(SETTINGS, summary)
    assert rl.startswith("rl over the best hand-set uniform plan of the same latency: +")
    assert "n = 3): more accurate." in rl
    assert "up to" not in rl
    assert "(95 % +0.00 to +0.00, n = 3): no difference beyond chance." in random


def test_verdict_tells_of_uniform_plans_that_are_not_as_fast():
    record = record_of()
    record.matches["rl@0.5/0"] = (replace(record.matches["rl@0.5/0"][0], excess=-0.034),)
    record.matches["rl@0.5/1"] = ()
    finish(record)
    rl = verdicts(SETTINGS, summarise(SETTINGS, record))[-1]
    assert "n = 2)" in rl
    assert "The uniform plans that stand against it are up to 3.4% faster than the searched ones." in rl
    assert "1 of 3 searched plans are faster than every uniform one." in rl


def test_one_seed_gives_no_interval_and_no_verdict():
    settings = replace(SETTINGS, seeds=[1])
    record = record_of(settings)
    finish(record, settings)
    summary = summarise(settings, record)
    assert all("in one pair: too few for an interval" in sentence for sentence in verdicts(settings, summary))
    assert not any("*" in cell for table in comparison_tables(settings, summary) for row in table.rows for cell in row)


def test_tables_hold_the_figures(summary):
    results, differences, costs = comparison_tables(SETTINGS, summary)
    headers = [column.header for column in results.columns]
    cells = {row[1]: dict(zip(headers, row, strict=True)) for row in results.rows}
    assert cells["rl"]["budget"] == "latency 0.5"
    assert cells["rl"]["test accuracy"].startswith(f"{100 * (BEST.accuracy + 0.001):.2f} ± ")
    assert cells["rl"]["latency"] == f"{BEST.cost.latency:.1%}"
    assert cells["uniform"]["uniform as fast"] == "-"
    headers = [column.header for column in differences.columns]
    rl = dict(zip(headers, next(row for row in differences.rows if row[1] == "rl"), strict=True))
    assert rl["over hand-set uniform"].endswith("*")
    assert rl["over from scratch"].startswith("+1.10")
    assert "n pairs" in differences.caption
    assert "reference point latency 100% of dense" in costs.caption
