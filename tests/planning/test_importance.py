"""Every measure gives what its paper says, for every group, and sees the redundancy it is meant to see."""

import keras
import numpy as np
import pytest
from keras import layers
from omegaconf import OmegaConf

from autoprune.errors import PlanError, SettingsError
from autoprune.layers import exact_kind_of
from autoprune.planning import CalibrationData, Planner, make_plan
from autoprune.planning.importance import IMPORTANCES
from autoprune.planning.importance.combining import MemberScores, combine
from autoprune.settings import ImportanceSettings, SearchSettings, from_config
from autoprune.settings.options import list_options
from helpers.places import ROOT
from helpers.topologies import TOPOLOGIES, head, images_for, made

OF_GRADIENTS = {"taylor", "loss", "loss_biased", "fisher", "grasp", "gradient_norm", "class_saliency"}
SIGNED = {"grasp"}
OF_ACTIVATIONS = {"activation", "apoz", "hrank"}
DATA_DRIVEN = {*OF_GRADIENTS, *OF_ACTIVATIONS, "expert_usage"}


def raw(name):
    """A measure whose numbers can be read off."""
    return ImportanceSettings(name, normalisation="none")


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


def one_conv(kernel, bias=None, activation=None, between=None):
    """A 1x1 convolution with a given kernel (inputs, filters), read by a second one on 2x2 images."""
    kernel = np.array(kernel, "float32")
    image = keras.Input((2, 2, len(kernel)))
    x = layers.Conv2D(kernel.shape[1], 1, activation=activation, name="a")(image)
    x = layers.Conv2D(3, 1, name="b")(between(x) if between else x)
    model = keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
    bias = np.zeros(kernel.shape[1], "float32") if bias is None else np.array(bias, "float32")
    model.get_layer("a").set_weights([kernel.reshape(1, 1, *kernel.shape), bias])
    return model


def scores_of(model, importance, seed=0, data=None, group="a"):
    return Planner(model, importance=importance, seed=seed, data=data).scores[group]


def some_data(model, count=8):
    classes = max(model.outputs[-1].shape[-1], 2)
    return images_for(model, count), np.arange(count) % classes


# ------------------------------------------------------------------ known answers, from weights


def test_l1_averages_the_normalised_norms_of_all_producers():
    # a: mean 2.5; b: mean 12.5.
    expected = [(1 / 2.5 + 40 / 12.5) / 2, 2 / 2.5 / 2, 3 / 2.5 / 2, (4 / 2.5 + 10 / 12.5) / 2]
    np.testing.assert_allclose(scores_of(two_convs(), "l1"), expected)


def test_norms_of_a_filter():
    model = one_conv([[3, 1], [4, 0]])
    np.testing.assert_allclose(scores_of(model, raw("l2")), [5, 1])
    np.testing.assert_allclose(scores_of(model, raw("l1")), [7, 1])
    np.testing.assert_allclose(scores_of(model, "l2"), np.array([5, 1]) / 3)


def test_bn_gamma_is_the_absolute_scale():
    np.testing.assert_allclose(scores_of(two_convs(), "bn_gamma"), np.array([5, 1, 2, 3]) / 2.75)


def test_bn_gamma_without_a_scale_falls_back_to_l1():
    model = made("sequential")  # Its batch norm has no scale.
    np.testing.assert_array_equal(scores_of(model, "bn_gamma"), scores_of(model, "l1"))


def test_fpgm_sums_the_distances_to_all_other_filters():
    model = one_conv([[0, 1, 10, 3], [0, 0, 0, 4]])
    between = [[0, 1, 10, 5], [1, 0, 9, 20**0.5], [10, 9, 0, 65**0.5], [5, 20**0.5, 65**0.5, 0]]
    np.testing.assert_allclose(scores_of(model, raw("fpgm")), np.sum(between, 0), rtol=1e-6)


def test_lamp_divides_by_all_filters_at_least_as_large():
    model = one_conv([[2, 1, 0, 3, 0], [0, 0, 2, 0, 0]])
    np.testing.assert_allclose(scores_of(model, raw("lamp")), [4 / 17, 1 / 18, 4 / 17, 1, 0], rtol=1e-6)


def test_random_depends_on_the_seed_alone():
    model = two_convs()
    np.testing.assert_array_equal(scores_of(model, "random", 1), scores_of(two_convs(), "random", 1))
    assert (scores_of(model, "random", 1) != scores_of(model, "random", 2)).any()


# ------------------------------------------------------------------ known answers, from activations

MAPS = np.array([[[1, 2], [3, 4]], [[1, 2], [2, 4]], [[-1, 0], [0, -1]]], "float32")[..., None]  # ranks 2, 1, 2
KERNEL, BIAS = [[1, -1, 0, 2]], [0, 0, 1, 0]


def test_activation_is_the_mean_absolute_value_where_it_is_read():
    expected = [19 / 12, 2 / 12, 1, 38 / 12]
    np.testing.assert_allclose(scores_of(one_conv(KERNEL, BIAS, "relu"), raw("activation"), data=MAPS), expected)
    linear = [21 / 12, 21 / 12, 1, 42 / 12]
    np.testing.assert_allclose(scores_of(one_conv(KERNEL, BIAS), raw("activation"), data=MAPS), linear)


def test_apoz_is_the_share_that_is_not_zero():
    model = one_conv(KERNEL, BIAS, "relu")
    np.testing.assert_allclose(scores_of(model, raw("apoz"), data=MAPS), [8 / 12, 2 / 12, 1, 8 / 12])


def test_hrank_is_the_mean_rank_of_the_maps():
    # The first filter: ranks 2, 1 and, where nothing is positive, 0; the second sees the identity of rank 2 alone.
    model = one_conv(KERNEL, BIAS, "relu")
    np.testing.assert_allclose(scores_of(model, raw("hrank"), data=MAPS), [1, 2 / 3, 1, 1])


def test_hrank_without_spatial_axes_counts_what_is_not_zero():
    image = keras.Input((2, 2, 1))
    x = layers.Flatten()(layers.Conv2D(4, 1, activation="relu", name="a")(image))
    model = keras.Model(image, head(x))
    model.get_layer("a").set_weights([np.array(KERNEL, "float32").reshape(1, 1, 1, 4), np.array(BIAS, "float32")])
    np.testing.assert_allclose(scores_of(model, raw("hrank"), data=MAPS), [8 / 12, 2 / 12, 1, 8 / 12])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("importance", sorted(DATA_DRIVEN - OF_GRADIENTS))
def test_batches_do_not_change_what_is_averaged(importance, batch_size):
    model = made("residual")
    images = images_for(model, 5)
    whole = Planner(model, importance=importance, data=images).scores
    parts = Planner(model, importance=importance, data=CalibrationData(images, batch_size=batch_size)).scores
    for name, scores in whole.items():
        np.testing.assert_allclose(parts[name], scores, rtol=1e-5)


def test_all_calls_of_a_shared_layer_are_seen():
    image = keras.Input((2, 2, 1))
    shared = layers.Conv2D(2, 1, name="shared")
    a = layers.Conv2D(2, 1, use_bias=False, name="a")(image)
    b = layers.Conv2D(2, 1, use_bias=False, name="b")(image)
    x = layers.Concatenate()([shared(a), shared(b)])
    model = keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
    model.get_layer("a").set_weights([np.array([1, 3], "float32").reshape(1, 1, 1, 2)])
    model.get_layer("b").set_weights([np.array([5, 0], "float32").reshape(1, 1, 1, 2)])
    ones = np.ones((2, 2, 2, 1), "float32")
    np.testing.assert_allclose(scores_of(model, raw("activation"), data=ones), [3, 1.5])


def test_channels_first_is_read_along_its_own_axis():
    image = keras.Input((1, 2, 2))
    options = {"data_format": "channels_first", "use_bias": False}
    x = layers.Conv2D(6, 1, name="a", **options)(image)
    x = layers.Flatten(data_format="channels_first")(layers.Conv2D(5, 1, name="b", **options)(x))
    model = keras.Model(image, head(x))
    kernel = np.arange(6, dtype="float32")
    model.get_layer("a").set_weights([kernel.reshape(1, 1, 1, 6)])
    data = np.full((3, 1, 2, 2), 2, "float32")
    np.testing.assert_allclose(scores_of(model, raw("activation"), data=data), 2 * kernel, rtol=1e-6)


@pytest.mark.parametrize("importance", sorted(OF_ACTIVATIONS))
def test_groups_that_nothing_reads_fall_back_to_l1_and_say_so_once(importance, messages, monkeypatch):
    monkeypatch.setattr(exact_kind_of(layers.Dense(1)), "input_variable", "")
    model = made("residual")  # Its last group is read by a dense layer alone.
    scores = Planner(model, importance=importance, data=some_data(model)).scores
    reference = Planner(model, importance="l1").scores
    np.testing.assert_array_equal(scores["shortcut"], reference["shortcut"])
    assert not np.allclose(scores["stem"], reference["stem"])
    assert f"'{importance}' cannot be read for 'shortcut', as no" in messages()
    assert messages().count("ranks them instead") == 1


def test_without_experts_the_use_of_them_says_that_it_ranks_as_l2(messages):
    model = made("residual")
    scores = Planner(model, importance="expert_usage", data=some_data(model)).scores
    for name, expected in Planner(model, importance="l2").scores.items():
        np.testing.assert_array_equal(scores[name], expected)
    assert "'expert_usage' finds no mixture of experts" in messages()


# ------------------------------------------------------------------ known answers, from gradients


def residual_of_two():
    keras.utils.set_random_seed(3)
    image = keras.Input((4, 4, 2))
    a = layers.Conv2D(3, 3, name="a")(image)
    b = layers.Conv2D(3, 3, name="b")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(layers.Add()([a, b])))
    model = keras.Model(image, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x)))
    generator = np.random.default_rng(3)
    for variable in model.variables:
        variable.assign(np.abs(generator.normal(0.5, 0.4, variable.shape)) + 0.1)
    return model


def loss_of(model, images, labels):
    logits = keras.ops.convert_to_numpy(model(images, training=False)).astype("float64")
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels])


def test_taylor_is_the_squared_slope_of_the_loss_along_all_parameters_of_a_channel():
    """Against finite differences: all the channel's parameters are scaled together, in both layers and the norm."""
    model = residual_of_two()
    generator = np.random.default_rng(0)
    images, labels = generator.normal(size=(10, 4, 4, 2)).astype("float32"), generator.integers(0, 4, 10)
    own = [model.get_layer("a").kernel, model.get_layer("a").bias, model.get_layer("b").kernel]
    own += [model.get_layer("b").bias, model.get_layer("bn").gamma, model.get_layer("bn").beta]
    expected = np.zeros(3)
    for channel in range(3):
        for part in (slice(0, 4), slice(4, 8)):  # The last two images are no whole batch.
            slope = 0
            for sign in (1, -1):
                values = [variable.numpy() for variable in own]
                for variable, value in zip(own, values, strict=True):
                    scaled = value.copy()
                    scaled[..., channel] *= 1 + sign * 0.01
                    variable.assign(scaled)
                slope += sign * loss_of(model, images[part], labels[part]) / 0.02
                for variable, value in zip(own, values, strict=True):
                    variable.assign(value)
            expected[channel] += slope**2 / 2
    scores = scores_of(model, raw("taylor"), data=CalibrationData(images, labels, batch_size=4))
    np.testing.assert_allclose(scores, expected, rtol=0.02)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_taylor_of_a_single_output(activation):
    image = keras.Input((3,))
    x = layers.Dense(2, use_bias=False, name="a")(image)
    model = keras.Model(image, layers.Dense(1, use_bias=False, activation=activation, name="odds")(x))
    model.get_layer("a").set_weights([np.array([[1, 0], [0, 1], [0, 0]], "float32")])
    model.get_layer("odds").set_weights([np.array([[0.5], [-1]], "float32")])
    # One image (1, 2, 0) of class 1: z = -1.5, and the loss falls by z's slope 1 - sigmoid(z).
    slope = -1 / (1 + np.exp(-1.5))
    data = (np.array([[1, 2, 0]], "float32"), np.array([1]))
    np.testing.assert_allclose(
        scores_of(model, raw("taylor"), data=data), [(0.5 * slope) ** 2, (2 * slope) ** 2], rtol=1e-4
    )


def test_frozen_layers_have_no_gradients(messages):
    model = made("plain")
    model.get_layer("a").trainable = False
    model.layers[2].trainable = False  # Its batch norm.
    data = some_data(model)
    scores = Planner(model, importance="taylor", data=data).scores
    np.testing.assert_array_equal(scores["a"], scores_of(model, "l1"))
    assert "all layers of 'a' are frozen" in messages()
    assert not np.allclose(scores["b"], scores_of(model, "l1", group="b"))
    assert not model.get_layer("a").trainable


# ------------------------------------------------------------------ groups


def test_positions_of_a_channel_are_averaged_and_those_of_others_left_out():
    settings = ImportanceSettings(normalisation="none")
    part = MemberScores(np.array([0, 1, -1, 1, 0]), np.array([1.0, 2, 100, 4, 3]))
    np.testing.assert_allclose(combine(2, [part], settings), [2, 3])


@pytest.mark.parametrize(
    ("reduction", "normalisation", "expected"),
    [
        ("mean", "none", [(1 + 10) / 2, 3, 20]),
        ("max", "none", [10, 3, 20]),
        ("first", "none", [1, 3, 20]),
        ("mean", "mean", [(1 / 2 + 10 / 15) / 2, 3 / 2, 20 / 15]),
        ("max", "max", [1 / 2, 1, 1]),
        ("first", "sum", [1 / 4, 3 / 4, 20 / 30]),
    ],
)
def test_reduction_and_normalisation(reduction, normalisation, expected):
    # The first member holds channels 0 and 1, the second 0 and 2.
    parts = [
        MemberScores(np.array([0, 1]), np.array([1.0, 3])),
        MemberScores(np.array([-1, 0, 2]), np.array([7.0, 10, 20])),
    ]
    settings = ImportanceSettings(reduction=reduction, normalisation=normalisation)
    np.testing.assert_allclose(combine(3, parts, settings), expected)


def test_layers_of_nothing_but_zeros_score_zero():
    for normalisation in ("mean", "max", "sum", "none"):
        settings = ImportanceSettings(normalisation=normalisation)
        np.testing.assert_array_equal(combine(2, [MemberScores(np.arange(2), np.zeros(2))], settings), [0, 0])


def test_reduction_settings_reach_the_measure():
    model = two_convs()
    first = ImportanceSettings("l1", reduction="first", normalisation="none")
    largest = ImportanceSettings("l1", reduction="max", normalisation="none")
    np.testing.assert_allclose(scores_of(model, first), [1, 2, 3, 4])
    np.testing.assert_allclose(scores_of(model, largest), [40, 2, 3, 10])


def test_positions_of_grouped_convolutions_count_for_their_channel():
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(8, 1, name="a")(image)
    x = layers.Conv2D(8, 1, groups=2, name="grouped")(x)
    model = keras.Model(image, head(layers.Flatten()(layers.Conv2D(5, 1, name="last")(x))))
    for importance in IMPORTANCES:
        planner = Planner(model, importance=importance, data=some_data(model))
        for group in planner.groups:
            assert planner.scores[group.name].shape == (group.size,)
            assert np.isfinite(planner.scores[group.name]).all()


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_every_importance_scores_every_group(name):
    if keras.backend.backend() == "jax" and name in ("raw_spatial_operations", "words"):
        pytest.skip("Keras 3.15 cannot run the model under JAX: strided raw pooling, attention with narrower values")
    model = made(name)
    for importance in IMPORTANCES:
        if importance in OF_GRADIENTS and len(model.outputs) > 1:
            continue  # They need one output.
        if importance in OF_GRADIENTS - {"taylor", "grasp"}:
            continue  # They share with these two whatever the topology matters to.
        planner = Planner(model, importance=importance, data=some_data(model))
        for group in planner.groups:
            scores = planner.scores[group.name]
            assert scores.shape == (group.size,), (importance, group.name)
            assert np.isfinite(scores).all(), (importance, group.name)
            assert (scores >= 0).all() or importance in SIGNED, (importance, group.name)


@pytest.mark.parametrize("name", ["residual", "growing_concatenation"])
def test_same_seed_same_scores(name):
    model = made(name)
    for importance in IMPORTANCES:
        first, second = (Planner(model, importance=importance, seed=4, data=some_data(model)).scores for _ in range(2))
        for group, scores in first.items():
            np.testing.assert_array_equal(second[group], scores, err_msg=f"{importance}: {group}")


def with_dead_channel():
    """Channel 2 of the group `a` is zero wherever it is made: in both convolutions and in the batch norm."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    a = layers.Conv2D(6, 3, padding="same", name="a")(image)
    b = layers.Conv2D(6, 3, padding="same", name="b")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(layers.Add()([a, b])))
    x = layers.Concatenate()([x, layers.Conv2D(4, 1, name="c")(image)])
    model = keras.Model(image, head(layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, name="d")(x))))
    generator = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(np.abs(generator.normal(0.5, 0.3, variable.shape)) + 0.05)
    for layer, names in (("a", ("kernel", "bias")), ("b", ("kernel", "bias")), ("bn", ("gamma", "beta"))):
        for name in names:
            variable = getattr(model.get_layer(layer), name)
            value = variable.numpy()
            value[..., 2] = 0
            variable.assign(value)
    return model


@pytest.mark.parametrize("importance", sorted(set(IMPORTANCES) - {"random", "fpgm"} - SIGNED))
def test_a_dead_channel_goes_first(importance):
    model = with_dead_channel()
    scores = scores_of(model, importance, data=some_data(model))
    assert scores[2] == 0
    assert (np.delete(scores, 2) > 0).all()
    kept = make_plan(model, {"a": 0.8}, importance=importance, multiple_of=1, data=some_data(model)).kept["a"]
    assert 2 not in kept


def test_repeated_filters_go_first_by_fpgm():
    kernel = np.random.default_rng(0).normal(size=(20, 8))
    kernel[:, [1, 4, 6]] = kernel[:, [1]]
    assert set(np.argsort(scores_of(one_conv(kernel), "fpgm"))[:3]) == {1, 4, 6}
    assert set(np.argsort(scores_of(one_conv(kernel), "l2"))[:3]) != {1, 4, 6}


# ------------------------------------------------------------------ settings


def test_every_importance_has_a_config_that_can_be_read():
    files = {path.stem: path for path in (ROOT / "conf" / "importance").glob("*.yaml")}
    assert set(files) == set(IMPORTANCES)
    for name, path in files.items():
        assert from_config(OmegaConf.load(path), ImportanceSettings) == ImportanceSettings(name)
        read = {option.name for option in list_options(SearchSettings) if option.is_read_by(name)}
        assert ("importance.images" in read) == (name in DATA_DRIVEN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "median"}, "importance.reduction must be one of mean, max, first. Received: median"),
        ({"normalisation": "l2"}, "importance.normalisation must be one of mean, max, sum, none. Received: l2"),
        ({"images": 0}, "importance.images must be 1 or more. Received: 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        ImportanceSettings(**options)


@pytest.mark.parametrize("importance", sorted(DATA_DRIVEN))
def test_a_measure_without_its_data_says_what_to_give(importance):
    with pytest.raises(PlanError, match=rf"'{importance}' is read from data: give data=.*Received: data=None"):
        make_plan(made("plain"), 0.5, importance=importance)
