"""A layer of one's own takes part in every analysis by one class that says what is known of it."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import autoprune
from autoprune.cost.flops import count_flops, flops_per_layer
from autoprune.cost.layers import layer_dependences
from autoprune.errors import ModelError
from autoprune.evaluation.scoring import Passes
from autoprune.layers import kind as kinds
from autoprune.layers import kind_of
from autoprune.surgery import Surgeon
from helpers.oracle import outputs_of
from helpers.topologies import head, images_for, randomise


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Kinds that these tests register end with them."""
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))


@keras.saving.register_keras_serializable("tests")
class Scale(layers.Layer):
    """A learnt factor per channel; knows how many there are, their names, and a table derived from the number."""

    def __init__(self, dim, names, **options):
        super().__init__(**options)
        self.dim, self.names = dim, names

    def build(self, shape):
        self.factor = self.add_weight(shape=(self.dim,), initializer="ones", name="factor")
        self.table = tuple(range(self.dim))

    def call(self, x):
        assert len(self.table) == len(self.names)
        assert x.shape[-1] in (len(self.table), None)  # None while it is traced for all widths.
        return ops.reshape(ops.reshape(x, (-1, self.dim)) * self.factor, ops.shape(x))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "names": self.names}


@keras.saving.register_keras_serializable("tests")
class Mixer(layers.Layer):
    """Makes new channels: y = x @ kernel."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.width), name="kernel")

    def call(self, x):
        return ops.matmul(x, self.kernel)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class ScaleKind(autoprune.LayerKind):
    flops = 0
    attributes_in_call = ("dim",)

    def channels(self, call):
        (channels,) = call.channels
        if channels is not None:
            call.bind("factor", -1, "follows", channels.ids)
            call.bind_attribute("dim", channels.ids)
            call.bind_values("names", 0, channels.ids)
        return channels

    def update_derived(self, layer):
        layer.table = tuple(range(layer.dim))


class MixerKind(autoprune.LayerKind):
    input_variable = "kernel"

    def channels(self, call):
        (channels,) = call.channels
        if channels is not None:
            call.bind("kernel", 0, "consumes", channels.ids)
        ids = call.bind("kernel", 1, "produces")
        call.bind_attribute("width", ids)
        return autoprune.Channels(len(call.outputs[0].shape) - 1, ids)

    def flops(self, layer, inputs, outputs):
        return 2 * inputs[0][-1] * math.prod(outputs[0])

    def has_patches(self, layer):
        return True

    def patches(self, layer, x, draw):
        rows = x.reshape(-1, x.shape[-1])
        return rows[draw(len(rows))][:, None, :]


def register_kinds():
    autoprune.layer_kind(Scale)(ScaleKind)
    autoprune.layer_kind(Mixer)(MixerKind)


def network():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, name="conv")(image)
    x = Scale(6, list("abcdef"), name="scale")(x)
    x = Scale(8, list("stuvwxyz"), name="second")(Mixer(8, name="mixer")(x))
    model = keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
    randomise(model)
    return model


def test_without_a_kind_it_is_left_whole_and_the_reason_names_the_way_out(messages):
    groups = {group.name: group for group in autoprune.find_groups(network())}
    assert not groups["conv"].prunable
    assert "(Scale), which has no layer kind (autoprune.layer_kind adds one)" in groups["conv"].reason
    assert not groups["mixer"].prunable
    assert groups["mixer"].reason == "is a layer (Mixer) that has no layer kind (autoprune.layer_kind adds one)"
    assert "mixer" not in flops_per_layer(network())
    assert "'mixer' (Mixer)" in messages()


def test_with_a_kind_it_prunes_saves_and_comes_back(tmp_path):
    register_kinds()
    model = network()
    image = images_for(model)
    before = outputs_of(model, image)[0]
    plan = autoprune.make_plan(model, 0.5, multiple_of=1)
    conv, mixer = plan.kept["conv"], plan.kept["mixer"]
    inner = keras.Model(model.input, model.get_layer("scale").output)
    features = ops.convert_to_numpy(inner(image))[..., conv]
    mixed = features @ model.get_layer("mixer").kernel.numpy()[conv][:, mixer]
    pooled = (mixed * model.get_layer("second").factor.numpy()[mixer]).mean((1, 2))
    classifier = model.get_layer("classifier")
    logits = pooled @ classifier.kernel.numpy()[mixer] + classifier.bias.numpy()
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    surgeon.apply(plan)
    np.testing.assert_allclose(outputs_of(model, image)[0], expected, rtol=1e-4, atol=1e-5)
    scale = model.get_layer("scale")
    assert (scale.dim, scale.names, scale.table) == (3, ["abcdef"[i] for i in conv], (0, 1, 2))
    assert model.get_layer("mixer").width == 4
    model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    np.testing.assert_array_equal(outputs_of(loaded, image)[0], outputs_of(model, image)[0])
    surgeon.restore(snapshot)
    assert (scale.dim, scale.names, scale.table) == (6, list("abcdef"), tuple(range(6)))
    np.testing.assert_array_equal(outputs_of(model, image)[0], before)


def test_its_operations_are_counted_before_and_after():
    register_kinds()
    model = network()
    assert flops_per_layer(model)["mixer"] == 2 * 16 * 6 * 8
    assert "scale" not in flops_per_layer(model)
    autoprune.apply_plan(model, autoprune.make_plan(model, 0.5, multiple_of=1))
    assert flops_per_layer(model)["mixer"] == 2 * 16 * 3 * 4
    assert count_flops(model, 2) == 2 * sum(flops_per_layer(model).values())


class Projection(layers.Layer):
    """Has another name for its kernel than Keras's own layers."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")

    def call(self, x):
        return ops.matmul(x, self.matrix)


def test_its_operations_shrink_with_its_channels_whatever_its_variable_is_called():
    @autoprune.layer_kind(Projection)
    class ProjectionKind(autoprune.LayerKind):
        def channels(self, call):
            call.bind("matrix", 0, "consumes", call.channels[0].ids)
            return autoprune.Channels(3, call.bind("matrix", 1, "produces"))

        def flops(self, layer, inputs, outputs):
            return 2 * inputs[0][-1] * math.prod(outputs[0])

    image = keras.Input((4, 4, 2))
    x = Projection(name="projection")(layers.Conv2D(6, 1, name="conv")(image))
    model = keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
    groups = [group for group in autoprune.find_groups(model) if group.prunable]
    (found,) = [layer for layer in layer_dependences(model, groups) if layer.path == "projection"]
    assert found.flops == 2 * 16 * 6 * 4
    assert [(axis.length, axis.remaining_share((0.5, 0.25))) for axis in found.axes] == [(6, 0.5), (4, 0.25)]


def test_importance_is_read_from_what_enters_it():
    register_kinds()
    model = network()
    images = images_for(model, 8)
    inner = keras.Model(model.input, model.get_layer("mixer").input)
    strength = np.abs(outputs_of(inner, images)[0]).mean((0, 1, 2))
    plan = autoprune.make_plan(model, 0.5, importance="activation", data=images, multiple_of=1)
    np.testing.assert_array_equal(plan.kept["conv"], np.sort(np.argsort(-strength)[:3]))


def test_its_kernel_is_fitted_to_what_it_gave_before():
    register_kinds()
    model = network()
    images = images_for(model, 32)
    plan = autoprune.make_plan(model, {"conv": 0.5}, multiple_of=1)
    mixer = model.get_layer("mixer")
    features = outputs_of(keras.Model(model.input, mixer.input), images)[0].reshape(-1, 6).astype("float64")
    wanted = features @ mixer.kernel.numpy().astype("float64")
    expected = np.linalg.lstsq(features[:, plan.kept["conv"]], wanted, rcond=None)[0]
    autoprune.apply_plan(model, plan, reconstruct_from=images)
    np.testing.assert_allclose(mixer.kernel.numpy(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others compile for each plan anew")
def test_one_trace_serves_all_its_widths():
    register_kinds()
    model = network()
    images, surgeon = images_for(model), Surgeon(model)
    passes = Passes(model, surgeon.groups, images)
    traced = passes.network_for({"all"})
    assert traced is not None
    snapshot = surgeon.snapshot()
    for ratio in (0.5, 0.75):
        with surgeon.pruning(autoprune.make_plan(model, ratio, multiple_of=1), snapshot):
            np.testing.assert_allclose(np.asarray(traced(images)), outputs_of(model, images)[0], rtol=1e-4, atol=1e-5)


def test_wrapped_layer_of_ones_own_is_asked_too():
    register_kinds()
    video = keras.Input((2, 5, 5, 2))
    x = layers.TimeDistributed(layers.Conv2D(6, 3, name="frame"))(video)
    x = layers.TimeDistributed(Scale(6, list("abcdef"), name="scale"))(x)
    model = keras.Model(video, head(layers.Flatten()(x)))
    report = autoprune.apply_plan(model, autoprune.make_plan(model, 0.5, multiple_of=1))
    assert any(change.layer.endswith("/scale") and change.after == (3,) for change in report.changes)
    assert outputs_of(model, images_for(model))[0].shape == (3, 5)


# ------------------------------------------------------------------ what cannot be registered


class Silent(autoprune.LayerKind):
    """Says nothing of operations: they would be none, unnoticed."""

    def channels(self, call):
        return call.channels[0]


class Blind(autoprune.LayerKind):
    flops = 0


@pytest.mark.parametrize(
    ("classes", "kind", "message"),
    [
        ((Scale,), Silent, r"Silent does not say how many operations a call of Scale takes: .*`flops = 0`"),
        ((Scale,), Blind, r"Blind does not say how channels pass Scale: .*`def channels\(self, call\)`"),
        ((Scale,), lambda call: None, r"kind of Scale is a class derived from autoprune.LayerKind. Received: <lambda>"),
        ((ScaleKind,), ScaleKind, r"takes layer classes, @autoprune.layer_kind\(MyLayer\). Received: ScaleKind"),
        (("Scale",), ScaleKind, r"takes layer classes.*Received: Scale"),
    ],
)
def test_a_kind_that_lacks_something_is_refused_and_told_what_to_write(classes, kind, message):
    with pytest.raises(TypeError, match=message):
        autoprune.layer_kind(*classes)(kind)
    assert kind_of(Scale(1, ["a"])) is None


def test_one_kind_for_a_class():
    register_kinds()
    with pytest.raises(ValueError, match="Scale has a layer kind already"):
        autoprune.layer_kind(Scale)(ScaleKind)


@pytest.mark.parametrize("given", [None, 1.5, -2, {"inner": None}])
def test_operations_that_are_no_number_are_refused(given):
    class Wrong(MixerKind):
        def flops(self, layer, inputs, outputs):
            return given

    autoprune.layer_kind(Scale)(ScaleKind)
    autoprune.layer_kind(Mixer)(Wrong)
    with pytest.raises(ModelError, match=r"operations of 'mixer' \(Mixer\) are a whole number.*Wrong.flops: "):
        flops_per_layer(network())
