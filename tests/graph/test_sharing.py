"""What several layers share is cut for all of them, or for none: with the reason, which names who cannot follow."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

import autoprune
from autoprune.errors import ModelError
from autoprune.surgery import Surgeon
from helpers.oracle import kept_by_layer, outputs_of, zeroed_outputs
from helpers.sharing import Holder, Transposed
from helpers.topologies import images_for, randomise


class Box:
    """An object of a user's that Keras does not look into."""

    def __init__(self, content):
        self.content = content


def groups_by_name(model):
    return {group.name: group for group in autoprune.find_groups(model)}


def beside(branch):
    """A convolution that is read directly, and whatever `branch` makes of it and the image beside."""
    image = keras.Input((8, 8, 3))
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    direct = layers.Conv2D(4, 3, name="direct")(shared(image))
    free = layers.Conv2D(4, 3, name="after")(layers.Conv2D(6, 1, name="free")(image))
    other = layers.Conv2D(4, 1, name="other")(branch(shared, image))
    model = keras.Model(image, [ops.mean(x, (1, 2)) for x in (direct, other, free)])
    randomise(model)
    return model


HOLDERS = {
    "sub-layer": lambda conv: Holder(conv, name="holder"),
    "list": lambda conv: Holder([conv], lambda kept: kept[0], name="holder"),
    "object": lambda conv: Holder(Box({"conv": conv}), lambda kept: kept.content["conv"], name="holder"),
    "bound method": lambda conv: Holder(Box(conv.call), lambda kept: kept.content, name="holder"),
    "closure": lambda conv: layers.Lambda(lambda x: conv(x), name="holder"),
    "default": lambda conv: layers.Lambda(lambda x, conv=conv: conv(x), name="holder"),
    "partial": lambda conv: Holder(functools.partial(lambda conv, x: conv(x), conv), name="holder"),
    "variable": lambda conv: layers.Lambda(
        lambda x, kernel=conv.kernel: ops.conv(x, kernel, padding="same"), name="holder"
    ),
    "storage": lambda conv: layers.Lambda(
        lambda x, kernel=conv.kernel.value: ops.conv(x, kernel, padding="same"), name="holder"
    ),
    "nested model": lambda conv: Holder(keras.Sequential([keras.Input((8, 8, 3)), conv]), name="holder"),
    "sub-layer of a sub-layer": lambda conv: Holder(Holder(conv), name="holder"),
}


@pytest.mark.parametrize("held", HOLDERS)
def test_layer_that_one_without_a_rule_gets_at_stays_whole(held):
    model = beside(lambda shared, image: HOLDERS[held](shared)(image))
    images = images_for(model)
    before = outputs_of(model, images)
    found = groups_by_name(model)
    assert not found["shared"].prunable
    assert "of 'shared', which is shared with 'holder' (" in found["shared"].reason
    assert found["free"].prunable
    report = autoprune.apply_plan(model, autoprune.make_plan(model, 0.5, multiple_of=1))
    assert {change.layer for change in report.changes} == {"free", "after"}
    for output, wanted in zip(outputs_of(model, images)[:2], before[:2], strict=True):
        np.testing.assert_array_equal(output, wanted)


def test_global_layer_that_a_function_names_stays_whole():
    namespace = {"layers": layers}
    exec("made = layers.Conv2D(6, 3, padding='same', name='made')\nfunction = lambda x: made(x)", namespace)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1)(namespace["made"](image)), layers.Conv2D(4, 1)(layers.Lambda(namespace["function"])(image))
    found = groups_by_name(keras.Model(image, [ops.mean(y, (1, 2)) for y in x]))
    assert "is shared with 'lambda" in found["made"].reason


def test_inside_of_a_nested_model_that_a_wrapper_cannot_follow_stays_whole():
    entry = keras.Input((8, 8, 3))
    nested = keras.Model(entry, layers.Conv2D(4, 3, name="b")(layers.Conv2D(6, 3, name="a")(entry)), name="nested")
    image, video = keras.Input((8, 8, 3)), keras.Input((2, 8, 8, 3))
    x, y = nested(image), layers.TimeDistributed(nested, name="frames")(video)
    found = groups_by_name(keras.Model([image, video], [ops.mean(x, (1, 2)), ops.mean(y, (1, 2, 3))]))
    assert "which is shared with 'frames' (TimeDistributed), which wraps 'nested'" in found["nested/a"].reason
    assert not found["frames"].prunable


def test_tied_kernel_stays_whole_on_both_axes():
    entry = keras.Input((7,))
    encoder = layers.Dense(8, name="encoder")
    code = encoder(layers.Dense(16, name="before")(entry))
    x = layers.Dense(9, name="after")(Transposed(encoder, name="tied")(code))
    model = keras.Model(entry, layers.Dense(3, name="end")(x))
    found = groups_by_name(model)
    assert "is on the kernel of 'encoder', which is shared with 'tied' (Transposed)" in found["before"].reason
    assert "'tied' (Transposed)" in found["encoder"].reason
    report = autoprune.apply_plan(model, autoprune.make_plan(model, 0.5, multiple_of=1))
    assert {change.layer for change in report.changes} == {"after", "end"}
    assert outputs_of(model, images_for(model))[0].shape == (3, 3)


def test_storage_of_a_kernel_as_an_argument_of_an_operation():
    entry = keras.Input((7,))
    encoder = layers.Dense(8, name="encoder")
    code = encoder(layers.Dense(8, name="before")(entry))
    found = groups_by_name(keras.Model(entry, layers.Dense(3)(ops.matmul(code, encoder.kernel.value))))
    assert "is on a variable that enters 'matmul" in found["before"].reason


# ------------------------------------------------------------------ what several wrappers with a rule share


def in_frames(layer, video):
    return ops.mean(layers.TimeDistributed(layer)(video), axis=1)


WRAPPED = {
    "direct and in a wrapper": lambda layer, image, video: (layer(image), in_frames(layer, video)),
    "in a wrapper and direct": lambda layer, image, video: (in_frames(layer, video), layer(image)),
    "in two wrappers": lambda layer, image, video: (in_frames(layer, video), in_frames(layer, ops.flip(video, 1))),
    "nested and direct": lambda layer, image, video: (keras.Sequential([image, layer])(image), layer(image)),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_layer_that_is_shared_with_a_wrapper_is_cut_for_both(how):
    image, video = keras.Input((8, 8, 3)), keras.Input((2, 8, 8, 3))
    pair = WRAPPED[how](layers.Conv2D(6, 3, padding="same", name="shared"), image, video)
    a, b = (layers.Conv2D(4, 3, name=name)(x) for name, x in zip("ab", pair, strict=True))
    model = keras.Model([image, video], [layers.GlobalAveragePooling2D()(x) for x in (a, b)])
    randomise(model)
    images = images_for(model)
    groups, plan = autoprune.find_groups(model), autoprune.make_plan(model, 0.5, multiple_of=1)
    expected = zeroed_outputs(model, kept_by_layer(groups, plan), images)
    before = outputs_of(model, images)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    report = surgeon.apply(plan)
    assert {change.layer.split("/")[-1] for change in report.changes} >= {"shared", "a", "b"}
    for output, wanted in zip(outputs_of(model, images), expected, strict=True):
        np.testing.assert_allclose(output, wanted, rtol=2e-5, atol=2e-5)
    surgeon.restore(snapshot)
    for output, wanted in zip(outputs_of(model, images), before, strict=True):
        np.testing.assert_array_equal(output, wanted)


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras says so of the dense model as well.
def test_layer_that_is_shared_with_a_wrapper_is_saved_as_it_was_cut(tmp_path):
    video, image = keras.Input((3, 8, 8, 3)), keras.Input((8, 8, 3))
    shared = layers.Conv2D(16, 3, padding="same", name="shared")
    a = layers.Conv2D(8, 3, name="a")(shared(image))
    b = layers.Conv3D(8, 3, name="b")(layers.TimeDistributed(shared, name="frames")(video))
    model = keras.Model([video, image], [layers.GlobalAveragePooling2D()(a), layers.GlobalAveragePooling3D()(b)])
    autoprune.apply_plan(model, autoprune.make_plan(model, 0.5))
    assert model.get_layer("frames").output.shape == (None, 3, 8, 8, 8)
    assert model.get_layer("b").input_spec.axes == {-1: 8}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = images_for(model)
    for output, wanted in zip(outputs_of(loaded, images), outputs_of(model, images), strict=True):
        np.testing.assert_array_equal(output, wanted)


# ------------------------------------------------------------------ layers that are left whole are named


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.LSTM(6, name="odd"), r"is a layer (LSTM) that has no layer kind (autoprune.layer_kind adds one)"),
        (layers.Bidirectional(layers.GRU(3), name="odd"), "is a layer (Bidirectional) that has no layer kind"),
        (
            layers.TimeDistributed(keras.Sequential([layers.Dense(6)], name="within"), name="odd"),
            "that wraps 'within' (Sequential), which has no layer kind; wrap the layers of that model one by one",
        ),
    ],
)
def test_layer_that_is_left_whole_is_named_in_the_groups_and_when_nothing_is_left(layer, reason):
    entry = keras.Input((5, 4))
    model = keras.Model(entry, layers.Dense(2, name="end")(layer(entry)))
    found = groups_by_name(model)
    assert list(found) == ["odd", "end"]
    assert (found["odd"].size, found["odd"].prunable, found["odd"].members) == (6, False, ())
    assert reason in found["odd"].reason
    with pytest.raises(ModelError) as caught:
        autoprune.make_plan(model, 0.5)
    assert f"'odd' {found['odd'].reason}" in str(caught.value)


def test_layer_that_is_left_whole_is_named_once_in_the_report_of_surgery():
    entry = keras.Input((5, 4))
    recurrent = layers.LSTM(6, return_sequences=True, name="odd")
    x = recurrent(recurrent(layers.Dense(6, name="before")(entry)))
    model = keras.Model(entry, layers.Dense(2, name="end")(layers.Dense(16, name="after")(x)))
    assert [group.name for group in autoprune.find_groups(model)] == ["before", "odd", "after", "end"]
    report = autoprune.apply_plan(model, autoprune.make_plan(model, 0.5))
    assert "is a layer (LSTM) that has no layer kind" in report.left_alone["odd"]
    assert {change.layer for change in report.changes} == {"after", "end"}


def test_layer_with_lora_weights_is_named():
    entry = keras.Input((4,))
    odd = layers.Dense(6, name="odd")
    model = keras.Model(entry, layers.Dense(2, name="end")(odd(entry)))
    odd.enable_lora(2)
    assert groups_by_name(model)["odd"].reason == "is a layer (Dense) that has LoRA weights"
