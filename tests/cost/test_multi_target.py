"""Several targets at once: what a plan costs on all of them together, and what that promises."""

import dataclasses
import json
from concurrent.futures import Future
from contextlib import closing

import pytest

from autoprune.cost.model import open_cost_model
from autoprune.cost.multi_target import (
    MultiTargetCostModel,
    combine_reports,
    describe_target,
    open_targets,
    resolve_targets,
)
from autoprune.errors import CostError, JournalError, TargetError
from autoprune.evaluation import Journal
from autoprune.evaluation.journal import evaluation_to_json
from autoprune.records import Budget, CostReport, Evaluation, Memory, Target
from autoprune.records.plain import from_plain
from autoprune.settings import TargetSettings
from helpers.topologies import made


def report(name, latency, memory=1000, layers=None):
    return CostReport(
        target=Target(name, 8),
        kind="compiler estimate",
        latency=latency,
        latency_sum=latency,
        latency_iqr=None,
        memory=Memory(memory, memory, 10, memory),
        flops=100,
        parameters=10,
        layers=layers or {},
        provenance={"route": f"route of {name}", "device": "one chip"},
    )


DENSE = [report("tpu_v5e", 100e-6, 1000), report("tpu_v3", 400e-6, 3000)]
PLAN = [report("tpu_v5e", 40e-6, 700), report("tpu_v3", 240e-6, 1500)]  # 40 and 60 % of the time, 70 and 50 of memory


class Answering:
    """A cost model whose answers are given one after the other, when the test wants."""

    def __init__(self, name):
        self.target = Target(name, 8)
        self.answers = []
        self.closed = False

    def submit(self, model):
        self.answers.append(Future())
        return self.answers[-1]

    def close(self):
        self.closed = True


@pytest.fixture
def inner():
    return [Answering("tpu_v5e"), Answering("tpu_v3")]


# ------------------------------------------------------------------ figures


def test_the_dense_model_costs_what_it_costs_on_the_first_target():
    for weights in (None, [1.0, 2.0]):
        cost = combine_reports(DENSE, DENSE, weights)
        assert cost.latency == pytest.approx(100e-6, rel=1e-12)
        assert cost.memory.total == 1000
    assert combine_reports(DENSE, DENSE).latency == DENSE[0].latency


def test_worst_is_the_largest_share_of_latency_and_of_memory():
    cost = combine_reports(PLAN, DENSE)
    assert cost.latency / 100e-6 == pytest.approx(0.6)
    assert cost.memory.total / 1000 == pytest.approx(0.7)
    assert cost.provenance["combined"] == "worst"


def test_weighted_is_the_mean_of_the_shares():
    cost = combine_reports(PLAN, DENSE, [3.0, 1.0])
    assert cost.latency / 100e-6 == pytest.approx(0.45)
    assert cost.memory.total / 1000 == pytest.approx(0.65)


@pytest.mark.parametrize("share", [0.4, 0.55, 0.6, 0.65])
def test_a_budget_that_is_met_is_met_on_every_target(share):
    joint = Budget(share * combine_reports(DENSE, DENSE).latency).met_by(combine_reports(PLAN, DENSE))
    each = [cost.latency <= share * dense.latency for cost, dense in zip(PLAN, DENSE, strict=True)]
    assert joint == all(each)


def test_a_memory_budget_is_not_met_by_rounding():
    """Bytes are whole: a share a little above the limit must not become the limit."""
    dense = [report("tpu_v5e", 1.0, 1000), report("tpu_v3", 1.0, 3_000_000)]
    plan = [report("tpu_v5e", 1.0, 500), report("tpu_v3", 1.0, 1_500_100)]
    assert not Budget(memory=500).met_by(combine_reports(plan, dense))


def test_layers_add_up_as_the_latency_does():
    """The surrogate learns layer by layer: what is on another target is told in the first one's seconds."""
    layers = {"a": 120e-6, "b": 60e-6}
    plan = [report("tpu_v5e", 40e-6, layers={"a": 30e-6}), report("tpu_v3", 240e-6, layers=layers)]
    cost = combine_reports(plan, DENSE)
    assert cost.layers == {"a": pytest.approx(30e-6), "b": pytest.approx(15e-6)}
    assert sum(cost.layers.values()) / cost.latency == pytest.approx(180 / 240)
    mean = combine_reports(plan, DENSE, [1.0, 1.0])
    assert mean.layers == {"a": pytest.approx(30e-6), "b": pytest.approx(7.5e-6)}


def test_memory_that_one_target_cannot_tell_is_not_known():
    unknown = dataclasses.replace(PLAN[1], memory=Memory(10, None, None, None))
    assert combine_reports([PLAN[0], unknown], DENSE).memory.total is None


def test_every_targets_report_survives_the_journal():
    cost = combine_reports(PLAN, DENSE)
    assert list(cost.parts) == ["tpu_v5e", "tpu_v3"]
    assert list(cost.parts.values()) == PLAN
    assert from_plain(CostReport, json.loads(json.dumps(dataclasses.asdict(cost)))) == cost
    evaluation = Evaluation(key="k", keep_ratios={}, widths={}, accuracy=0.5, cost=cost)
    assert from_plain(Evaluation, json.loads(json.dumps(evaluation_to_json(evaluation)))) == evaluation


def test_reports_from_before_there_were_several_targets_are_read():
    old = dataclasses.asdict(PLAN[0])
    del old["parts"]
    assert from_plain(CostReport, old) == PLAN[0]


# ------------------------------------------------------------------ asking


def test_all_targets_are_asked_before_any_is_waited_for(inner):
    cost_model = MultiTargetCostModel(inner)
    dense, plan = cost_model.submit("dense"), cost_model.submit("plan")
    assert [len(model.answers) for model in inner] == [2, 2]
    # The plan is compiled first: its share is known when the dense model's cost is.
    for model, cost in zip(inner, PLAN, strict=True):
        model.answers[1].set_result(cost)
    assert not plan.done()
    for model, cost in zip(reversed(inner), reversed(DENSE), strict=True):
        model.answers[0].set_result(cost)
    assert dense.result() == combine_reports(DENSE, DENSE)
    assert plan.result() == combine_reports(PLAN, DENSE)


def test_one_answer_for_two_questions_is_enough(inner):
    """As of a model that remembers: the dense model is asked for again and again."""
    remembered = [Future(), Future()]
    for model, future in zip(inner, remembered, strict=True):
        model.submit = lambda _, future=future: future
    cost_model = MultiTargetCostModel(inner)
    asked = [cost_model.submit("dense") for _ in range(2)]
    for future, cost in zip(remembered, DENSE, strict=True):
        future.set_result(cost)
    assert [answer.result() for answer in asked] == [combine_reports(DENSE, DENSE)] * 2


def test_a_failure_names_the_target(inner):
    cost_model = MultiTargetCostModel(inner)
    cost_model.submit("dense")
    for model, cost in zip(inner, DENSE, strict=True):
        model.answers[0].set_result(cost)
    failed = cost_model.submit("plan")
    inner[0].answers[1].set_result(PLAN[0])
    inner[1].answers[1].set_exception(CostError("too large"))
    with pytest.raises(CostError, match="On tpu_v3: too large"):
        failed.result()


def test_a_first_model_that_fails_is_not_what_others_are_compared_with(inner):
    cost_model = MultiTargetCostModel(inner)
    first = cost_model.submit("broken")
    inner[0].answers[0].set_exception(CostError("no"))
    inner[1].answers[0].set_result(DENSE[1])
    with pytest.raises(CostError, match="On tpu_v5e: no"):
        first.result()
    dense = cost_model.submit("dense")
    for model, cost in zip(inner, DENSE, strict=True):
        model.answers[1].set_result(cost)
    assert dense.result() == combine_reports(DENSE, DENSE)


def test_closing_closes_all(inner):
    MultiTargetCostModel(inner).close()
    assert all(model.closed for model in inner)


# ------------------------------------------------------------------ settings and the real compiler


def test_targets_are_checked_before_anything_is_trained(compiler):
    assert [t.name for t in resolve_targets(TargetSettings("auto", also=["tpu_v3"]))] == ["tpu_v5e", "tpu_v3"]
    with pytest.raises(TargetError, match="There is no target 'tpu_v33'. Did you mean 'tpu_v3'"):
        resolve_targets(TargetSettings("tpu_v5e", also=["tpu_v33"]))
    with pytest.raises(TargetError, match="which is tpu_v5e here"):
        resolve_targets(TargetSettings("auto", also=["tpu_v5e"]))


def test_one_target_is_a_plain_cost_model(compiler):
    settings = TargetSettings("tpu_v5e", 8, cache=None)
    with closing(open_targets(settings)) as cost_model:
        assert describe_target(cost_model) == dataclasses.asdict(Target("tpu_v5e", 8))


def test_the_journal_of_other_targets_is_refused(inner, tmp_path):
    targets = [
        MultiTargetCostModel(inner),
        MultiTargetCostModel(inner[::-1]),
        MultiTargetCostModel(inner, [1.0, 2.0]),
        inner[0],
    ]
    identities = [{"target": describe_target(cost_model)} for cost_model in targets]
    Journal(tmp_path / "journal.sqlite", identities[0]).close()
    Journal(tmp_path / "journal.sqlite", identities[0]).close()
    for other in identities[1:]:
        with pytest.raises(JournalError, match="belongs to another search"):
            Journal(tmp_path / "journal.sqlite", other)


def test_the_compilers_figures_are_those_of_each_target_alone(compiler):
    dense, plan = made("residual"), made("plain")
    targets = [Target("tpu_v5e", 8), Target("tpu_v3", 8)]
    models = [open_cost_model(target, cache=None, client=compiler) for target in targets]
    cost_model = MultiTargetCostModel(models)
    first, second = cost_model.submit(dense).result(), cost_model.submit(plan).result()
    for target, single in zip(targets, models, strict=True):
        assert second.parts[target.name] == single.submit(plan).result()
    shares = [second.parts[t.name].latency / first.parts[t.name].latency for t in targets]
    assert second.latency / first.latency == pytest.approx(max(shares))
