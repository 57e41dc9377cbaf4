"""Files of models, known by what they hold: read, cured, or refused with a way out that works.

`keras2/functional.*` was written by Keras 2.13.1: two convolutions of one shape side by side, names with a slash, a
Sequential model inside, and layers with arguments that Keras 3 has no more.
"""

import json
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import autoprune
from autoprune.cost import open_cost_model
from autoprune.errors import ModelError
from autoprune.models.files import load_model, save_model
from autoprune.records import Target
from autoprune.settings import ModelSettings
from helpers.running import run_in

OLD = Path(__file__).parent / "keras2"
IMAGES = np.random.default_rng(0).standard_normal((2, 6, 6, 2)).astype("float32")


def network(*between):
    """A small network, with layers in its middle."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="first")(image)
    for layer in between:
        x = layer(x)
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def outputs(model, images=IMAGES):
    return keras.ops.convert_to_numpy(model(images, training=False))


def rewritten(source, path, changes):
    """An archive with some of its files changed by functions of their content; None removes them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = changes.get(name, lambda content: content)(old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_of_keras_2_gives_what_it_gave_there(suffix):
    stored = np.load(OLD / "functional.npz")
    assert np.ptp(stored["outputs"], axis=0).min() > 1e-3
    model = load_model(OLD / f"functional{suffix}")
    np.testing.assert_allclose(outputs(model, stored["images"]), stored["outputs"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("written", "called"), [("m.h5", "m.keras"), ("m.h5", "m.bin"), ("m.keras", "m.zip")])
def test_the_name_of_a_file_says_nothing(tmp_path, written, called):
    model = network()
    model.save(tmp_path / written)
    (tmp_path / written).rename(tmp_path / called)
    np.testing.assert_array_equal(outputs(load_model(tmp_path / called)), outputs(model))


def test_weights_in_hdf5_go_to_layers_by_name(tmp_path):
    """Another version may count layers of one model in another order."""
    model = network(layers.Conv2D(4, 1, name="second"), layers.Conv2D(4, 1, name="third"))
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        names = list(file["model_weights"].attrs["layer_names"])
        second, third = (names.index(name) for name in ("second", "third"))
        names[second], names[third] = names[third], names[second]
        file["model_weights"].attrs["layer_names"] = names
    np.testing.assert_array_equal(outputs(load_model(tmp_path / "m.h5")), outputs(model))


FOUND_INSTEAD = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS .* git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html></html>", "is a web page .* Download the file itself"),
    "empty": (b"", "is empty. Fetch it again"),
    "text": (b"hello", r"of no format that Keras reads. Save the model with model.save\('name.keras'\)"),
}


@pytest.mark.parametrize("kind", FOUND_INSTEAD)
def test_what_is_no_model_is_named(tmp_path, kind):
    content, message = FOUND_INSTEAD[kind]
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "m.keras")


def test_archives_folders_and_weights_that_are_no_model_are_named(tmp_path):
    np.savez(tmp_path / "arrays.keras.npz", x=1)
    with pytest.raises(ModelError, match=r"zip archive, but not a .keras archive: it holds x.npy"):
        load_model(tmp_path / "arrays.keras.npz")
    model = network()
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ModelError, match="holds weights alone. Build the model, load them with model.load_weights"):
        load_model(tmp_path / "m.weights.h5")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/saved_model.pb").touch()
    with pytest.raises(
        ModelError, match="is a folder, a SavedModel, which has no layers any more. Save the model with"
    ):
        load_model(tmp_path / "saved")
    model.save(tmp_path / "m.keras")
    content = (tmp_path / "m.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    model.save(tmp_path / "m.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "m.h5").read_bytes()[:1000])
    # A part is packed in a way that there is not.
    directory = content.index(b"PK\x01\x02")
    (tmp_path / "packed.keras").write_bytes(content[: directory + 10] + b"\x77\x00" + content[directory + 12 :])
    for name in ("cut.keras", "cut.h5", "packed.keras"):
        with pytest.raises(ModelError, match=f"{name}' is damaged, or not whole"):
            load_model(tmp_path / name)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_in_a_file_runs_only_if_that_is_said(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    model = network(layers.Lambda(lambda x: x / 2, name="half"))
    model.save(path)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert "holds code: the function of its Lambda layer 'half'" in str(caught.value)
    assert "model.safe_mode=false" in str(caught.value)
    assert "enable_unsafe_deserialization" not in str(caught.value)
    np.testing.assert_array_equal(outputs(load_model(path, ModelSettings("file", safe_mode=False))), outputs(model))


def test_what_keras_3_lacks_is_named_with_the_version_and_the_way_out(tmp_path):
    graph = rewritten(
        OLD / "functional.keras",
        tmp_path / "graph.keras",
        {"config.json": lambda text: text.replace(b'"class_name": "ReLU"', b'"class_name": "TFOpLambda"')},
    )
    with pytest.raises(
        ModelError, match=r"Keras 2.13.1 has written it with TensorFlow functions .*'re_lu.*set_weights"
    ):
        load_model(graph)
    major = rewritten(
        OLD / "functional.keras",
        tmp_path / "major.keras",
        {"config.json": lambda text: text.replace(b'"time_major": false', b'"time_major": true')},
    )
    with pytest.raises(ModelError, match=r"Keras 2.13.1 has written it, and Keras 3 says: .*time_major.*set_weights"):
        load_model(major)

    def without_a_layer(content):
        (tmp_path / "w.h5").write_bytes(content)
        with h5py.File(tmp_path / "w.h5", "r+") as file:
            del file["_layer_checkpoint_dependencies/dense"]
        return (tmp_path / "w.h5").read_bytes()

    partial = rewritten(OLD / "functional.keras", tmp_path / "part.keras", {"model.weights.h5": without_a_layer})
    with pytest.raises(ModelError, match=r"it has \d+ weights for the \d+ of its layers"):
        load_model(partial)


# ------------------------------------------------------------------ modules of one's own

SOURCE = """
import keras
from own_helper_of_files import FACTOR

import autoprune


@keras.saving.register_keras_serializable("own")
class Scaled(keras.layers.Layer):
    def call(self, x):
        return x * FACTOR


@autoprune.layer_kind(Scaled)
class ScaledKind(autoprune.LayerKind):
    flops = 0

    def channels(self, call):
        return call.channels[0]
"""


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """A folder with a module, another one that it imports, and a model with its layer; and the model's outputs."""
    for name in ("own_layers_of_files", "own_helper_of_files"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "own_layers_of_files.py").write_text(SOURCE)
    (tmp_path / "own_helper_of_files.py").write_text("FACTOR = 3.0")
    path = list(sys.path)
    monkeypatch.syspath_prepend(tmp_path)
    import own_layers_of_files

    model = network(own_layers_of_files.Scaled())
    expected = outputs(model)
    save_model(model, tmp_path / "own.keras")
    del keras.saving.get_custom_objects()["own>Scaled"]
    for name in ("own_layers_of_files", "own_helper_of_files"):
        monkeypatch.delitem(sys.modules, name)
    sys.path[:] = path
    yield tmp_path, expected
    keras.saving.get_custom_objects().pop("own>Scaled", None)


def settings(folder, *modules):
    return ModelSettings("file", modules=list(modules), modules_from=str(folder))


def test_modules_are_imported_before_the_file_is_loaded(own_file):
    folder, expected = own_file
    path = list(sys.path)
    with pytest.raises(ModelError, match=r"class 'own>Scaled' is not known.*model.modules=\[own_layers_of_files\]"):
        load_model(folder / "own.keras")
    model = load_model(folder / "own.keras", settings(folder, "own_layers_of_files"))
    np.testing.assert_array_equal(outputs(model), expected)
    assert sys.path == path
    groups = {group.name: group for group in autoprune.find_groups(model)}
    assert groups["first"].prunable, "the layer kind in the module was not registered"


def test_modules_that_cannot_be_imported_are_named(own_file):
    folder, _ = own_file
    (folder / "failing_of_files.py").write_text("1 / 0")
    (folder / "json.py").touch()
    for module, message in (
        ("own_helper_of_files", r"is not known, though own_helper_of_files was imported. .*serializable\('own'\)"),
        ("nowhere_of_files", f"There is no module 'nowhere_of_files', neither in '{folder}' nor among .*my_layers.py"),
        ("own_layers_of_files.py", "There is no module 'own_layers_of_files.py'"),
        ("failing_of_files", "'failing_of_files' could not be imported: ZeroDivisionError"),
        ("json", "json.py' cannot be imported as 'json': another module of that name is in use"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model(folder / "own.keras", settings(folder, module))


def test_the_process_of_the_compiler_knows_the_modules_and_the_code(own_file, compiler):
    """It was started before, and the folder is not on its import path."""
    folder, _ = own_file
    model = load_model(folder / "own.keras", settings(folder, "own_layers_of_files"))
    network(layers.Lambda(lambda x: x / 2)).save(folder / "code.keras")
    code = load_model(folder / "code.keras", ModelSettings("file", safe_mode=False))
    cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=compiler, route="keras")
    for found in (model, code):
        assert cost_model.submit(found).result(timeout=300).latency > 0


def test_a_command_is_told_the_modules_of_the_working_folder(own_file):
    folder, _ = own_file
    arguments = ["model=file", "model.path=own.keras", "model.modules=[own_layers_of_files]", "groups=true"]
    run, _ = run_in(folder, *arguments, "target=tpu_v5e", "target.batch_size=8", module="measure")
    (row,) = json.loads((run / "costs.json").read_text())
    assert row["latency"] > 0
    assert "Keras on JAX" in row["provenance"]["route"]
