"""RepOptimizers (Ding et al., 2022, arXiv 2205.15242) against the blocks of branches that they stand for.

The blocks are written out here as three convolutions, trained by Keras's own optimisers: a plain network has to stay
equal to them. Weight decay of SGD is, in the blocks, Keras's L2 penalty, whose gradient is the weight.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from autoprune.comparison.controls import ScratchTrainer
from autoprune.cost import open_cost_model
from autoprune.errors import ModelError, SettingsError
from autoprune.models import zoo
from autoprune.models.files import save_model
from autoprune.planning import Planner, make_plan
from autoprune.planning.plan_file import save_plan
from autoprune.records import Evaluation, Target
from autoprune.records.plain import read_json
from autoprune.settings import (
    Constraints,
    DataSettings,
    FinetuneSettings,
    ModelSettings,
    SearchSettings,
    TrainingSettings,
)
from autoprune.surgery import Surgeon, apply_plan
from autoprune.training.finishing import Finisher
from autoprune.training.hyper_search import find_scales, reparameterize
from autoprune.training.reparameterization import (
    CoupledSGD,
    KernelScales,
    RepAdamW,
    RepSGD,
    constant_scales,
    keep_channels,
    scales_from_json,
)
from autoprune.training.starting import StartFiles, load_start
from autoprune.training.training import Training

WIDTHS = (6, 6, 8)  # The second has an identity branch.
NAMES = ("a", "b", "c")
DECAY = 0.1
# Small networks take longer to trace than to train.
RUN = {"jit_compile": True} if keras.backend.backend() == "jax" else {"run_eagerly": True, "jit_compile": False}


class Branches(layers.Layer):
    """s * conv3x3(x) + t * conv1x1(x) + a * x, where `identity` says which inputs are added to which outputs."""

    def __init__(self, s, t, identity, penalty, stride, **named):
        super().__init__(**named)
        self.s, self.t, self.mask, self.penalty, self.stride = s, t, identity.astype("float32"), penalty, stride

    def build(self, shape):
        def weight(name, *of):
            l2 = keras.regularizers.L2(self.penalty / 2) if self.penalty else None
            return self.add_weight(shape=of, name=name, regularizer=l2)

        inputs, outputs = self.mask.shape
        self.conv3x3, self.conv1x1 = weight("conv3x3", 3, 3, inputs, outputs), weight("conv1x1", 1, 1, inputs, outputs)
        self.factor = weight("factor", outputs) if self.mask.any() else None

    def call(self, x):
        y = ops.multiply(self.s, ops.conv(x, self.conv3x3, self.stride, "same"))
        # Of odd images the window's centre is the first pixel, and every other one, at stride 2.
        y = y + ops.multiply(self.t, ops.conv(x, self.conv1x1, self.stride, "same"))
        if self.factor is not None:
            y = y + self.factor * ops.matmul(x, self.mask)
        return y


def network(convolution, penalty=0.0, widths=WIDTHS):
    """Three convolutions, each normalised, of which the last has stride 2."""
    l2 = keras.regularizers.L2(penalty / 2) if penalty else None
    x = image = keras.Input((7, 7, 3))
    for name, width in zip(NAMES, widths, strict=True):
        x = convolution(name, width, 2 if name == "c" else 1)(x)
        x = layers.BatchNormalization(beta_regularizer=l2, gamma_regularizer=l2, name=f"{name}_bn")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(4, kernel_regularizer=l2, bias_regularizer=l2, name="out")(x)
    return keras.Model(image, outputs, name="net")


def plain(widths=WIDTHS):
    def convolution(name, width, stride):
        return layers.Conv2D(width, 3, stride, "same", use_bias=False, name=name)

    return network(convolution, widths=widths)


def with_branches(scales, penalty):
    def convolution(name, width, stride):
        of = scales[name]
        identity = np.zeros((of.inputs, len(of.identity)), bool)
        for output, read in enumerate(of.identity):
            identity[read, output] = read >= 0
        return Branches(of.conv3x3, of.conv1x1, identity, penalty, stride, name=name)

    return network(convolution, penalty, [len(scales[name].conv3x3) for name in NAMES])


def random_scales():
    """Of the plain network, another one for each channel."""
    generator = np.random.default_rng(0)
    found = {}
    for name, of in constant_scales(plain()).items():
        s, t = generator.uniform(0.5, 1.5, (2, len(of.conv3x3))).astype("float32")
        found[name] = KernelScales(s, t, of.identity, of.inputs)
    assert [of.identity.max() for of in found.values()] == [-1, 5, -1]
    return found


def merged(twin, scales):
    """Weights of the plain network that the branches are."""
    weights = []
    for layer in twin.layers:
        found = layer.get_weights()
        if layer.name in NAMES:
            conv3x3, conv1x1, *factor = found
            of = scales[layer.name]
            kernel = of.conv3x3 * conv3x3
            kernel[1, 1] += of.conv1x1 * conv1x1[0, 0]
            for output, read in enumerate(of.identity):
                if read >= 0:
                    kernel[1, 1, read, output] += factor[0][output]
            found = [kernel]
        weights += found
    return weights


def pair(scales, penalty):
    """A network with branches, and the plain one that begins as its equal."""
    keras.utils.set_random_seed(0)
    twin, model = with_branches(scales, penalty), plain()
    for name in NAMES:
        conv3x3, conv1x1, *factor = twin.get_layer(name).get_weights()
        twin.get_layer(name).set_weights([conv3x3, conv1x1, *map(np.ones_like, factor)])
        model.get_layer(name).set_weights([scales[name].merge(conv3x3, conv1x1)])
    model.get_layer("out").set_weights(twin.get_layer("out").get_weights())
    images = batches(1)[0]
    np.testing.assert_allclose(model.predict(images, verbose=0), twin.predict(images, verbose=0), atol=1e-5)
    return twin, model


def by_path(model, scales):
    return {model.get_layer(name).kernel.path: of for name, of in scales.items()}


def batches(steps, seed=1):
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(16 * steps, 7, 7, 3)).astype("float32")
    return images, (images.mean((1, 2)) @ generator.normal(size=(3, 4)) * 5).astype("float32")


def fit(model, steps, seed=1):
    model.fit(*batches(steps, seed), batch_size=16, shuffle=False, verbose=0)


def compile_with(model, optimizer):
    model.compile(optimizer, "mean_squared_error", **RUN)


def difference(found, wanted):
    """Relative, of all weights that have learnt."""
    found, wanted = (np.concatenate([weight.ravel() for weight in weights]) for weights in (found, wanted))
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def values(variables):
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_of_a_plain_network_is_sgd_of_the_branches(nesterov):
    scales = random_scales()
    twin, model = pair(scales, DECAY)
    start = model.get_weights()
    compile_with(twin, keras.optimizers.SGD(0.02, momentum=0.9, nesterov=nesterov))
    compile_with(
        model, RepSGD(0.02, momentum=0.9, nesterov=nesterov, coupled_decay=DECAY, scales=by_path(model, scales))
    )
    for network in (twin, model):
        fit(network, 50)
    wanted = merged(twin, scales)
    assert difference(start, wanted) > 0.3
    assert difference(model.get_weights(), wanted) < 1e-5


def test_adamw_is_near_that_of_the_branches():
    scales = random_scales()
    twin, model = pair(scales, 0.0)
    start = model.get_weights()
    compile_with(twin, keras.optimizers.AdamW(0.002, weight_decay=DECAY))
    compile_with(model, RepAdamW(0.002, weight_decay=DECAY, scales=by_path(model, scales)))
    for network in (twin, model):
        fit(network, 50)
    wanted = merged(twin, scales)
    assert difference(start, wanted) > 0.05
    assert difference(model.get_weights(), wanted) < 1e-3


def uneven_plan(model):
    return make_plan(model, {"a": 0.5, "b": 0.7, "c": 0.4}, multiple_of=1)


def cut(weights, kept):
    """Weights of a layer whose inputs and outputs are cut."""
    inputs, outputs = kept
    return [weight[..., outputs] if weight.ndim == 1 else weight[(..., *np.ix_(inputs, outputs))] for weight in weights]


def test_pruned_with_its_optimiser_the_network_stays_what_the_pruned_branches_are():
    """Channels that are read as they are, and those that read them, are different ones."""
    scales = random_scales()
    twin, model = pair(scales, DECAY)
    compile_with(twin, keras.optimizers.SGD(0.02, momentum=0.9))
    compile_with(model, RepSGD(0.02, momentum=0.9, coupled_decay=DECAY, scales=by_path(model, scales)))
    for network in (twin, model):
        fit(network, 5)
    surgeon, plan = Surgeon(model), uneven_plan(model)
    a, b, c = (plan.kept[name] for name in NAMES)
    assert 0 < len(set(a) & set(b)) < len(b)
    slices = surgeon.slices(plan)
    dense = [values(model.optimizer.multipliers)[index] for index in (0, 3, 6)]
    assert surgeon.apply(plan).optimizer == "sliced"

    kept = {"a": (range(3), a), "b": (a, b), "c": (b, c), "out": (c, range(4))}
    for name, multiplier in zip(NAMES, dense, strict=True):
        layer = model.get_layer(name)
        index = [variable is layer.kernel for variable in model.trainable_variables].index(True)
        (now,) = values([model.optimizer.multipliers[index]])
        assert now.shape == tuple(layer.kernel.shape)
        np.testing.assert_array_equal(now, multiplier[(..., *np.ix_(*kept[name]))])

    left = keep_channels(scales, slices)
    for name in NAMES:
        np.testing.assert_array_equal(left[name].multiplier(2), scales[name].multiplier(2)[(..., *np.ix_(*kept[name]))])
    smaller = with_branches(left, DECAY)
    compile_with(smaller, keras.optimizers.SGD(0.02, momentum=0.9))
    smaller.optimizer.build(smaller.trainable_variables)
    momenta = dict(zip((v.path for v in twin.trainable_variables), values(twin.optimizer.momentums), strict=True))
    for layer in smaller.layers:
        places = kept.get(layer.name.removesuffix("_bn"))
        if layer.weights:
            layer.set_weights(cut(twin.get_layer(layer.name).get_weights(), places))
    for variable, slot in zip(smaller.trainable_variables, smaller.optimizer.momentums, strict=True):
        places = kept[variable.path.split("/")[0].removesuffix("_bn")]
        slot.assign(cut([momenta[variable.path]], places)[0])
    assert difference(model.get_weights(), merged(smaller, left)) < 1e-5
    before = model.get_weights()
    for network in (smaller, model):
        fit(network, 1, seed=2)
    assert difference(before, model.get_weights()) > 1e-3
    assert difference(model.get_weights(), merged(smaller, left)) < 1e-5


@pytest.mark.parametrize("kind", [RepSGD, RepAdamW])
def test_an_optimiser_is_saved_with_its_multipliers_and_those_of_pruned_kernels(kind, tmp_path):
    model = plain()
    compile_with(model, kind(0.01, scales=by_path(model, random_scales())))
    for prune in (False, True):
        if prune:
            apply_plan(model, uneven_plan(model))
        fit(model, 1)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert type(loaded.optimizer) is kind
        wanted, found = values(model.optimizer.variables), values(loaded.optimizer.variables)
        for before, after in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(before, after)
        for network in (model, loaded):
            network.compile(network.optimizer, "mean_squared_error", **RUN)
            fit(network, 1)
        assert difference(loaded.get_weights(), model.get_weights()) < 1e-6
    fresh = kind.from_config(model.optimizer.get_config())
    fresh.build(model.trainable_variables)
    with pytest.raises(ValueError, match="other shapes than the kernels a/kernel, b/kernel, c/kernel"):
        fresh.apply([keras.ops.zeros(variable.shape) for variable in model.trainable_variables])


def test_coupled_weight_decay_enters_the_momentum():
    weight = keras.Variable([1.0, -2.0])
    optimizer = CoupledSGD(0.1, momentum=0.9, nesterov=True, coupled_decay=0.5)
    wanted, velocity = np.array([1.0, -2.0]), 0.0
    for gradient in (np.array([1.0, 3.0]), np.array([-2.0, 0.5])):
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [weight])
        whole = gradient + 0.5 * wanted
        velocity = 0.9 * velocity + whole
        wanted = wanted - 0.1 * (whole + 0.9 * velocity)
    np.testing.assert_allclose(values([weight])[0], wanted, rtol=1e-6)


# ------------------------------------------------------------------ scales


def test_scales_begin_with_the_depth_in_the_stage():
    model = zoo.build("vgg16", (32, 32, 3), 10, width=0.0625)
    scales = constant_scales(model)
    depths = [round(2 / float(of.conv3x3[0]) ** 2) for of in scales.values()]
    assert depths == [1, 2, 1, 2, 1, 2, 3, 1, 2, 3, 1, 2, 3]
    with_identity = [name for name, of in scales.items() if of.identity.max() >= 0]
    assert with_identity == [*("conv1_2", "conv2_2", "conv3_2", "conv3_3"), *("conv4_2", "conv4_3")] + [
        f"conv5_{number}" for number in (1, 2, 3)
    ]


def test_hyper_search_moves_the_scales_of_every_convolution(digits, monkeypatch):
    keras.utils.set_random_seed(0)
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125)
    before = model.get_weights()
    recipe = TrainingSettings(optimizer="rep_sgd", hyper_search_epochs=1, learning_rate=0.05)
    scales, constant = find_scales(model, digits, recipe, seed=5), constant_scales(model)
    assert list(scales) == [f"conv{stage}_{number}" for stage in (1, 2, 3) for number in (1, 2)]
    for name, of in scales.items():
        assert of.shape == tuple(model.get_layer(name).kernel.shape)
        np.testing.assert_array_equal(of.identity, constant[name].identity)
        for found, first in ((of.conv3x3, constant[name].conv3x3), (of.conv1x1, constant[name].conv1x1)):
            assert np.abs(found - first).mean() > 1e-3
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    monkeypatch.setattr("autoprune.training.hyper_search.train", None)
    again = find_scales(model, digits, recipe, seed=5)  # from the cache
    for name, of in scales.items():
        np.testing.assert_array_equal(again[name].multiplier(2), of.multiplier(2))


def test_layers_that_leave_with_a_branch_have_no_scales_left(digits):
    model = zoo.build("small_resnet", (8, 8, 1), 10, width=0.125)
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    settings = SearchSettings(training=TrainingSettings(optimizer="rep_sgd"))
    trainer = ScratchTrainer(model, planner, digits, cost_model=open_cost_model(Target("cpu", 8)), settings=settings)
    trainer.find_scales()
    branch = next(branch for branch in planner.branches if "stage2_block1_conv2" in branch.layers)
    scales = trainer.scales_of(planner.plan({branch.name: 0}))
    gone = {"stage2_block1_conv1", "stage2_block1_conv2"}
    assert gone <= set(trainer.scales_of(None))
    assert set(scales) == set(trainer.scales_of(None)) - gone
    apply_plan(model, planner.plan({branch.name: 0}))
    reparameterize(model, scales, seed=0)


def test_branches_begin_apart():
    """Also where the network itself was drawn with the same seed."""
    keras.utils.set_random_seed(0)
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.25)
    before = {name: model.get_layer(name).kernel.numpy() for name in constant_scales(model)}
    scales = constant_scales(model)
    reparameterize(model, scales, seed=0)
    for name, of in scales.items():
        if before[name].shape[2] == 1:
            continue
        ones = of.merge(np.zeros(of.shape), np.zeros((1, 1, *of.shape[2:])))[1, 1]
        drawn = model.get_layer(name).kernel.numpy()[1, 1] - of.conv3x3 * before[name][1, 1] - ones
        for row, column in np.ndindex(3, 3):
            assert abs(np.corrcoef(drawn.ravel(), before[name][row, column].ravel())[0, 1]) < 0.3


def test_kernels_begin_as_the_branches_merged(digits):
    keras.utils.set_random_seed(0)
    model = plain()
    scales, before = random_scales(), model.get_layer("b").get_weights()[0]
    reparameterize(model, scales, seed=0)
    (after,) = model.get_layer("b").get_weights()
    beside = np.ones((3, 3), bool)
    beside[1, 1] = False
    np.testing.assert_allclose(after[beside], scales["b"].conv3x3 * before[beside], rtol=1e-6)
    rest = after[1, 1] - scales["b"].conv3x3 * before[1, 1] - np.eye(6)
    drawn = rest / scales["b"].conv1x1
    assert np.abs(drawn).max() <= np.sqrt(6 / 12) + 1e-6  # Glorot's bound for 6 inputs and 6 outputs
    assert np.abs(drawn).std() > 0.1
    with pytest.raises(ModelError, match="no 3x3 convolution"):
        constant_scales(keras.Sequential([keras.Input((4,)), layers.Dense(2)]))


# ------------------------------------------------------------------ training


def training(model, data, **settings):
    return Training(model=model, data=data, settings=TrainingSettings(**settings), epochs=1, learning_rate=0.1, seed=0)


def test_the_settings_choose_the_optimiser_and_adamw_is_the_default(digits):
    model = plain()
    kinds = {}
    for name in ("adamw", "sgd", "rep_sgd", "rep_adamw"):
        kinds[name] = training(model, digits, optimizer=name, weight_decay=0.01).optimizer(10)
    adamw = type(keras.optimizers.AdamW(0.1))  # PyTorch has a class of its own.
    assert [type(found) for found in kinds.values()] == [adamw, CoupledSGD, RepSGD, RepAdamW]
    (default,) = [training(model, digits, weight_decay=0.01).optimizer(10)]
    wanted = keras.optimizers.AdamW(default._learning_rate, weight_decay=0.01, name=default.name).get_config()
    assert type(default) is adamw
    assert default.get_config() == wanted
    for name in ("sgd", "rep_sgd"):
        config = kinds[name].get_config()
        assert (config["momentum"], config["nesterov"]) == (0.9, True)
        assert (config["coupled_decay"], config["weight_decay"]) == (0.01, None)
    assert list(kinds["rep_sgd"].scales) == [f"{name}/kernel" for name in NAMES]
    for wrong in ({"optimizer": "rmsprop"}, {"hyper_search_epochs": 1}, {"optimizer": "sgd", "hyper_search_epochs": 1}):
        with pytest.raises(SettingsError, match=r"training\.(optimizer|hyper_search_epochs)"):
            TrainingSettings(**wrong)


@pytest.mark.parametrize("removal", ["first", pytest.param("dpf", marks=pytest.mark.slow)])
def test_finishing_takes_what_is_left_of_the_dense_scales(digits, removal, monkeypatch):
    keras.utils.set_random_seed(0)
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125)
    epochs = 4 if removal == "dpf" else 2
    recipe = TrainingSettings(
        optimizer="rep_sgd", epochs=1, fine_tune_learning_rate=0.05, fine_tune_epochs=epochs, removal=removal
    )
    dense = constant_scales(model)
    reparameterize(model, dense, seed=0)
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    plan = planner.plan(0.5)
    evaluation = Evaluation(
        key="", keep_ratios=plan.keep_ratios, widths=plan.widths, dropped=plan.dropped, accuracy=0.5, cost=None
    )
    made = []

    class Spy(RepSGD):
        def build(self, variables):
            super().build(variables)
            made.append(dict(zip((v.path for v in variables), values(self.multipliers), strict=True)))

    monkeypatch.setattr("autoprune.training.reparameterization.RepSGD", Spy)
    parts = {"cost_model": open_cost_model(Target("cpu", 8)), "settings": SearchSettings(training=recipe)}
    finisher = Finisher(model, planner, digits, **parts)
    done = finisher.finish("rl", evaluation)
    assert done.training.epochs == done.training.best_epoch == epochs
    assert done.reward_accuracy > 0.3
    reads = {"conv1_1": np.arange(1)}
    for before, after in zip(list(dense), list(dense)[1:], strict=False):
        reads[after] = done.plan.kept[before]
    if removal == "first":  # New weights have them too.
        finisher.undo()
        ScratchTrainer(model, planner, digits, **parts).finish("rl", evaluation, seed=0)
        assert len(made) == 2
    for multipliers in made if removal == "first" else made[-1:]:
        for name, of in dense.items():
            index = (..., *np.ix_(reads[name], done.plan.kept[name]))
            np.testing.assert_array_equal(multipliers[f"{name}/kernel"], of.multiplier(2)[index])


def test_fine_tuning_of_files_begins_with_what_a_plan_leaves_of_the_scales(digits, tmp_path):
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125)
    plan = make_plan(model, 0.5, multiple_of=1)
    save_model(model, tmp_path / "dense.keras")
    save_plan(plan, tmp_path / "chosen.json")
    settings = FinetuneSettings(
        model=ModelSettings("file", path=str(tmp_path / "dense.keras")),
        plan=str(tmp_path / "chosen.json"),
        data=DataSettings(reward_size=0.25),
        training=TrainingSettings(optimizer="rep_sgd", distillation=0.0),
    )
    files = StartFiles(tmp_path)
    pruned = load_start(settings, digits, files)
    found, dense = scales_from_json(read_json(files.scales)), constant_scales(model)
    for before, name in zip([None, *dense], dense, strict=False):
        assert found[name].shape == tuple(pruned.get_layer(name).kernel.shape)
        reads = np.arange(1) if before is None else plan.kept[before]
        wanted = dense[name].multiplier(2)[(..., *np.ix_(reads, plan.kept[name]))]
        np.testing.assert_array_equal(found[name].multiplier(2), wanted)
