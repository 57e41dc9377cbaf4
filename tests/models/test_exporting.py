"""A pruned model in other formats: each gives its outputs, or is named as the one that does not."""

import dataclasses
import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest

import autoprune
from autoprune.errors import ExportError, SettingsError, UnknownNameError
from autoprune.models import zoo
from autoprune.models.exporting import Exported, export_model, random_examples
from autoprune.models.exporting.formats import FORMATS
from helpers.topologies import images_for, made

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="converters start from TensorFlow")

NAMES = {"keras": "model.keras", "saved_model": "saved_model", "litert": "model.tflite", "onnx": "model.onnx"}


def pruned(model, ratio=0.5):
    autoprune.apply_plan(model, autoprune.make_plan(model, ratio, multiple_of=1))
    return model


@pytest.fixture
def small():
    keras.utils.set_random_seed(0)
    return pruned(zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125))


@pytest.mark.parametrize("topology", ["residual", "squeeze_excite", "several_inputs_and_outputs"])
def test_every_format_gives_the_outputs_of_the_pruned_model(topology, tmp_path):
    model = pruned(made(topology))
    found = autoprune.export_model(model, tmp_path / "new", tuple(NAMES), examples=images_for(model))
    assert list(found) == list(NAMES)
    for name, exported in found.items():
        assert isinstance(exported, Exported)
        assert exported.path == tmp_path / "new" / NAMES[name]
        files = [exported.path, *exported.path.rglob("*")]
        assert exported.bytes == sum(file.stat().st_size for file in files if file.is_file()) > 1000
        assert 0 <= exported.difference <= 1e-4 * exported.largest
    assert found["keras"].difference == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(NAMES.values())


@pytest.mark.slow
def test_files_are_of_the_pruned_model(small, tmp_path):
    whole = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125)
    sizes = [
        {name: exported.bytes for name, exported in export_model(model, tmp_path / name, NAMES).items()}
        for name, model in (("whole", whole), ("pruned", small))
    ]
    parameters = [model.count_params() for model in (whole, small)]
    for name in ("saved_model", "litert", "onnx"):
        assert sizes[0][name] - sizes[1][name] > 3 * (parameters[0] - parameters[1])


def test_what_was_written_runs_without_autoprune(small, tmp_path):
    found = export_model(small, tmp_path, ["litert"])
    examples = random_examples(small)
    np.save(tmp_path / "in.npy", examples)
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "runner = tf.lite.Interpreter(sys.argv[1]).get_signature_runner()\n"
        "(name,) = runner.get_input_details()\n"
        "np.save(sys.argv[3], next(iter(runner(**{name: np.load(sys.argv[2])}).values())))\n"
        "assert not any(module.startswith('autoprune') for module in sys.modules)\n"
    )
    files = [str(found["litert"].path), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    done = subprocess.run([sys.executable, "-I", "-c", code, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = keras.ops.convert_to_numpy(small(examples, training=False))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-4, atol=1e-6)


def test_a_format_that_deviates_is_named_and_not_kept(small, tmp_path, monkeypatch):
    export_model(small, tmp_path, ["saved_model"])
    before = (tmp_path / "saved_model/saved_model.pb").read_bytes()
    other = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125)
    entry = FORMATS.get("saved_model")
    wrong = dataclasses.replace(entry, write=lambda model, path: entry.write(other, path))
    monkeypatch.setitem(FORMATS._entries, "saved_model", wrong)
    with pytest.raises(ExportError, match=r"The saved_model file deviates from the model: by 0\..* It was not kept"):
        export_model(small, tmp_path, ["keras", "saved_model"])
    # What was there before stays, what was well goes on.
    assert (tmp_path / "saved_model/saved_model.pb").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"saved_model", "model.keras"}
    eleven = zoo.build("plain_cnn", (8, 8, 1), 11, width=0.125)
    wrong = dataclasses.replace(entry, write=lambda model, path: entry.write(eleven, path))
    monkeypatch.setitem(FORMATS._entries, "saved_model", wrong)
    with pytest.raises(ExportError, match=r"saved_model file gives outputs of shape \[\(2, 11\)\], the model of"):
        export_model(small, tmp_path, ["saved_model"])


def test_outputs_that_are_no_numbers_are_no_agreement(small, tmp_path):
    small.set_weights([np.full_like(weight, np.nan) for weight in small.get_weights()])
    with pytest.raises(ExportError, match="The keras file deviates from the model: by nan"):
        export_model(small, tmp_path, ["keras"])


@keras.saving.register_keras_serializable("exporting")
class Flipped(keras.layers.Layer):
    """Augments within, and is not told whether it trains."""

    def __init__(self, **options):
        super().__init__(**options)
        self.flip = keras.layers.RandomFlip()

    def build(self, shape):
        self.flip.build(shape)

    def call(self, images):
        return self.flip(images)


def test_what_is_exported_does_not_augment(tmp_path):
    image = keras.Input((6, 6, 1))
    x = keras.Sequential([keras.layers.RandomRotation(0.5), keras.layers.RandomContrast(0.5)])(image)
    x = keras.layers.GaussianNoise(1.0)(Flipped()(x))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(keras.layers.RandomTranslation(0.4, 0.4)(x)))
    assert set(export_model(keras.Model(image, keras.layers.Dense(3)(x)), tmp_path, NAMES)) == set(NAMES)


def test_onnx_has_the_exact_gelu(tmp_path):
    """TensorFlow writes it as `Erfc`, which ONNX does not know. Far from zero as near it."""
    image = keras.Input((32,))
    model = keras.Model(image, keras.layers.Activation(partial(keras.activations.gelu, approximate=False))(image))
    examples = np.linspace(-12, 12, 64, dtype="float32").reshape(2, 32)
    found = export_model(model, tmp_path, ["onnx"], examples=examples, tolerance=1e-6)
    assert found["onnx"].largest == 12


def test_an_operation_that_onnx_does_not_have_is_named(tmp_path):
    image = keras.Input((4,))
    model = keras.Model(image, keras.ops.erfinv(keras.layers.Activation("sigmoid")(image)), name="inverse")
    with pytest.raises(
        ExportError, match=r"ONNX does not have every .* 'inverse': Erfinv \(in '.*'\).*Export to saved"
    ):
        export_model(model, tmp_path, ["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_a_format_cannot_hold(tmp_path):
    """tf2onnx knows no grouped convolutions."""
    image = keras.Input((8, 8, 4), name="image")
    x = keras.layers.Conv2D(8, 3, groups=2)(image)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(ExportError, match="ONNX does not have every operation.*conv2d"):
        export_model(model, tmp_path, ["litert", "onnx"])
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]


def test_written_again_is_replaced(small, tmp_path):
    first = export_model(small, tmp_path, ["keras", "saved_model"])
    pruned(small)
    second = export_model(small, tmp_path, ["keras", "saved_model"])
    assert all(second[name].bytes < first[name].bytes for name in second)


@pytest.mark.parametrize("missing", ["onnx", "tf2onnx", "onnxruntime"])
def test_a_missing_library_is_named_before_anything_is_written(small, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SettingsError, match=rf'formats=\[onnx\] needs {missing}.*pip install "\.\[onnx\]"'):
        export_model(small, tmp_path / "new", ["keras", "onnx"])
    assert not (tmp_path / "new").exists()


def test_another_backend_writes_keras_only(small, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(SettingsError, match="written by TensorFlow, and Keras runs on jax.*KERAS_BACKEND=tensorflow"):
        export_model(small, tmp_path, ["litert"])
    assert export_model(small, tmp_path, ["keras"])["keras"].difference == 0


def test_an_unknown_format(small, tmp_path):
    with pytest.raises(UnknownNameError, match="no format 'tflite'. Did you mean 'litert'"):
        export_model(small, tmp_path, ["tflite"])


def test_an_open_input_size_needs_examples(tmp_path):
    image = keras.Input((None, None, 1), name="image")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    model = keras.Model(image, keras.layers.Dense(3)(x), name="any_size")
    with pytest.raises(ExportError, match="'any_size' leaves its input size open: .None, None, 1.. Give examples"):
        export_model(model, tmp_path)
    found = export_model(model, tmp_path, examples=random_examples(model, (9, 8, 1)))
    assert set(found) == {"keras", "saved_model", "litert"}


def test_inputs_and_outputs_by_name(tmp_path):
    """In whatever order a format has them."""
    wide, narrow = keras.Input((4,), name="second"), keras.Input((3,), name="first")
    outputs = {"b": keras.layers.Dense(2)(wide), "a": keras.layers.Dense(5)(narrow)}
    model = keras.Model({"second": wide, "first": narrow}, outputs)
    assert set(export_model(model, tmp_path, NAMES)) == set(NAMES)
    many = keras.Model(wide, [keras.layers.Dense(n + 1)(wide) for n in range(12)])
    assert set(export_model(many, tmp_path, ["saved_model", "litert"])) == {"saved_model", "litert"}


def test_a_sequential_model_and_whole_numbers(tmp_path):
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), keras.layers.Embedding(4, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    assert random_examples(model).dtype == np.int32
    assert set(export_model(model, tmp_path)) == {"keras", "saved_model", "litert"}
