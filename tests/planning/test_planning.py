"""Which channels a plan keeps, which widths it may give, and how plans are stored and refused."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from autoprune.errors import ModelError, PlanError, SettingsError, UnknownNameError
from autoprune.graph import find_groups
from autoprune.models import keras_internals
from autoprune.planning import make_plan
from autoprune.planning.plan_file import load_plan, plan_from_json, plan_to_json, save_plan
from autoprune.planning.space import Dimension, legal_widths, offset_of, ratio_around
from autoprune.settings import Constraints
from autoprune.surgery import Surgeon, apply_plan
from helpers.topologies import head, made


def two_convs():
    """A group of four channels made by two convolutions whose filters have norms that can be read off."""
    image = keras.Input((2, 2, 1))
    a = layers.Conv2D(4, 1, use_bias=False, name="a")(image)
    b = layers.Conv2D(4, 1, use_bias=False, name="b")(image)
    x = layers.BatchNormalization(name="bn")(layers.Add()([a, b]))
    model = keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
    model.get_layer("a").set_weights([np.array([1, -2, 3, 4], "float32").reshape(1, 1, 1, 4)])
    model.get_layer("b").set_weights([np.array([40, 0, 0, -10], "float32").reshape(1, 1, 1, 4)])
    model.get_layer("bn").gamma.assign([-5.0, 1.0, 2.0, 3.0])
    return model


def test_the_least_important_channels_go():
    plan = make_plan(two_convs(), 0.5, multiple_of=1)
    np.testing.assert_array_equal(plan.kept["a"], [0, 3])
    assert plan.keep_ratios == {"a": 0.5}


@given(size=st.integers(1, 600), ratio=st.floats(0.01, 1), step=st.integers(1, 32), least=st.floats(0.01, 1))
def test_legal_width_is_the_nearest_of_the_legal_ones(size, ratio, step, least):
    constraints = Constraints(multiple_of=step, min_keep_ratio=least)
    widths = legal_widths(size, constraints)
    dimension = Dimension("a", tuple(widths), np.arange(size))
    width = widths[dimension.nearest(ratio)]
    assert width in widths
    assert widths == sorted(set(widths))
    assert widths[-1] == size
    assert all(w == size or (w % step == 0 and w >= least * size - 1e-6) for w in widths)
    assert abs(width - ratio * size) == min(abs(w - ratio * size) for w in widths)
    # Planning is stable: the ratio that was achieved asks for the same width again.
    assert widths[dimension.nearest(width / size)] == width
    # A width multiplier rounds down, as far as there is something below.
    assert widths[dimension.at_most(ratio)] == max([w for w in widths if w <= ratio * size + 1e-9], default=widths[0])


@given(anchor=st.floats(0.2, 0.9), a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_ratio_around_is_monotone_and_hits_its_three_points(anchor, a, b):
    assert ratio_around(anchor, 0, 0.1) == anchor
    assert ratio_around(anchor, 1, 0.1) == pytest.approx(1)
    assert ratio_around(anchor, -1, 0.1) == pytest.approx(0.1)
    low, high = sorted((a, b))
    assert ratio_around(anchor, low, 0.1) <= ratio_around(anchor, high, 0.1)


@given(anchor=st.floats(0.2, 1.0), ratio=st.floats(0.1, 1.0))
def test_offsets_are_the_inverse_of_ratios_around_an_anchor(anchor, ratio):
    offset = offset_of(ratio, anchor, 0.1)
    assert -1 <= offset <= 1
    assert ratio_around(anchor, offset, 0.1) == pytest.approx(ratio)


def test_groups_smaller_than_the_multiple_stay_whole():
    plan = make_plan(made("residual"), 0.5, multiple_of=8)
    assert plan.widths["inner1"] == 6
    assert plan.widths["stem"] == 8
    assert plan.widths["shortcut"] == 8


def test_groups_that_are_not_named_stay_whole():
    plan = make_plan(made("residual"), {"inner1": 0.5}, multiple_of=1)
    assert plan.widths == {"stem": 8, "inner1": 3, "inner2": 6, "shortcut": 12}


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("ratio", [0, -0.5, 1.5, float("nan")])
def test_impossible_keep_ratio_is_refused(ratio):
    with pytest.raises(PlanError, match=r"above 0 and at most 1.*write 0.9"):
        make_plan(made("plain"), ratio)


def test_unknown_group_suggests_the_near_one():
    with pytest.raises(PlanError, match="no prunable group or branch 'inner3'. Did you mean 'inner"):
        make_plan(made("residual"), {"inner3": 0.5})


def test_unknown_importance_suggests_the_near_one():
    with pytest.raises(UnknownNameError, match="no importance 'l3'. Did you mean 'l"):
        make_plan(made("plain"), 0.5, importance="l3")


def test_impossible_constraints_are_refused():
    with pytest.raises(SettingsError, match="multiple_of must be 1 or more, or null .*Received: 0"):
        Constraints(multiple_of=0)
    with pytest.raises(SettingsError, match="min_keep_ratio must be above 0"):
        Constraints(min_keep_ratio=0)


def test_model_with_nothing_prunable_says_what_stands_in_the_way():
    image = keras.Input((4,))
    model = keras.Model(image, layers.Dense(3, name="only")(image))
    with pytest.raises(ModelError, match="Nothing in the model .* 'only' is an output of the model"):
        make_plan(model, 0.5)


# ------------------------------------------------------------------ files


def test_plan_survives_a_file(tmp_path):
    plan = make_plan(made("residual"), 0.5, multiple_of=1)
    save_plan(plan, tmp_path / "plan.json")
    loaded = load_plan(tmp_path / "plan.json")
    assert (loaded.model, loaded.sizes, loaded.importance) == (plan.model, plan.sizes, plan.importance)
    assert loaded.widths == plan.widths
    shapes = [[change.after for change in apply_plan(made("residual"), p).changes] for p in (plan, loaded)]
    assert shapes[0] == shapes[1]


def test_missing_and_malformed_plan_files_are_refused(tmp_path):
    with pytest.raises(PlanError, match="Cannot read the plan"):
        load_plan(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text('{"format": "autopr')
    with pytest.raises(PlanError, match="cannot be used"):
        load_plan(tmp_path / "broken.json")


def spoilt(**changes):
    data = plan_to_json(make_plan(made("plain"), 0.5, multiple_of=1))
    data.update({key: value for key, value in changes.items() if key != "kept"})
    if "kept" in changes:
        data["groups"]["a"]["kept"] = changes["kept"]
    return json.loads(json.dumps(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "Expected a plan"),
        ({"format": "other"}, "Expected a plan"),
        (lambda: spoilt(version=99), "reads plans of version 2, which name branches too. Received: version=99. Make"),
        (lambda: spoilt(groups=None), "malformed"),
        (lambda: spoilt(groups={"a": {"size": 8}}), "malformed: KeyError: 'kept'"),
        (lambda: spoilt(kept=[]), "keeps none"),
        (lambda: spoilt(kept=[3, 1]), "sorted, distinct and between 0 and 7"),
        (lambda: spoilt(kept=[1, 1]), "sorted, distinct"),
        (lambda: spoilt(kept=[-1, 2]), "sorted, distinct"),
        (lambda: spoilt(kept=[2, 8]), "sorted, distinct"),
    ],
)
def test_malformed_plans_are_refused(data, message):
    with pytest.raises(PlanError, match=message):
        plan_from_json(data() if callable(data) else data)


def test_plan_of_another_model_is_refused_saying_why():
    plan = make_plan(made("residual"), 0.5, multiple_of=1)
    with pytest.raises(PlanError, match="for another model: it names the group 'stem'"):
        apply_plan(made("plain"), plan)


def test_plan_of_another_width_is_refused_saying_why():
    model = made("plain")
    plan = make_plan(model, 0.5, multiple_of=1)
    apply_plan(model, plan)
    with pytest.raises(PlanError, match=r"has 8 channels, that of .* has 4. Was the model pruned already"):
        apply_plan(model, plan)


def test_plan_of_a_model_that_differs_elsewhere_is_refused():
    def model(activation):
        image = keras.Input((6, 6, 2))
        x = layers.Conv2D(6, 3, activation=activation, name="a")(image)
        return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))

    with pytest.raises(PlanError, match=r"The groups agree, but an operation"):
        apply_plan(model("relu"), make_plan(model("tanh"), 0.5, multiple_of=1))


def test_plan_for_a_frozen_group_is_refused():
    model = made("plain")
    data = plan_to_json(make_plan(model, 0.5, multiple_of=1))
    data["groups"]["classifier"] = {"size": 5, "kept": [0, 1]}
    with pytest.raises(PlanError, match="'classifier', which cannot be: it is an output"):
        apply_plan(model, plan_from_json(data))


def test_surgeon_refuses_to_prune_twice():
    model = made("plain")
    surgeon, plan = Surgeon(model), make_plan(model, 0.5, multiple_of=1)
    surgeon.apply(plan)
    with pytest.raises(PlanError, match="pruned already. Restore"):
        surgeon.apply(plan)


def test_failed_surgery_leaves_the_model_as_it_was(monkeypatch):
    model = made("residual")
    before = [v.numpy() for v in model.variables]
    plan, config = make_plan(model, 0.5, multiple_of=1), model.get_config()

    def fail(*arguments):
        raise RuntimeError("no")

    monkeypatch.setattr(keras_internals, "refresh_shapes", fail)
    with pytest.raises(PlanError, match="could not be applied to .* which is as it was: RuntimeError: no"):
        apply_plan(model, plan)
    assert model.get_config() == config
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_report_names_what_was_left_alone():
    model = made("residual")
    report = apply_plan(model, make_plan(model, {"inner1": 0.5}, multiple_of=1))
    assert report.left_alone["classifier"] == "is an output of the model ('classifier')"
    assert report.left_alone["stem"] == "is kept whole by the plan"
    assert "inner1" not in report.left_alone
    assert {c.layer for c in report.changes} == {"inner1", "batch_normalization_1", "outer1"} or len(
        report.changes
    ) == 7
    assert report.parameters_after == model.count_params()
    assert find_groups(model)[1].size == 3


@pytest.mark.parametrize(
    ("size", "widths"),
    [
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (5, [2, 4, 5]),
        (8, [2, 4, 6, 8]),
        (16, [4, 8, 12, 16]),
        (20, [8, 16, 20]),
        (64, [8, 16, 24, 32, 40, 48, 56, 64]),
    ],
)
def test_steps_by_group_size(size, widths):
    assert legal_widths(size, Constraints(multiple_of=None, min_keep_ratio=1e-9)) == widths


def plain(*channels):
    image = keras.Input((8, 8, 3))
    x = image
    for number, size in enumerate(channels):
        x = layers.Conv2D(size, 3, padding="same", name=f"conv{number}")(x)
    return keras.Model(image, layers.Dense(3, name="classifier")(layers.GlobalAveragePooling2D()(x)))


def test_small_network_is_pruned_when_it_is_asked_to_be():
    model = plain(8, 3, 24)
    assert make_plan(model, 0.5).widths == {"conv0": 4, "conv1": 2, "conv2": 16}
    before = model.count_params()
    report = apply_plan(model, make_plan(model, 0.5))
    assert report.parameters_after < before


def test_searches_keep_their_widths():
    assert legal_widths(8, Constraints()) == [8]
    assert legal_widths(16, Constraints()) == [8, 16]


def test_plan_that_removes_nothing_because_of_the_multiple_says_so(caplog, tmp_path):
    model = plain(8, 8)
    plan = make_plan(model, 0.5, multiple_of=8)
    assert "no narrower width is left for 'conv0' of 8 channels, 'conv1' of 8 channels" in caplog.text
    save_plan(plan, tmp_path / "plan.json")
    report = apply_plan(model, load_plan(tmp_path / "plan.json"))
    why = "has no width in multiples of 8 that is nearer to the keep ratio 0.5 than all its channels"
    assert (report.left_alone["conv0"], report.left_alone["conv1"]) == (why, why)


def test_plan_that_rounds_every_width_up_says_so(caplog):
    model = plain(16, 32)
    plan = make_plan(model, {"conv0": 0.9}, multiple_of=8)
    assert "the plan removes nothing: of the widths of each group in multiples of 8" in caplog.text
    assert list(plan.left_whole) == ["conv0"]
    caplog.clear()
    plan = make_plan(model, {"conv0": 0.9, "conv1": 0.5}, multiple_of=8)
    assert caplog.text == ""
    assert list(plan.left_whole) == ["conv0"]
    assert make_plan(model, 1.0, multiple_of=8).left_whole == {}
    assert caplog.text == ""
