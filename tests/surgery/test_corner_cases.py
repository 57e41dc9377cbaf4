"""Models that look harmless: each is pruned exactly, or left whole with the reason; none is silently wrong."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from autoprune.errors import ModelError, PlanError
from autoprune.graph import find_groups
from autoprune.planning import make_plan
from autoprune.records import Plan
from autoprune.surgery import Surgeon, apply_plan
from helpers.oracle import kept_by_layer, outputs_of, zeroed_outputs
from helpers.topologies import images_for, randomise


def image(channels=2, size=6, **options):
    return keras.Input((size, size, channels), **options)


def classified(x, inputs):
    x = layers.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else x
    model = keras.Model(inputs, layers.Dense(2, name="classifier")(x))
    randomise(model)
    return model


def assert_pruned_exactly(model, ratio=0.5, images=None, tmp_path=None):
    """Pruned equals zeroed, twice in a row, and from its file."""
    images = images_for(model) if images is None else images
    groups = find_groups(model)
    plan = make_plan(model, ratio, importance="random", multiple_of=1)
    expected = zeroed_outputs(model, kept_by_layer(groups, plan), images)
    before = outputs_of(model, images)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    for _ in range(2):
        with surgeon.pruning(plan, snapshot) as report:
            assert report.changes
            for output, wanted in zip(outputs_of(model, images), expected, strict=True):
                np.testing.assert_allclose(output, wanted, rtol=2e-5, atol=2e-5)
            if tmp_path is not None:
                model.save(tmp_path / "model.keras")
                loaded = keras.saving.load_model(tmp_path / "model.keras")
                np.testing.assert_array_equal(outputs_of(loaded, images)[0], outputs_of(model, images)[0])
        for output, wanted in zip(outputs_of(model, images), before, strict=True):
            np.testing.assert_array_equal(output, wanted)


def reasons(model):
    return {group.name: group.reason for group in find_groups(model)}


# ------------------------------------------------------------------ slices


def test_negative_bound_when_only_what_lies_behind_it_shrinks():
    entry = image()
    x = layers.Conv2D(12, 1, name="a")(entry)
    tail = ops.sum(x[..., -4:], -1, keepdims=True)
    model = classified(layers.Concatenate()([tail, layers.Conv2D(3, 1, name="r")(x)]), entry)
    for group in ("a", "a#2"):
        assert_pruned_exactly(model, {group: 0.5})


def test_halves_of_a_split_shrink_apart():
    entry = image()
    left, right = ops.split(layers.Conv2D(10, 1, name="a")(entry), 2, -1)
    left, right = layers.Conv2D(3, 1, name="l")(left), layers.Conv2D(3, 1, name="r")(right)
    model = classified(layers.Concatenate()([left, right]), entry)
    for ratio in ({"a": 0.4}, {"a#2": 0.4}, {"a#2": 0.8}, {"a": 0.4, "a#2": 0.8}):
        assert_pruned_exactly(model, ratio)


def test_slice_behind_the_channels_of_the_image():
    entry = image(3)
    x = layers.Concatenate()([entry, layers.Conv2D(8, 1, name="a")(entry)])
    assert_pruned_exactly(classified(layers.Conv2D(4, 1, name="b")(x[..., -8:]), entry))


# ------------------------------------------------------------------ nested models


def test_nested_model_called_with_a_dictionary():
    p, q = keras.Input((4,), name="zz"), keras.Input((4,), name="aa")
    inner = keras.Model([p, q], layers.Dense(3)(p) + layers.Dense(3)(q), name="inner")
    entry = keras.Input((5,))
    sides = {"zz": layers.Dense(4, name="a")(entry), "aa": layers.Dense(4, name="b")(entry)}
    model = keras.Model(entry, layers.Dense(2)(inner(sides)))
    groups = {group.name: group for group in find_groups(model)}
    readers = {name: {m.layer for m in groups[name].members if m.role == "consumes"} for name in ("a", "b")}
    first = inner.get_layer(index=2) if inner.get_layer(index=2).input is p else inner.get_layer(index=3)
    assert readers["a"] == {f"inner/{first.name}"}
    assert readers["a"].isdisjoint(readers["b"])
    images = images_for(model)
    plan = make_plan(model, 0.5, multiple_of=1)
    hidden = keras.Model(entry, [model.get_layer("a").output, model.get_layer("b").output])
    a, b = (ops.convert_to_numpy(x) for x in hidden(images))
    a = np.where(np.isin(range(4), plan.kept["a"]), a, 0).astype("float32")
    b = np.where(np.isin(range(4), plan.kept["b"]), b, 0).astype("float32")
    kept = plan.kept[next(name for name in plan.kept if name.startswith("inner/"))]
    middle = ops.convert_to_numpy(inner({"zz": a, "aa": b}))
    middle = np.where(np.isin(range(3), kept), middle, 0)
    expected = middle @ model.layers[-1].kernel.numpy() + model.layers[-1].bias.numpy()
    apply_plan(model, plan)
    np.testing.assert_allclose(outputs_of(model, images)[0], expected, rtol=1e-5, atol=1e-5)


def test_nested_model_of_open_size_serves_several_sizes():
    inner_entry = keras.Input((None, None, 2))
    inner = keras.Model(inner_entry, layers.Conv2D(6, 3, padding="same", name="c")(inner_entry))
    small, large = keras.Input((8, 8, 2), name="small"), keras.Input((12, 12, 2), name="large")
    pooled = [ops.mean(inner(entry), axis=(1, 2)) for entry in (small, large)]
    model = classified(layers.Concatenate()(pooled), [small, large])
    assert_pruned_exactly(model)
    assert inner.input_shape == (None, None, None, 2)


def test_two_nested_models_that_share_their_inside():
    inner_entry = image()
    c = layers.Conv2D(6, 3, name="c")(inner_entry)
    whole = keras.Model(inner_entry, layers.Conv2D(5, 3, name="d")(c), name="whole")
    half = keras.Model(inner_entry, c, name="half")
    entry = image()
    pooled = [layers.GlobalAveragePooling2D()(nested(entry)) for nested in (whole, half)]
    model = classified(layers.Concatenate()(pooled), entry)
    apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    assert outputs_of(model, images_for(model))[0].shape == (3, 2)


def test_nested_model_that_reads_prunable_channels_is_pruned_again_and_again():
    inner_entry = image(4)
    inner = keras.Model(inner_entry, layers.Conv2D(8, 3, name="inside")(inner_entry), name="inner")
    entry = image()
    assert_pruned_exactly(classified(inner(layers.Conv2D(4, 3, padding="same", name="outside")(entry)), entry))


def test_compiled_predict_of_a_nested_model_is_traced_anew():
    inner_entry = image()
    inner = keras.Model(inner_entry, layers.Conv2D(8, 3, name="inside")(inner_entry), name="inner")
    entry = image()
    model = classified(inner(entry), entry)
    assert inner.predict(images_for(model), verbose=0).shape[-1] == 8
    apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    assert inner.predict(images_for(model), verbose=0).shape[-1] == 4


# ------------------------------------------------------------------ layers


def test_table_of_word_vectors_as_initialiser(tmp_path):
    entry = keras.Input((7,), dtype="int32")
    vectors = keras.initializers.Constant(np.random.default_rng(0).normal(size=(5, 8)))
    x = layers.Embedding(5, 8, embeddings_initializer=vectors, name="table")(entry)
    x = layers.Conv1D(6, 3, bias_initializer=keras.initializers.Constant(np.arange(6.0)), name="conv")(x)
    model = classified(layers.GlobalAveragePooling1D()(x), entry)
    assert_pruned_exactly(model, tmp_path=tmp_path)
    assert np.shape(model.get_layer("table").embeddings_initializer.value) == (5, 8)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: layers.TimeDistributed(layers.SpectralNormalization(layers.Conv1D(6, 1, name="in"))),
        lambda: layers.TimeDistributed(layers.TimeDistributed(layers.Dense(6, name="in"))),
    ],
)
def test_wrapper_in_a_wrapper(wrap, tmp_path):
    entry = keras.Input((3, 5, 2))
    x = layers.TimeDistributed(layers.TimeDistributed(layers.Dense(4, name="before")))(entry)
    model = keras.Model(entry, layers.Dense(2)(layers.Flatten()(wrap()(x))))
    before = outputs_of(model, images_for(model))[0]
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    report = surgeon.apply(make_plan(model, 0.5, multiple_of=1))
    assert {change.after[-1] for change in report.changes if change.layer.endswith("/in")} == {3}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = images_for(model)
    np.testing.assert_array_equal(outputs_of(loaded, images)[0], outputs_of(model, images)[0])
    surgeon.restore(snapshot)
    np.testing.assert_array_equal(outputs_of(model, images)[0], before)


def test_masked_words_in_a_wrapper():
    entry = keras.Input((7,), dtype="int32")
    x = layers.Embedding(5, 8, mask_zero=True, name="table")(entry)
    x = layers.TimeDistributed(layers.Dense(6, name="each"))(x)
    model = keras.Model(entry, layers.Dense(2)(ops.mean(x, axis=1)))
    report = apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    assert {"table", "each"} <= {change.layer.split("/")[-1] for change in report.changes}
    assert outputs_of(model, images_for(model))[0].shape == (3, 2)


def test_attention_without_a_key_of_its_own():
    entry = keras.Input((5, 2))
    x = layers.Dense(8, name="tokens")(entry)
    x = layers.MultiHeadAttention(4, 3, name="attention")(x, x, None)
    model = keras.Model(entry, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    assert outputs_of(model, images_for(model))[0].shape == (3, 2)
    assert model.get_layer("attention").num_heads == 2


def test_attention_masked_head_by_head_keeps_its_heads():
    entry, mask = keras.Input((5, 2), name="x"), keras.Input((4, 5, 5), dtype="bool", name="mask")
    x = layers.Dense(8, name="tokens")(entry)
    x = layers.MultiHeadAttention(4, 3, name="attention")(x, x, attention_mask=mask)
    found = reasons(keras.Model([entry, mask], layers.Dense(2)(layers.GlobalAveragePooling1D()(x))))
    assert "is masked head by head" in found["attention/query"]


def test_what_is_looked_up_is_left_whole():
    entry = keras.Input((5,))
    x = ops.cast(ops.clip(ops.abs(layers.Dense(6, name="a")(entry) * 3), 0, 4), "int32")
    x = ops.mean(layers.Embedding(5, 8, name="table")(x), axis=1)
    found = reasons(keras.Model(entry, layers.Dense(3)(x)))
    assert "is looked up in 'table'" in found["a"]
    assert found["table"] == ""


class Swish(layers.Layer):
    """Named like an activation that Keras knows, with weights of its own."""

    def build(self, shape):
        self.slope = self.add_weight(shape=(shape[-1],), name="slope")

    def call(self, x):
        return x * self.slope


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Activation(layers.Softmax(name="gelu")),
        lambda: layers.Dense(6, activation=layers.PReLU(name="relu")),
        lambda: layers.Activation(Swish()),
    ],
)
def test_activation_is_known_by_what_it_is_and_not_by_its_name(layer):
    entry = keras.Input((5,))
    x = layer()(layers.Dense(6, name="a")(entry))
    found = reasons(keras.Model(entry, layers.Dense(3)(layers.Dense(4, name="b")(x))))
    assert any("may look across channels" in reason for reason in found.values())


def test_activation_layers_without_weights_are_known(tmp_path):
    entry = image()
    x = layers.Conv2D(6, 3, activation=layers.LeakyReLU(negative_slope=0.3), name="a")(entry)
    assert_pruned_exactly(classified(layers.Activation(layers.ELU())(x), entry), tmp_path=tmp_path)


def test_noise_of_the_shape_of_the_channels():
    entry = image()
    x = layers.AlphaDropout(0.2, noise_shape=(None, 1, 1, 6))(layers.Conv2D(6, 3, name="a")(entry))
    model = classified(x, entry)
    apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    model.compile("sgd", "mse", run_eagerly=True)
    history = model.fit(images_for(model), np.zeros((3, 2)), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize(
    "norm",
    [
        lambda: layers.LayerNormalization(axis=(1, -1)),
        lambda: layers.RMSNormalization(axis=1),
        lambda: layers.RMSNormalization(axis=(1, -1)),
    ],
)
def test_axes_that_keras_itself_confuses_are_left_whole(norm):
    entry = image()
    x = norm()(layers.Conv2D(6, 1, name="a")(entry))
    assert "out of order" in reasons(classified(x, entry))["a"]


def test_training_flag_before_the_inputs():
    entry = image()
    x = layers.BatchNormalization()(training=False, inputs=layers.Conv2D(6, 3, name="a")(entry))
    assert_pruned_exactly(classified(x, entry))


# ------------------------------------------------------------------ constants


@pytest.mark.parametrize(
    ("merge", "reason"),
    [
        (lambda x: layers.Add()([x, np.ones((2, 1, 1, 6), "float32")]), "with a tensor whose channels are fixed"),
        (lambda x: layers.Concatenate(axis=1)([x, np.ones((2, 1, 6, 6), "float32")]), "with a constant"),
        (lambda x: ops.concatenate([x, np.ones((2, 1, 6, 6), "float32")], axis=1), "with a constant"),
        (lambda x: ops.stack([x, np.ones((2, 6, 6, 6), "float32")], axis=1)[:, 0], "is stacked in"),
    ],
)
def test_constants_among_the_inputs(merge, reason):
    entry = image(batch_size=2)
    x = merge(layers.Conv2D(6, 1, name="a")(entry))
    assert reason in reasons(classified(x, entry))["a"]


def test_variable_that_another_operation_reads():
    entry = keras.Input((7,), dtype="int32")
    table = layers.Embedding(8, 8, name="table")
    raw = keras.Model(entry, layers.Dense(2)(ops.matmul(layers.Dense(8, name="mixed")(table(entry)), table.embeddings)))
    assert "is on a variable that enters 'matmul" in reasons(raw)["table"]


# ------------------------------------------------------------------ shapes


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: ops.squeeze(layers.Conv2D(1, 1)(x), -1),
        lambda x: ops.squeeze(layers.GlobalAveragePooling2D(keepdims=True)(x)),
        lambda x: ops.softmax(layers.GlobalAveragePooling2D()(x), axis=None),
        lambda x: ops.reshape(layers.Dense(1)(layers.Flatten()(x)), (-1,))[:, None],
    ],
)
def test_operations_on_all_axes_are_no_obstacle(operation):
    entry = image()
    x = operation(layers.Conv2D(6, 1, name="a")(entry))
    model = keras.Model(entry, layers.Dense(2)(layers.Flatten()(x) if len(x.shape) > 1 else x[:, None]))
    assert find_groups(model)


def test_squeeze_with_the_axes_of_a_loaded_model(tmp_path):
    entry = image()
    x = layers.GlobalAveragePooling2D(keepdims=True)(layers.Conv2D(6, 1, name="a")(entry))
    keras.Model(entry, layers.Dense(2)(ops.squeeze(x, (1, 2)))).save(tmp_path / "model.keras")
    assert_pruned_exactly(keras.saving.load_model(tmp_path / "model.keras"))


def test_model_that_keras_cannot_save_is_refused_in_words():
    entry = keras.Input((6,))
    x = ops.split(layers.Dense(6)(entry), np.array([2, 4]), -1)
    model = keras.Model(entry, layers.Dense(2)(layers.Concatenate()(x)))
    with pytest.raises(ModelError, match="cannot be saved by Keras"):
        make_plan(model, 0.5)


# ------------------------------------------------------------------ optimisers and second plans


def small():
    entry = image()
    return classified(layers.Conv2D(8, 3, name="a")(entry), entry)


@pytest.mark.parametrize("compiled", ["before", "after"])
def test_optimiser_that_got_its_state_after_the_snapshot(compiled):
    model = small()
    if compiled == "before":
        model.compile("adam", "mse", run_eagerly=True)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    if compiled == "after":
        model.compile("adam", "mse", run_eagerly=True)
    plan = make_plan(model, 0.5, multiple_of=1)
    images, labels = images_for(model), np.zeros((3, 2))
    for _ in range(2):
        surgeon.apply(plan)
        model.fit(images, labels, verbose=0)
        surgeon.restore(snapshot)
        assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"]).all()


def test_surgeon_refuses_a_model_that_someone_else_pruned():
    model = small()
    surgeon = Surgeon(model)
    plan = make_plan(model, 0.5, multiple_of=1)
    apply_plan(model, plan)
    with pytest.raises(PlanError, match=r"was pruned after this surgeon looked at it.*had 8 positions and has 4"):
        surgeon.apply(plan)


@pytest.mark.parametrize("kept", [[0, 1], np.array([0.0, 1.0]), np.array([True, False]), np.array([[0]]), np.array([])])
def test_indices_that_are_none_are_refused(kept):
    model = small()
    plan = make_plan(model, 0.5, multiple_of=1)
    with pytest.raises(PlanError, match="[Gg]roup .a."):
        apply_plan(model, Plan(model=plan.model, sizes=plan.sizes, kept={"a": kept}))
    with pytest.raises(PlanError, match="size of every group|for another model"):
        apply_plan(model, Plan(model=plan.model, sizes={}, kept=plan.kept))


@pytest.mark.parametrize("ratio", ["half", None, True])
def test_ratio_that_is_no_number(ratio):
    with pytest.raises(PlanError, match="A keep ratio is above 0"):
        make_plan(small(), ratio)
