"""Reading models of files, which are known by what they hold and not by their names, and writing `.keras` files."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import keras

from autoprune.errors import CORRUPT_ARCHIVE, ModelError
from autoprune.models import keras2
from autoprune.models.config import import_modules
from autoprune.settings import ModelSettings

_AGAIN = "Fetch it again, or save it again with model.save('name.keras')."
_BY_HAND = (
    "Build the same network in Keras 3, from keras.layers and keras.ops; take the weights over with "
    "numpy.savez('weights.npz', *model.get_weights()) where the file can be loaded and model.set_weights here; and "
    "save it with model.save('name.keras')."
)
# Layers of Keras 2 that stand for a TensorFlow function in the graph.
_TENSORFLOW = (
    "TFOpLambda",
    "SlicingOpLambda",
    "ClassMethod",
    "InstanceMethod",
    "InstanceProperty",
    "TensorFlowOpLayer",
)
# How files begin that are taken for models, and what to say of them.
_OTHERS = {
    b"version https://git-lfs": (
        "is the pointer that Git LFS keeps in the place of the file, which was not fetched. In its repository: git lfs "
        "pull. Or download the file itself"
    ),
    b"<": "is a web page or XML: a download that went wrong. Download the file itself",
    b"": "is of no format that Keras reads. Save the model with model.save('name.keras')",
}


def load_model(path: str | Path, settings: ModelSettings | None = None) -> Any:
    """Load a model for pruning, without its optimiser and losses.

    Files of Keras 3 are read, and those of Keras 2 that hold nothing which Keras 3 lacks: `.keras` archives and whole
    models in HDF5, whatever they are called.

    Args:
        path: path of a `.keras` or `.h5` file.
        settings: which modules to import first, and whether code in the file may run; by default none, and no.

    Raises:
        ModelError: the file is missing, is something else, is damaged, or needs code that is not known here.
    """
    path, settings = Path(path), settings or ModelSettings()
    if not path.exists():
        raise ModelError(f"There is no file '{path}'. Name a model with model.path=FILE.keras.")
    import_modules((name, settings.modules_from) for name in settings.modules)
    contents = _read(path)
    lambdas = [name for name, kind in _layers(contents.config) if kind == "Lambda"] if settings.safe_mode else []
    text = json.dumps(contents.config) if lambdas else ""
    # A function in the config itself, not only its name: marshalled, in either form that Keras has.
    if '"__lambda__"' in text or '"function_type": "lambda"' in text:
        raise ModelError(
            f"'{path}' holds code: the function of its Lambda layer '{lambdas[0]}'. To load the file is to run it. If "
            "you trust whoever made the file, say model.safe_mode=false. Safer, and readable in any version of Python: "
            "put a registered layer of your own in its place, and name its module with model.modules=[my_layers]."
        )
    try:
        return contents.load(safe_mode=settings.safe_mode)
    except Exception as error:
        raise ModelError(f"'{path}' could not be loaded: {_explain(contents, settings, error)}") from error


def save_model(model: Any, path: str | Path) -> None:
    """Write a model to a `.keras` file that appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial.keras")
    try:
        model.save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # On a disk that is full it would take the room that is needed to go on.


@dataclass(frozen=True)
class _Contents:
    """What a file holds.

    Attributes:
        config: the model's config, as Keras saves it.
        version: of the Keras that has written it; empty if the file does not say.
        load: makes the model of it.
    """

    config: Any
    version: str
    load: Callable[..., Any]


def _read(path: Path) -> _Contents:
    """Look into a file.

    Raises:
        ModelError: it holds no model that Keras 3 could read, or is damaged.
    """
    if path.is_dir():
        saved = (path / "saved_model.pb").is_file()
        what = "a SavedModel, which has no layers any more" if saved else "no file"
        raise ModelError(
            f"'{path}' is a folder, {what}. Save the model with model.save('name.keras') and give that file."
        )
    with path.open("rb") as file:
        head = file.read(1024)
    try:
        if head.startswith(b"\x89HDF\r\n\x1a\n"):
            with h5py.File(path, "r") as weights:
                config, version = keras2.hdf5_config(weights), weights.attrs.get("keras_version", "")
            if config is None:
                raise ModelError(
                    f"'{path}' holds weights alone. Build the model, load them with model.load_weights, and save it "
                    "with model.save('name.keras'). For a network of keras.applications: model=application "
                    f"model.name=NAME model.weights={path}."
                )
            return _Contents(config, str(version), partial(keras2.load_hdf5, path))
        if head.startswith(b"PK\x03\x04"):
            return _read_archive(path)
    except CORRUPT_ARCHIVE as error:
        raise ModelError(f"'{path}' is damaged, or not whole ({error}). {_AGAIN}") from error
    if not head:
        raise ModelError(f"'{path}' is empty. {_AGAIN}")
    said = next(said for begin, said in _OTHERS.items() if head.lstrip().startswith(begin))
    raise ModelError(f"'{path}' is not a .keras archive: it {said}.")


def _read_archive(path: Path) -> _Contents:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if outside := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
            raise ModelError(
                f"'{path}' holds a path that leads out of it, '{outside[0]}': no program of good will writes that. "
                "Do not use it."
            )
        if "config.json" not in names or not any(name.startswith("model.weights.") for name in names):
            raise ModelError(
                f"'{path}' is a zip archive, but not a .keras archive: it holds {', '.join(names[:4]) or 'nothing'}. "
                "Save the model with model.save('name.keras')."
            )
        config = json.loads(archive.read("config.json"))
        version = json.loads(archive.read("metadata.json")).get("keras_version", "") if "metadata.json" in names else ""
    if version.startswith("2."):
        return _Contents(config, version, partial(keras2.load_archive, path))
    return _Contents(config, version, partial(_load_archive, path))


def _load_archive(path: Path, *, safe_mode: bool) -> Any:
    if path.suffix == ".keras":
        return keras.saving.load_model(path, compile=False, safe_mode=safe_mode)
    with tempfile.TemporaryDirectory() as folder:  # Keras goes by the name.
        copy = shutil.copyfile(path, Path(folder, "model.keras"))
        return keras.saving.load_model(copy, compile=False, safe_mode=safe_mode)


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Everything in the config of a model, of nested models too, that has a class and a config of its own."""
    if (
        isinstance(config, dict)
        and isinstance(config.get("class_name"), str)
        and isinstance(config.get("config"), dict)
    ):
        yield config
    items = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for item in items:
        yield from _objects(item)


def _layers(config: Any) -> list[tuple[str, str]]:
    """Name and class of every layer in the config of a model."""
    return [(str(one["config"]["name"]), one["class_name"]) for one in _objects(config) if "name" in one["config"]]


def _explain(contents: _Contents, settings: ModelSettings, error: Exception) -> str:
    """Why a model could not be loaded, and what to do."""
    if foreign := [name for name, kind in _layers(contents.config) if kind in _TENSORFLOW]:
        return (
            f"Keras {contents.version} has written it with TensorFlow functions in its graph ('{foreign[0]}'), which "
            f"Keras 3 does not have. {_BY_HAND}"
        )
    for one in _objects(contents.config):
        name, module = str(one.get("registered_name") or one["class_name"]), str(one.get("module") or "")
        own = ">" in name or module.split(".")[0] not in ("", "keras", "tf_keras", "builtins")
        if not own or keras.saving.get_registered_object(name) is not None:
            continue
        if settings.modules:
            return (
                f"the class '{name}' is not known, though {', '.join(settings.modules)} was imported. It has to be "
                "registered there, by this line above the class: @keras.saving.register_keras_serializable("
                f"{name.partition('>')[0]!r})."
            )
        place = module if module not in ("", "builtins", "__main__") else "my_layers"
        return (
            f"the class '{name}' is not known. Say which module registers it, with keras.saving."
            f"register_keras_serializable, and it is imported first: model.modules=[{place}]. From "
            "Python, import it, load the model and call autoprune.prune. Subclassed models cannot be pruned: they "
            "have no graph."
        )
    words = str(error).rsplit("Exception encountered: ", 1)[-1].split("Full object config:")[0].strip()[:600]
    if contents.version.startswith("2."):
        return f"Keras {contents.version} has written it, and Keras 3 says: {words}. {_BY_HAND}"
    return f"{type(error).__name__}: {words}"
