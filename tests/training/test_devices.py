"""Training in a process of its own, its batches divided among devices made of this host's processor.

Keras on JAX with `DataParallel` stands for `runtime=tpu`, a loop under `MirroredStrategy` for `runtime=tpu_tf`.
"""

import contextlib
import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.errors import DoesNotFitError, SettingsError
from autoprune.models.config import rebuild
from autoprune.models.files import load_model, save_model
from autoprune.pipeline import finetune
from autoprune.reporting.run_folder import RunFolder
from autoprune.settings import (
    DataSettings,
    FinetuneSettings,
    ModelSettings,
    RuntimeSettings,
    TargetSettings,
    TrainingSettings,
)
from autoprune.training import finetuning
from autoprune.training.checkpoints import Checkpoints
from autoprune.training.device_process import (
    TrainingProcessError,
    environment_for,
    in_precision,
    train_elsewhere,
)
from autoprune.training.starting import StartFiles
from autoprune.training.step_check import check_step
from helpers import running
from helpers.finished_search import finished_search
from helpers.processes import UNOPTIMISED, gone, wait_until

pytestmark = pytest.mark.slow
RECIPE = TrainingSettings(fine_tune_epochs=2, batch_size=64)


@pytest.fixture(autouse=True, scope="module")
def quick_compilations(tmp_path_factory):
    """What one process has compiled the next one finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", UNOPTIMISED)
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def with_norms():
    """Two convolutions, soon compiled."""
    image = keras.Input((8, 8, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(image)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(32, 3, strides=2, use_bias=False)(x)))
    return keras.Model(image, layers.Dense(10, activation="softmax")(layers.Flatten()(x)))


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return finished_search(tmp_path_factory.mktemp("search") / "run", with_norms)


@pytest.fixture(scope="module")
def without_norms(tmp_path_factory):
    """Each device's batch norm would see its own share of a batch; without it the devices make no difference."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.Conv2D(8, 1, strides=2, activation="relu")(x)
    path = tmp_path_factory.mktemp("model") / "plain.keras"
    save_model(keras.Model(image, layers.Dense(10)(layers.Flatten()(x))), path)
    return path


def settings_for(runtime, devices, *, training=RECIPE, precision="float32", at_once=3, **changes):
    data = DataSettings(reward_size=0.25, train_size=400)
    runtime = RuntimeSettings(runtime, precision, at_once, devices)
    target = TargetSettings("tpu_v5e")
    return FinetuneSettings(data=data, training=training, runtime=runtime, target=target, cost=False, **changes)


def of_run(search, *arguments, **options):
    return settings_for(*arguments, run=str(search.path), model=ModelSettings("plain_cnn"), **options)


def of_file(path, *arguments, **options):
    return settings_for(*arguments, model=ModelSettings("file", path=str(path)), **options)


def run(settings, folder):
    return finetune.run(settings, RunFolder.make(folder))


def test_the_number_of_devices_makes_no_difference_on_jax(search, tmp_path):
    """Statistics of batch norm, the mean loss and its gradient are of the whole batch on any number of devices."""
    one, eight = (run(of_run(search, "tpu", count), tmp_path / str(count)) for count in (1, 8))
    np.testing.assert_allclose(eight.record.losses, one.record.losses, rtol=1e-3)
    assert eight.after == pytest.approx(one.after, abs=0.01)
    assert eight.after > eight.before
    log = (tmp_path / "8/training_process/stderr.txt").read_text()
    assert "oneDNN" not in log, "TensorFlow was imported beside JAX"


def test_mixed_precision_learns_from_a_teacher_on_changed_images(search, tmp_path):
    changing = dataclasses.replace(
        RECIPE,
        augmentation="keras",
        augmentation_layers=[{"RandomTranslation": {"height_factor": 0.1, "width_factor": 0.1}}],
    )
    done = run(of_run(search, "tpu", 4, training=changing, precision="mixed_bfloat16"), tmp_path / "run")
    assert done.after > done.before
    model = load_model(tmp_path / "run/finetuned.keras")
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert {str(weight.dtype) for weight in model.get_weights()} == {"float32"}
    assert (tmp_path / "run/teacher.npy").exists()


@pytest.mark.parametrize("runtime", ["tpu", "tpu_tf"])
def test_interrupted_it_goes_on_to_the_same_bits(search, tmp_path, runtime):
    settings = of_run(search, runtime, 2, checkpoint_every=3)
    whole = run(settings, tmp_path / "whole").model.get_weights()

    files = StartFiles(tmp_path / "parts")
    data, folder = finetune.load_data(settings.data, settings.model), RunFolder.make(files.folder)
    model = finetune.load_start(settings, data, files)

    def stop(done, logs):
        if done >= 1.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetuning.fine_tune(model, data, settings, files, stop)
    newest = Checkpoints(files.folder / "checkpoint.safetensors", {}).newest()
    assert (newest.position["epoch"], newest.position["step"]) == (1, 3)
    resumed = run(settings, folder.path)
    assert resumed.record.epochs == 2
    for value, wanted in zip(resumed.model.get_weights(), whole, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_the_number_of_devices_makes_no_difference_under_a_strategy(without_norms, tmp_path):
    """And it is the training that Keras's own loop does."""
    plain = dataclasses.replace(RECIPE, distillation=0.0)
    found = {}
    for runtime, count in (("tpu_tf", 1), ("tpu_tf", 2), ("tpu", 2)):
        settings = of_file(without_norms, runtime, count, training=plain)
        found[runtime, count] = run(settings, tmp_path / f"{runtime}{count}")
    expected = found["tpu", 2]
    for done in found.values():
        np.testing.assert_allclose(done.record.losses, expected.record.losses, rtol=1e-3)
        for value, wanted in zip(done.model.get_weights(), expected.model.get_weights(), strict=True):
            np.testing.assert_allclose(value, wanted, atol=2e-3)
    assert expected.record.losses[1] < expected.record.losses[0]


def test_the_process_ends_with_the_one_that_started_it(search, tmp_path):
    """Also when that is killed, which frees the devices for what goes on."""
    options = (f"run={search.path}", "runtime=tpu", "runtime.rehearse=1", "training.fine_tune_epochs=200")
    options += ("training.epochs=200", "cost=false")
    process = running.started(*options, module="finetune", cwd=tmp_path)
    workers = []

    def at_work():
        workers[:] = children_of(process.pid)
        return list(tmp_path.glob("outputs/finetune/*/*/checkpoint.safetensors"))

    running.kill_after(process, at_work)
    (worker,) = workers
    assert wait_until(lambda: gone(worker), 20)


def children_of(process_id):
    """Ids of the training processes that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (folder / "status").read_text()
            if f"PPid:\t{process_id}\n" in status and "device_worker" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


# ------------------------------------------------------------------ what goes wrong


def test_a_step_that_does_not_fit_is_refused_before_the_first_one(search):
    huge = dataclasses.replace(RECIPE, batch_size=400_000_000)
    with pytest.raises(DoesNotFitError, match="100000000 images on each device need .* GiB of the 15"):
        check_step(load_model(search.pruned), of_run(search, "tpu", 4, training=huge), None, 4)


def test_a_batch_that_cannot_be_shared_is_refused(search, tmp_path):
    with pytest.raises(SettingsError, match="batch_size must be a multiple of the 3 devices that share it, such as 63"):
        run(of_run(search, "tpu", 3), tmp_path)


def test_a_process_that_dies_leaves_its_last_words(tmp_path):
    seen = []
    with pytest.raises(TrainingProcessError, match="The training process died before .*KeyError: 'training'"):
        train_elsewhere({}, RuntimeSettings("tpu", "float32", 1, 1), tmp_path, seen.append, None)
    assert (seen[0].count, seen[0].kind) == (1, "cpu")


def test_environment_of_the_process(monkeypatch):
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=8")
    attached = environment_for(RuntimeSettings("tpu", "float32"), "/scratch")
    assert "ALLOW_MULTIPLE_LIBTPU_LOAD" not in attached
    assert (attached["KERAS_BACKEND"], attached["JAX_PLATFORMS"]) == ("jax", "tpu,cpu")
    rehearsal = environment_for(RuntimeSettings("tpu", "float32", 1, 4), "/scratch")
    assert rehearsal["JAX_PLATFORMS"] == "cpu"
    assert rehearsal["XLA_FLAGS"].split() == [
        "--xla_cpu_enable_fast_math=false",
        "--xla_force_host_platform_device_count=4",
    ]
    assert environment_for(RuntimeSettings("tpu_tf", "float32"), "/scratch")["KERAS_BACKEND"] == "tensorflow"


def test_a_copy_in_mixed_precision_gives_float32(search):
    model = load_model(search.dense)
    copy = rebuild(in_precision(model, "mixed_bfloat16"), [])
    copy.set_weights(model.get_weights())
    policies = [layer.dtype_policy.name for layer in copy.layers]
    assert policies[-1] == "float32"
    assert set(policies[1:-1]) == {"mixed_bfloat16"}
    images = np.random.default_rng(0).random((4, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(copy(images), model(images), atol=0.05)
    assert json.dumps(model.get_config()) == json.dumps(load_model(search.dense).get_config())
