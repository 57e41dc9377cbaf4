"""A step of training by the real TPU compiler: memory that can be computed by hand, slices, and what does not fit."""

import keras
import pytest
from keras import layers

from autoprune import training_step_cost
from autoprune.cost.chips import CHIPS
from autoprune.cost.compiler.training_step import device_counts
from autoprune.errors import CostError, SettingsError, TargetError
from helpers.topologies import made

# One scalar takes a tile of 128 numbers of 4 bytes.
SCALAR = 512
# Kernel 203x203 in tiles of 8x128, whichever axis is minor, and a bias of 203: float32.
DENSE = (208 * 256 + 256) * 4


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cache for all tests that do not look at a cache: what several of them ask for is compiled once."""
    return tmp_path_factory.mktemp("costs") / "costs.sqlite"


@pytest.fixture
def step_of(compiler, shared):
    def step(model, target="tpu_v5e", batch_size=8, dtype="bfloat16", **options):
        return training_step_cost(model, target, batch_size, dtype, client=compiler, **{"cache": shared, **options})

    return step


def dense():
    image = keras.Input((203,))
    return keras.Model(image, layers.Dense(203)(image))


def two_inputs():
    image, number = keras.Input((8, 8, 2), name="image"), keras.Input((4,), name="number")
    x = layers.Conv2D(8, 3, padding="same")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    x = layers.Concatenate()([x, layers.Dense(8)(number)])
    return keras.Model({"image": image, "number": number}, layers.Dense(1, activation="sigmoid")(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 3), ("sgd", 1)])
def test_state_is_weights_slots_and_counters(step_of, dtype, optimizer, copies):
    """AdamW keeps two slots for each weight; weights and slots are float32 in mixed precision too."""
    report = step_of(dense(), dtype=dtype, optimizer=optimizer)
    # The optimiser counts steps and holds its learning rate.
    assert report.memory.state == copies * DENSE + 2 * SCALAR
    assert (report.devices, report.chips, report.global_batch_size) == (1, 1, 8)
    assert report.communicated == 0
    assert report.optimizer == optimizer
    assert report.kind == "compiler estimate"


def test_figures_belong_together(step_of):
    report = step_of(made("plain"))
    memory = report.memory
    assert report.fits
    assert memory.total == memory.state + memory.activations + memory.code == report.needed
    assert 0 < report.needed < report.capacity
    assert report.latency >= report.latency_sum * (1 - 1e-9) > 0
    assert 0.9 < report.capacity / CHIPS["tpu_v5e"].hbm < 1.1
    assert "not in the latency" in report.provenance["communication"]
    assert report.parameters == made("plain").count_params()


def test_larger_batch_takes_more_memory_and_the_same_state(step_of):
    small, large = (step_of(made("plain"), "tpu_v3", batch_size=size) for size in (8, 512))
    assert large.memory.activations > 2 * small.memory.activations
    assert large.memory.state == small.memory.state
    assert large.latency > small.latency


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1), ("bfloat16", 0.5)])
def test_devices_of_a_slice_exchange_gradients(step_of, dtype, share):
    """Mixed precision sums gradients in bfloat16; the loss, one number, is summed beside them."""
    report = step_of(dense(), dtype=dtype, devices=4)
    assert report.communicated == share * DENSE + SCALAR
    assert report.memory.state == 3 * DENSE + 2 * SCALAR
    assert (report.devices, report.chips, report.global_batch_size) == (4, 4, 32)
    assert report.provenance["topology"] == "v5e:2x2"


def test_larger_slices_and_cores_of_a_chip(step_of):
    assert device_counts("tpu_v5e") == [1, 4, 16, 64, 256]
    assert device_counts("tpu_v3")[:3] == [1, 2, 8]
    large = step_of(dense(), devices=16)
    assert (large.chips, large.provenance["topology"]) == (16, "v5e:4x4")
    core, chip = step_of(dense(), "tpu_v3"), step_of(dense(), "tpu_v3", devices=2)
    assert (core.chips, core.communicated) == (0.5, 0)
    # Tiles of bfloat16 vectors are larger there.
    assert (chip.chips, chip.communicated) == (1, pytest.approx(DENSE / 2 + SCALAR, rel=0.02))
    # Each of two cores has half of a chip's memory.
    assert core.capacity == chip.capacity < 0.55 * CHIPS["tpu_v3"].hbm


@pytest.mark.parametrize("target", list(CHIPS))
def test_every_generation_on_its_smallest_slice(step_of, target):
    model = made("plain")
    devices = min(CHIPS[target].slices)
    report = step_of(model, target, devices=devices)
    assert report.fits
    assert report.chips == 4
    # Gradients at half precision, with tiles that small kernels do not fill.
    assert report.communicated >= 2 * sum(v.shape.num_elements() for v in model.trainable_variables)


@pytest.mark.parametrize("devices", [1, 4])
def test_step_that_does_not_fit_is_an_answer(step_of, compiler, tmp_path, devices):
    cache = tmp_path / "costs.sqlite"
    report = step_of(made("residual"), batch_size=30_000_000, devices=devices, cache=cache)
    assert not report.fits
    assert report.needed > report.capacity
    assert report.capacity == step_of(dense()).capacity
    assert (report.latency, report.latency_sum, report.memory, report.communicated) == (None,) * 4
    before = compiler.answers
    assert step_of(made("residual"), batch_size=30_000_000, devices=devices, cache=cache) == report
    assert compiler.answers == before


@pytest.mark.parametrize("devices", [1, 4])
def test_several_inputs_dropout_and_batch_norm(step_of, devices):
    report = step_of(two_inputs(), devices=devices)
    assert report.fits
    assert (report.communicated > 0) == (devices > 1)


@pytest.mark.parametrize("name", ["plain", "nested", "squeeze_excite", "flatten_head"])
def test_models_of_many_kinds(step_of, name):
    assert step_of(made(name)).latency > 0


def test_frozen_layers_have_no_slots_and_regularisers_count(step_of, compiler, tmp_path):
    """Neither is part of the architecture's fingerprint; both change the step, and so its place in the cache."""
    cache = tmp_path / "costs.sqlite"

    def model(frozen=False, penalty=None):
        image = keras.Input((203,))
        x = layers.Dense(203, trainable=not frozen, kernel_regularizer=penalty)(image)
        return keras.Model(image, layers.Dense(203)(x))

    free, frozen = step_of(model(), cache=cache), step_of(model(frozen=True), cache=cache)
    assert free.memory.state - frozen.memory.state == 2 * DENSE
    before = compiler.answers
    step_of(model(penalty="l2"), cache=cache)
    assert compiler.answers == before + 1
    assert step_of(model(), cache=cache) == free
    assert compiler.answers == before + 1


def test_every_condition_is_part_of_the_key(step_of, compiler, tmp_path):
    cache = tmp_path / "costs.sqlite"
    variants = [
        {},
        {"batch_size": 16},
        {"dtype": "float32"},
        {"devices": 4},
        {"optimizer": "sgd"},
        {"target": "tpu_v3"},
    ]
    before = compiler.answers
    first = [step_of(dense(), cache=cache, **variant) for variant in variants]
    assert compiler.answers == before + len(variants)
    assert [step_of(dense(), cache=cache, **variant) for variant in variants] == first
    assert compiler.answers == before + len(variants)


def test_what_cannot_be_asked(step_of):
    with pytest.raises(TargetError, match="for a TPU by name, such as tpu_v5e. Received: target=cpu"):
        step_of(dense(), "cpu")
    with pytest.raises(
        SettingsError, match="no slice of 3 devices of tpu_v3. Known: 1, 2, 8, 32, 128, 512; a device is"
    ):
        step_of(dense(), "tpu_v3", devices=3)
    with pytest.raises(SettingsError, match="Keras knows no optimizer 'adamv'"):
        step_of(dense(), optimizer="adamv")
    image = keras.Input((4,))
    with pytest.raises(CostError, match="with one output; 'twins' has 2"):
        step_of(keras.Model(image, [layers.Dense(2)(image), layers.Dense(2)(image)], name="twins"))
    image = keras.Input((None, 3))
    with pytest.raises(CostError, match="depends on its input size, which is not fixed"):
        step_of(keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling1D()(image))))
