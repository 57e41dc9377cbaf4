"""A layer of one's own takes part with a channel rule and, where it keeps more, an editor: a few lines each."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from oracle import outputs_of
from topologies import head, images_for, randomise

import autoprune
from autoprune.layers import registry
from autoprune.layers.channels import Channels
from autoprune.surgery import Surgeon, editors


@pytest.fixture(autouse=True)
def own_tables(monkeypatch):
    """Rules and editors of these tests end with them."""
    monkeypatch.setattr(registry, "_LAYER_RULES", dict(registry._LAYER_RULES))
    monkeypatch.setattr(editors, "_EDITORS", dict(editors._EDITORS))


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
        assert len(self.table) == x.shape[-1] == len(self.names)
        return x * self.factor

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


def enter_rules():
    @autoprune.channel_rule(Scale)
    def scale(call):
        (channels,) = call.channels
        if channels is not None:
            call.bind("factor", -1, "follows", channels.ids)
            call.bind_attribute("dim", channels.ids)
            call.bind_values("names", 0, channels.ids)
        return channels

    @autoprune.channel_rule(Mixer)
    def mixer(call):
        (channels,) = call.channels
        if channels is not None:
            call.bind("kernel", 0, "consumes", channels.ids)
        ids = call.bind("kernel", 1, "produces")
        call.bind_attribute("width", ids)
        return Channels(len(call.outputs[0].shape) - 1, ids)

    @autoprune.layer_editor(Scale)
    def derive(layer):
        layer.table = tuple(range(layer.dim))


def network():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, name="conv")(image)
    x = Scale(6, list("abcdef"), name="scale")(x)
    x = Scale(8, list("stuvwxyz"), name="second")(Mixer(8, name="mixer")(x))
    model = keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
    randomise(model)
    return model


def test_without_a_rule_it_is_left_whole_and_the_reason_names_the_way_out():
    groups = {group.name: group for group in autoprune.find_groups(network())}
    assert not groups["conv"].prunable
    assert "(Scale), which has no channel rule (autoprune.channel_rule adds one)" in groups["conv"].reason
    assert not groups["mixer"].prunable
    assert groups["mixer"].reason == "is a layer (Mixer) that has no channel rule (autoprune.channel_rule adds one)"


def test_with_a_rule_and_an_editor_it_prunes_saves_and_comes_back(tmp_path):
    enter_rules()
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


def test_wrapped_layer_of_ones_own_is_asked_for_its_rule():
    enter_rules()
    video = keras.Input((2, 5, 5, 2))
    x = layers.TimeDistributed(layers.Conv2D(6, 3, name="frame"))(video)
    x = layers.TimeDistributed(Scale(6, list("abcdef"), name="scale"))(x)
    model = keras.Model(video, head(layers.Flatten()(x)))
    report = autoprune.apply_plan(model, autoprune.make_plan(model, 0.5, multiple_of=1))
    assert any(change.layer.endswith("/scale") and change.after == (3,) for change in report.changes)
    assert outputs_of(model, images_for(model))[0].shape == (3, 5)


def test_one_editor_for_a_class():
    enter_rules()
    with pytest.raises(ValueError, match="Scale has an editor already"):
        autoprune.layer_editor(Scale)(lambda layer: None)
