"""Least squares makes up for removed channels as far as the others can tell."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.errors import DataError, PlanError
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon, apply_plan, apply_with_reconstruction
from helpers.topologies import TOPOLOGIES, head, images_for, made


def numbers(output):
    return keras.ops.convert_to_numpy(output).astype("float64")


def with_twins(model, names):
    """Random weights; of the named layers, every channel of the second half is made as one of the first half is."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(generator.normal(0, 0.5, variable.shape))
    for name in names:
        for variable in model.get_layer(name).variables:
            value = variable.numpy()
            half = value.shape[-1] // 2
            value[..., half:] = value[..., :half]
            variable.assign(value)
    return model


def first_half(model, names):
    """A plan that keeps the first half of the groups called so: the importance is set by hand."""
    plan = make_plan(model, dict.fromkeys(names, 0.5), multiple_of=1)
    for name in names:
        plan.kept[name][:] = np.arange(len(plan.kept[name]))
    return plan


CONSUMERS = {}


def consumer(build):
    CONSUMERS[build.__name__] = build
    return build


def conv(x, channels, size, **options):
    return layers.Conv2D(channels, size, activation="relu", **options)(x)


@consumer
def strided_same():
    image = keras.Input((9, 8, 2))
    return image, conv(conv(image, 6, 3, name="a"), 5, 3, strides=2, padding="same", name="reader")


@consumer
def strided_valid():
    image = keras.Input((9, 8, 2))
    return image, conv(conv(image, 6, 3, name="a"), 5, (3, 2), strides=(2, 1), name="reader")


@consumer
def dilated_same():
    image = keras.Input((9, 9, 2))
    return image, conv(conv(image, 6, 3, name="a"), 5, 3, dilation_rate=2, padding="same", name="reader")


@consumer
def pointwise():
    image = keras.Input((9, 9, 2))
    return image, conv(conv(image, 6, 3, name="a"), 5, 1, strides=2, name="reader")


@consumer
def one_dimensional():
    image = keras.Input((20, 2))
    x = layers.Conv1D(6, 3, activation="relu", name="a")(image)
    return image, layers.Conv1D(5, 4, padding="causal", dilation_rate=2, name="reader")(x)


@consumer
def three_dimensional():
    image = keras.Input((6, 6, 6, 1))
    x = layers.Conv3D(4, 3, activation="relu", name="a")(image)
    return image, layers.Conv3D(3, (2, 1, 2), strides=(2, 1, 1), padding="same", name="reader")(x)


@consumer
def channels_first():
    image = keras.Input((2, 16, 16))
    options = {"data_format": "channels_first"}
    x = conv(image, 6, 3, name="a", **options)
    return image, conv(x, 5, 3, strides=2, padding="same", name="reader", **options)


@consumer
def dense_after_flatten():
    image = keras.Input((5, 5, 2))
    return image, layers.Dense(7, name="reader")(layers.Flatten()(conv(image, 6, 3, name="a")))


@consumer
def dense_on_pixels():
    image = keras.Input((6, 6, 2))
    return image, layers.Dense(7, name="reader")(conv(image, 6, 3, name="a"))


@consumer
def residual():
    image = keras.Input((8, 8, 2))
    x = layers.Add()([conv(image, 6, 3, padding="same", name="a"), conv(image, 6, 1, name="twin")])
    return image, conv(layers.BatchNormalization(name="norm")(x), 5, 3, name="reader")


@consumer
def concatenated():
    image = keras.Input((8, 8, 2))
    x = layers.Concatenate()([conv(image, 5, 1, name="other"), conv(image, 6, 3, padding="same", name="a"), image])
    return image, conv(x, 5, 3, name="reader")


@consumer
def called_twice():
    image = keras.Input((8, 8, 2))
    shared = layers.Conv2D(5, 3, name="reader")
    x = conv(image, 6, 3, padding="same", name="a")
    return image, layers.Concatenate()([shared(x), shared(layers.AveragePooling2D(1, strides=1)(x))])


@consumer
def within_a_nested_model():
    image, inner = keras.Input((8, 8, 2)), keras.Input((6, 6, 6))
    nested = keras.Model(inner, layers.Conv2D(5, 3, name="reader")(inner), name="nested")
    return image, nested(conv(image, 6, 3, name="a"))


def built(name):
    image, x = CONSUMERS[name]()
    x = layers.Flatten(data_format="channels_first" if name == "channels_first" else None)(x)
    model = keras.Model(image, head(x))
    twins = [layer for layer in ("a", "twin", "norm") if layer in {made.name for made in model.layers}]
    with_twins(model, twins)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_variance.assign(np.abs(layer.moving_variance.numpy()) + 0.5)
    return model


def features_of(model, images):
    """What enters the classifier."""
    return numbers(keras.Model(model.input, model.get_layer("classifier").input)(images, training=False))


def logits_of(model, images):
    """What the classifier makes of it, before its softmax."""
    classifier = model.get_layer("classifier")
    return features_of(model, images) @ numbers(classifier.kernel) + numbers(classifier.bias)


@pytest.mark.parametrize("name", sorted(CONSUMERS))
def test_twins_of_what_stays_are_made_up_for_entirely(name):
    outputs = {}
    for way in ("dense", "pruned", "reconstructed"):
        model = built(name)
        images = images_for(model, 60, seed=5)
        fresh = images_for(model, 20, seed=6)
        plan = first_half(model, ["a"])
        if way == "pruned":
            apply_plan(model, plan)
        if way == "reconstructed":
            apply_with_reconstruction(Surgeon(model), plan, images, ridge=1e-9)
        outputs[way] = features_of(model, fresh)
    spread = outputs["dense"].std()
    assert np.abs(outputs["pruned"] - outputs["dense"]).mean() > 0.1 * spread
    assert np.abs(outputs["reconstructed"] - outputs["dense"]).max() < 2e-3 * spread


@pytest.mark.parametrize("importance", ["l1", "random"])
@pytest.mark.parametrize("name", ["residual", "growing_concatenation", "nested", "plain", "vgg_like"])
def test_outputs_come_nearer_when_nothing_is_exact(name, importance):
    def model():
        if name != "vgg_like":
            return made(name)
        image = keras.Input((8, 8, 2))
        x = conv(conv(conv(image, 12, 3, name="a"), 12, 3, name="b"), 12, 3, name="c")
        return with_twins(keras.Model(image, head(layers.Flatten()(x))), [])

    images, fresh = images_for(model(), 200, seed=5), images_for(model(), 50, seed=6)
    plan = make_plan(model(), 0.7, importance=importance, multiple_of=1)
    whole, pruned, rebuilt = model(), model(), model()
    apply_plan(pruned, plan)
    apply_with_reconstruction(Surgeon(rebuilt), plan, images)
    wanted, cut, fitted = (logits_of(m, fresh) for m in (whole, pruned, rebuilt))
    assert np.square(fitted - wanted).mean() < 0.7 * np.square(cut - wanted).mean()


def test_kernel_is_the_least_squares_solution():
    """Against NumPy on all patches, cut out by Keras, of inputs that are not twins of each other."""
    image = keras.Input((8, 8, 2))
    x = conv(image, 6, 3, name="a")
    model = with_twins(keras.Model(image, head(layers.Flatten()(layers.Conv2D(4, 3, padding="same", name="b")(x)))), [])
    images = images_for(model, 30)
    entering = keras.Model(image, model.get_layer("b").input)(images)
    patches = keras.ops.image.extract_patches(entering, (3, 3), 1, padding="same")
    patches = numbers(patches).reshape(-1, 9, 6)
    kernel = model.get_layer("b").kernel.numpy().astype("float64").reshape(9, 6, 4)
    kept = [0, 2, 3]
    target = np.einsum("rwc,wco->ro", patches, kernel)
    expected, *_ = np.linalg.lstsq(patches[..., kept].reshape(len(patches), -1), target, rcond=None)
    plan = make_plan(model, {"a": 0.5}, multiple_of=1)
    plan.kept["a"][:] = kept
    apply_with_reconstruction(Surgeon(model), plan, images, positions=1000, ridge=1e-9)
    np.testing.assert_allclose(model.get_layer("b").kernel.numpy().reshape(-1, 4), expected, rtol=1e-3, atol=1e-4)


def test_inputs_that_tell_nothing_keep_their_weights():
    """Dead channels: the regression knows nothing of their weights, which must not shrink to zero for that."""
    image = keras.Input((8, 8, 2))
    x = conv(image, 6, 3, name="a")
    model = with_twins(keras.Model(image, head(layers.Flatten()(layers.Conv2D(4, 3, name="b")(x)))), [])
    model.get_layer("a").set_weights([np.zeros((3, 3, 2, 6)), np.array([1, 1, 0, 0, 0, 1])])
    before = model.get_layer("b").kernel.numpy()
    plan = first_half(model, ["a"])
    apply_with_reconstruction(Surgeon(model), plan, images_for(model, 10))
    np.testing.assert_array_equal(model.get_layer("b").kernel.numpy()[:, :, 2], before[:, :, 2])
    assert (model.get_layer("b").kernel.numpy()[:, :, 0] != before[:, :, 0]).any()


def test_other_layers_are_sliced_as_without():
    """Depthwise, grouped, separable and transposed convolutions, biases and batch norms."""
    for name in ("depthwise", "separable", "unet"):
        plain, rebuilt = made(name), made(name)
        plan = make_plan(plain, 0.5, multiple_of=1)
        without = apply_plan(plain, plan)
        report = apply_with_reconstruction(Surgeon(rebuilt), plan, images_for(rebuilt, 20))
        assert [change.after for change in report.changes] == [change.after for change in without.changes]
        fitted = (layers.Conv2D, layers.Dense)
        for ours, theirs in zip(rebuilt.layers, plain.layers, strict=True):
            for variable, value in zip(ours.variables, theirs.variables, strict=True):
                if type(ours) not in fitted or variable.name != "kernel":
                    np.testing.assert_array_equal(variable.numpy(), value.numpy())


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_every_topology_gets_the_shapes_that_surgery_gives(name):
    if keras.backend.backend() == "jax" and name in ("raw_spatial_operations", "words"):
        pytest.skip("Keras 3.15 cannot run the model under JAX: strided raw pooling, attention with narrower values")
    plain, rebuilt = made(name), made(name)
    apply_plan(plain, make_plan(plain, 0.5, multiple_of=1))
    apply_with_reconstruction(Surgeon(rebuilt), make_plan(rebuilt, 0.5, multiple_of=1), images_for(rebuilt, 10))
    assert [tuple(v.shape) for v in rebuilt.variables] == [tuple(v.shape) for v in plain.variables]
    for output in keras.tree.flatten(rebuilt(images_for(rebuilt), training=False)):
        assert np.isfinite(numbers(output)).all()


def test_grouped_convolutions_are_left_alone():
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 1, groups=2, name="grouped")(conv(image, 8, 1, name="a"))
    model = keras.Model(image, head(layers.Flatten()(layers.Conv2D(4, 1, name="b")(x))))
    apply_with_reconstruction(Surgeon(model), make_plan(model, 0.5, multiple_of=1), images_for(model, 20))
    assert np.isfinite(numbers(model(images_for(model)))).all()


def test_same_seed_same_kernels_and_restore_is_exact():
    model = made("residual")
    images, surgeon = images_for(model, 40), Surgeon(model)
    plan, snapshot = make_plan(model, 0.5, multiple_of=1), surgeon.snapshot()
    before = [variable.numpy() for variable in model.variables]
    results = []
    for seed in (0, 0, 1):
        apply_with_reconstruction(surgeon, plan, images, positions=4, seed=seed)
        results.append([variable.numpy() for variable in model.variables])
        surgeon.restore(snapshot)
    assert all((a == b).all() for a, b in zip(results[0], results[1], strict=True))
    assert not all((a == b).all() for a, b in zip(results[0], results[2], strict=True))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_plan_that_keeps_everything_changes_no_bit():
    model = made("plain")
    before = [variable.numpy() for variable in model.variables]
    report = apply_with_reconstruction(Surgeon(model), make_plan(model, 1.0), images_for(model, 4))
    assert report.changes == ()
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_regressions_that_are_too_large_are_left_out_with_a_warning(messages, monkeypatch):
    from autoprune.surgery import reconstruction

    monkeypatch.setattr(reconstruction, "_LARGEST", 10)
    model, plain = made("flatten_head"), made("flatten_head")
    plan = make_plan(model, 0.5, multiple_of=1)
    apply_with_reconstruction(Surgeon(model), plan, images_for(model, 20))
    apply_plan(plain, plan)
    assert "'hidden' is not reconstructed: its regression has" in messages()
    np.testing.assert_array_equal(model.get_layer("hidden").kernel.numpy(), plain.get_layer("hidden").kernel.numpy())


def test_what_cannot_be_done_is_refused_and_leaves_the_model_whole():
    model, images = made("plain"), images_for(made("plain"), 4)
    surgeon, plan = Surgeon(model), make_plan(model, 0.5, multiple_of=1)
    for given, error, message in (
        ((make_plan(made("residual"), 0.5), images), PlanError, "for another model"),
        ((plan, None), PlanError, "takes some images.*Received: images=None"),
        ((plan, images[:, 1:]), DataError, r"takes \[\(8, 8, 2\)\]"),
    ):
        with pytest.raises(error, match=message):
            apply_with_reconstruction(surgeon, *given)
    with pytest.raises(PlanError, match="ridge above 0.*ridge=0"):
        apply_with_reconstruction(surgeon, plan, images, ridge=0)
    apply_with_reconstruction(surgeon, plan, images)
    with pytest.raises(PlanError, match="pruned"):
        apply_with_reconstruction(surgeon, plan, images)
