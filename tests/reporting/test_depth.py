"""Which branches results are without: counted, named, with the latency that they held."""

from dataclasses import replace
from types import SimpleNamespace

import keras
import pytest

from autoprune.graph import find_branches, find_groups
from autoprune.models import zoo
from autoprune.planning import make_plan
from autoprune.records import Memory
from autoprune.reporting.depth import branch_rows, describe_dropped, gone_branches, gone_groups
from autoprune.reporting.finetuning import finetuning_table
from autoprune.reporting.outcome import result_rows
from autoprune.reporting.tables import result_columns
from autoprune.surgery import apply_plan
from autoprune.training.course import TrainingRecord
from autoprune.training.finetuning import FineTuned
from helpers import toy

LAYERS = {
    "stage1_block1_conv1": 20.0,
    "stage1_block1_conv2": 20.0,
    "stage2_block1_shortcut": 5.0,
    "stage2_block1_conv1": 10.0,
    "stage2_block1_conv2": 20.0,
}


@pytest.fixture(scope="module")
def model():
    return zoo.build("small_resnet", (8, 8, 1), 10, width=0.25)


@pytest.fixture(scope="module")
def branches(model):
    return find_branches(model)


def without(plan, *dropped, groups=()):
    return replace(plan, dropped=dropped, kept={name: kept for name, kept in plan.kept.items() if name not in groups})


def done(name, plan, layers=LAYERS, latency=100.0):
    cost = toy.cost_report(latency * 1e-6, Memory(1, 1, 1, 3), layers={path: t * 1e-6 for path, t in layers.items()})
    evaluation = SimpleNamespace(accuracy=0.9)
    return SimpleNamespace(
        name=name, plan=plan, cost=cost, evaluation=evaluation, test_accuracy=0.9, reward_accuracy=0.9
    )


@pytest.fixture
def finished(model):
    """The dense model, one without the first block, and one that is cut to half everywhere."""
    dense = make_plan(model, 1.0)
    dropped = without(dense, "stage1_block1", groups=["stage1_block1_conv1"])
    left = {path: t for path, t in LAYERS.items() if not path.startswith("stage1_block1")}
    return (
        done("dense", dense),
        done("uniform", make_plan(model, 0.5), {path: t / 2 for path, t in LAYERS.items()}, 50.0),
        done("rl", dropped, left, 50.0),
    )


def test_rows_tell_the_share_before_and_after(finished, branches):
    told = {row.name: row for row in branch_rows(finished, branches)}
    assert told["stage1_block1"].latency == {"dense": pytest.approx(0.4), "uniform": pytest.approx(0.4), "rl": None}
    assert told["stage1_block1"].gone == ("rl",)
    assert told["stage2_block1"].latency["rl"] == pytest.approx(0.6)
    assert told["stage2_block1"].gone == ()
    assert told["stage1_block1"].cells() == ["40.0%", "40.0%", "gone"]


def test_without_times_of_layers_only_what_is_gone_is_told(finished, branches):
    blind = [done(one.name, one.plan, {}) for one in finished]
    told = {row.name: row for row in branch_rows(blind, branches)}
    assert told["stage1_block1"].cells() == ["-", "-", "gone"]
    assert describe_dropped(blind[2], blind[0], branches) == "without stage1_block1"


def test_words_name_the_branches_and_what_they_held(finished, branches):
    dense, uniform, rl = finished
    assert describe_dropped(uniform, dense, branches) == ""
    told = "without stage1_block1, which held 40.0% of the dense latency"
    assert describe_dropped(rl, dense, branches) == told
    both = done("rl", without(rl.plan, "stage1_block1", "stage2_block1"))
    assert "without stage1_block1 and stage2_block1, which held 70.0% of" in describe_dropped(both, dense, branches)


def test_the_result_table_counts_branches_and_channels_that_are_left(finished, branches):
    told = result_rows(finished, branches)
    assert [row.branches for row in told] == [(5, 5), (5, 5), (4, 5)]
    assert result_columns(told)[-1].header == "branches"
    sizes = finished[0].plan.sizes
    assert told[2].keep_ratio == pytest.approx(1 - sizes["stage1_block1_conv1"] / sum(sizes.values()))
    # A model without branches has no such column.
    assert "branches" not in [column.header for column in result_columns(result_rows(finished))]


def test_a_fine_tuning_tells_what_its_plan_is_without(model):
    record = TrainingRecord(1, (1.0,), (0.9,), 1)
    done = FineTuned(model, record, 0.8, 0.9, 0.9, None, "", ("stage1_block1", "stage2_block1"))
    assert ("without", "stage1_block1, stage2_block1") in finetuning_table(done).rows
    assert "without" not in dict(finetuning_table(replace(done, dropped=())).rows)


def test_groups_are_gone_with_their_branch(model, finished, branches):
    plan = finished[2].plan
    assert gone_groups(plan, branches, find_groups(model)) == {"stage1_block1_conv1": "stage1_block1"}
    assert gone_groups(finished[1].plan, branches, find_groups(model)) == {}


def test_surgery_does_not_call_a_group_left_alone_that_is_gone():
    model = zoo.build("small_resnet", (8, 8, 1), 10, width=0.25)
    report = apply_plan(model, make_plan(model, {"stage1_block1": 0}))
    assert report.dropped == ("stage1_block1",)
    assert "stage1_block1_conv1" not in report.left_alone
    assert report.left_alone["stem"] == "is kept whole by the plan"


def test_what_leaves_with_another_branch_is_gone_too():
    """A branch of a concatenation within a branch of a sum."""
    image = keras.Input((8, 8, 4))
    paths = [keras.layers.Conv2D(2, 3, padding="same", name=f"path{n}_conv")(image) for n in range(2)]
    x = keras.layers.Concatenate(name="both")(paths)
    x = keras.layers.Conv2D(4, 1, name="mix")(x)
    x = keras.layers.Add(name="add")([image, x])
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    branches = find_branches(model)
    outer = next(branch.name for branch in branches if branch.merge == "add")
    assert gone_branches(without(make_plan(model, 1.0), outer), branches) == {branch.name for branch in branches}
