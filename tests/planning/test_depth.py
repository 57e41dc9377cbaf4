"""The dimensions of branches: what is one candidate, and which go together."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from autoprune.errors import PlanError
from autoprune.graph import find_branches
from autoprune.models import zoo
from autoprune.planning import Planner, make_plan
from autoprune.settings import Constraints
from autoprune.surgery import Surgeon, apply_plan

NAMES = ("resnet20", "small_mobilenet", "small_densenet")
PLANNERS: dict[str, Planner] = {}


def planner_of(name, **constraints):
    key = f"{name} {constraints}"
    if key not in PLANNERS:
        PLANNERS[key] = Planner(zoo.build(name, (32, 32, 3), 10, 0.25), constraints=Constraints(None, **constraints))
    return PLANNERS[key]


def candidates(planner):
    return st.tuples(*(st.integers(0, last) for last in planner.space.full))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_candidates_of_one_plan_are_one(name, data):
    space = planner_of(name).space
    drawn = data.draw(candidates(planner_of(name)))
    canonical = tuple(space.canonical(drawn).tolist())
    assert tuple(space.canonical(canonical).tolist()) == canonical
    plan, again = space.plan(drawn), space.plan(canonical)
    assert (plan.widths, plan.dropped) == (again.widths, again.dropped)
    assert space.find({**plan.widths, **dict.fromkeys(plan.dropped, 0)}) == canonical
    assert space.nearest(space.keep_ratios(canonical)) == canonical
    offsets = space.offsets(canonical, 0.5)
    assert [offset < -0.5 for offset, part in zip(offsets, space.dimensions, strict=True) if part.is_branch] == [
        not option for option, part in zip(canonical, space.dimensions, strict=True) if part.is_branch
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_random_candidate_can_be_applied(name):
    model = zoo.build(name, (32, 32, 3), 10, 0.25)
    space, surgeon = Planner(model, constraints=Constraints(None)).space, Surgeon(model)
    snapshot, generator = surgeon.snapshot(), np.random.default_rng(0)
    sizes = set()
    for _ in range(8):
        plan = space.plan(space.random(generator, 0.5))
        with surgeon.pruning(plan, snapshot) as report:
            assert report.dropped == plan.dropped
            sizes.add((len(plan.dropped), model.count_params()))
            assert np.isfinite(model(np.ones((1, 32, 32, 3)), training=False)).all()
    assert len({dropped for dropped, _ in sizes}) > 2


def test_a_dimension_without_effect_keeps_all():
    space = planner_of("resnet20").space
    inner, block = space.names.index("stage1_block2_conv1"), space.names.index("stage1_block2")
    candidate = list(space.full)
    candidate[inner], candidate[block] = 0, 0
    canonical = space.canonical(candidate)
    assert canonical[inner] == space.full[inner]
    plan = space.plan(tuple(candidate))
    assert plan.dropped == ("stage1_block2",)
    assert "stage1_block2_conv1" not in plan.kept
    assert plan.sizes["stage1_block2_conv1"] == space.dimensions[inner].size


def test_of_a_merge_one_operand_stays():
    planner = planner_of("resnet20")
    ratios = {"stage2_block1": 0, "stage2_block1_add[0]": 0}
    assert planner.plan(ratios).dropped == ("stage2_block1",)  # the shortcut is the smaller
    model = zoo.build("resnet20", (32, 32, 3), 10, 0.25)
    plan = replace(make_plan(model, 1.0), dropped=tuple(ratios))
    with pytest.raises(PlanError, match="Nothing enters 'stage2_block1_add' without"):
        apply_plan(model, plan)


def test_stages_are_runs_of_blocks():
    space = planner_of("resnet20").space
    stages = [[space.names[position] for position in stage] for stage in space.depth.stages]
    assert stages == [[f"stage{stage}_block{block}" for block in (1, 2, 3)] for stage in (1, 2, 3)]


def test_one_block_of_every_stage_stays_where_that_is_asked_for():
    space = planner_of("resnet20", keep_stages=True).space
    nothing = [0 if dimension.is_branch else last for dimension, last in zip(space.dimensions, space.full, strict=True)]
    dropped = space.plan(tuple(nothing)).dropped
    for stage in space.depth.stages:
        names = [space.names[position] for position in stage]
        assert [name for name in names if name not in dropped] == [names[0]]


def test_depth_can_be_named_or_left():
    assert planner_of("resnet20", depth=False).space.depth is None
    named = planner_of("resnet20", depth=["stage1_block2"])
    assert [dimension.name for dimension in named.space.dimensions if dimension.is_branch] == ["stage1_block2"]
    with pytest.raises(PlanError, match=r"no branch 'stage1_blok2'.*stage1_block2"):
        planner_of("resnet20", depth=["stage1_blok2"])
    with pytest.raises(PlanError, match="stays by constraints.depth"):
        named.plan({"stage1_block1": 0})
    with pytest.raises(PlanError, match="other constraints"):
        named.space.find({**named.space.by_name(named.space.full), "stage1_block1": 0})


def test_a_branch_is_dropped_by_its_name():
    model = zoo.build("resnet20", (32, 32, 3), 10, 0.25)
    plan = make_plan(model, {"stage1_block2": 0, "stage3_block2_conv1": 0.5})
    assert plan.dropped == ("stage1_block2",)
    report = apply_plan(model, plan)
    assert report.dropped == ("stage1_block2",)
    # What is behind the sum stays.
    assert [layer.name for layer in model.layers if layer.name.startswith("stage1_block2")] == ["stage1_block2_relu"]
    model = zoo.build("resnet20", (32, 32, 3), 10, 0.25)
    with pytest.raises(PlanError, match="0, gone, or 1"):
        make_plan(model, {"stage1_block2": 0.5})
    with pytest.raises(PlanError, match="no prunable group or branch 'stage1_blok2'.*stage1_block2"):
        make_plan(model, {"stage1_blok2": 0})


def test_a_branch_that_holds_another_comes_before_it():
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(image)
    y = layers.Conv2D(8, 3, padding="same", name="outer_a")(x)
    z = layers.Conv2D(8, 3, padding="same", name="inner_conv")(y)
    z = layers.BatchNormalization(name="inner_bn")(z)
    y = layers.Add(name="outer_add")([y, z])
    y = layers.Conv2D(8, 3, padding="same", name="outer_b")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(3, name="classifier")(x))
    space = Planner(model, constraints=Constraints(1)).space
    names = [dimension.name for dimension in space.dimensions if dimension.is_branch]
    assert names == ["sum[1]", "inner"]
    gone = dict.fromkeys(names, 0)
    plan = space.plan(space.find({**space.by_name(space.full), **gone}))
    assert plan.dropped == ("sum[1]",)
    assert {branch.name for branch in find_branches(model) if branch.removable} == set(names)
    apply_plan(model, plan)
    assert [layer.name for layer in model.layers if "outer" in layer.name or "inner" in layer.name] == []
