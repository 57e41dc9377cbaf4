"""Rules that are set by hand, as ladders of plans."""

import pytest

from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.searchers.hand_set import HAND_SET, hand_set_candidates
from autoprune.settings import Constraints


@pytest.fixture(scope="module")
def space():
    return Planner(zoo.build("resnet20", (32, 32, 3), 10, 1.0), constraints=Constraints(8)).space


def dropped(space, ladder):
    """Blocks that go on each rung, as `stage.block` numbers."""
    names = [space.plan(candidate).dropped for candidate in ladder]
    return [" ".join(f"{name[5]}.{name[12:]}" for name in of_rung) for of_rung in names]


@pytest.mark.parametrize("rule", ["uniform", "uniform_skip", "uniform_width"])
def test_rules_of_widths_drop_nothing(rule, space):
    (ladder,) = HAND_SET.get(rule)(space)
    assert ladder[0] == space.full
    assert not any(dropped(space, ladder))
    kept = [sum(space.plan(candidate).widths.values()) for candidate in ladder]
    assert kept == sorted(kept, reverse=True)
    if rule == "uniform_skip":
        widths = [space.plan(candidate).widths for candidate in ladder]
        assert {(w["stem"], w["stage3_block3_conv1"]) for w in widths} == {(16, 64)}


def test_each_stage_loses_the_same_share_of_its_blocks_the_last_ones_or_the_first(space):
    last, first = HAND_SET.get("uniform_depth")(space)
    assert dropped(space, last) == ["", "1.3 2.3 3.3", "1.2 1.3 2.2 2.3 3.2 3.3", "1.1 1.2 1.3 2.1 2.2 2.3 3.1 3.2 3.3"]
    assert dropped(space, first) == ["", "1.1 2.1 3.1", "1.1 1.2 2.1 2.2 3.1 3.2", last and dropped(space, last)[-1]]
    for candidate in (*last, *first):
        plan = space.plan(candidate)
        assert all(len(kept) == plan.sizes[name] for name, kept in plan.kept.items()), "no channels go"


def test_the_grid_has_every_depth_at_falling_widths(space):
    ladders = HAND_SET.get("uniform_depth_width")(space)
    depths = [dropped(space, ladder) for ladder in ladders]
    assert all(len(set(of_ladder)) == 1 for of_ladder in depths)
    assert sorted(of_ladder[0] for of_ladder in depths) == sorted(
        {rung for ladder in HAND_SET.get("uniform_depth")(space) for rung in dropped(space, ladder)}
    )
    assert depths[0][0] == ""
    candidates = hand_set_candidates("uniform_depth_width", space)
    assert len(candidates) == len(set(candidates)) == sum(map(len, ladders))


def test_without_branches_depth_has_only_the_dense_plan():
    space = Planner(zoo.build("resnet20", (32, 32, 3), 10, 1.0), constraints=Constraints(8, depth=False)).space
    assert hand_set_candidates("uniform_depth", space) == [space.full]
