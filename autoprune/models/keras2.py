"""Models that Keras 2 has written, or tf_keras, which goes on with it: what Keras 3 no longer reads in them is cured.

Cured is what does not change the model: names of modules that have moved, and arguments that Keras 3 has no more, where
they say nothing. Weights go to layers by name, and every one has to be there.
"""

import inspect
import io
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from autoprune.errors import ModelError

# Arguments that layers of Keras 3 have no more, with the value at which they say nothing.
_SILENT: Mapping[str, Any] = {"groups": 1, "time_major": False, "ragged": False, "sparse": False}
# Likewise those that at no value say what a layer with its weights computes: of layers with two kernels, which have
# initialisers for each, of layers that draw random numbers, and of Lambda.
_MEANINGLESS = (
    *("kernel_initializer", "kernel_regularizer", "kernel_constraint", "rng_type"),
    *("module", "function_type", "output_shape_type", "output_shape_module"),
)
_MODELS = {"Functional": "keras.src.models.functional", "Model": "keras", "Sequential": "keras"}
# What the weights of a model's layers lie under; it differs between versions.
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")


def convert_config(config: Any) -> Any:
    """The config of a model as Keras 3 knows it; what cannot be cured stays as it is."""
    parts = list(_parts(config))
    named = [part for part in parts if isinstance(part, dict) and isinstance(part.get("name"), str)]
    renamed = {part["name"]: _new_name(part["name"]) for part in named if "/" in part["name"]}
    models = [part for part in parts if isinstance(part, dict) and part.get("class_name") == "Sequential"]
    sequences = {model["config"]["name"] for model in models if isinstance(model.get("config"), dict)}
    first = {part[0] for part in parts if _is_reference(part) and part[1] == 0}
    return _convert(config, renamed, sequences - first)


def _new_name(name: str) -> str:
    """The name of a layer in Keras 3, which allows no slash."""
    return name.replace("/", "_")


def _parts(config: Any) -> Iterator[Any]:
    """Everything in a config, at any depth."""
    yield config
    for item in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _parts(item)


def _is_reference(part: Any) -> bool:
    """Whether a part of a config names an output: of a layer, of which of its calls, and which."""
    return isinstance(part, list) and len(part) in (3, 4) and [type(item) for item in part[:3]] == [str, int, int]


def _convert(config: Any, renamed: Mapping[str, str], counted: Collection[str]) -> Any:
    """Any part of a config.

    Args:
        config: the part.
        renamed: new names of layers, wherever they stand.
        counted: Sequential models whose calls are numbered from 1, as in Keras 2, and from 0 in Keras 3.
    """
    if isinstance(config, list):
        items = [_convert(item, renamed, counted) for item in config]
        return [items[0], items[1] - 1, *items[2:]] if _is_reference(config) and config[0] in counted else items
    if not isinstance(config, dict):
        return renamed.get(config, config) if isinstance(config, str) else config
    result = {key: _convert(value, renamed, counted) for key, value in config.items()}
    for key in ("input_layers", "output_layers"):
        if isinstance(result.get(key), list) and [_is_reference(item) for item in result[key]] == [True]:
            result[key] = result[key][0]  # Keras 2 did not tell one from a list of one.
    values: list[Any] = [result.get(key) for key in ("class_name", "config", "module")]
    name, options, module = values
    kind = getattr(keras.layers, name, None) if isinstance(name, str) else None
    if name == "Sequential" and options["layers"][0]["class_name"] == "InputLayer":
        for layer in options["layers"][1:]:
            layer["config"].pop("batch_input_shape", None)  # The first layer's, which the input has too.
    if isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras"):
        moved = _MODELS.get(name) or (kind is not None and "keras.layers")
        result["module"] = moved or module.replace("tf_keras", "keras", 1)
    if isinstance(kind, type) and isinstance(options, dict):
        result["config"] = _options(kind, options)
    return result


def _options(kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a layer as its class in Keras 3 takes them."""
    known = {argument for base in kind.__mro__ for argument in inspect.signature(base.__init__).parameters}
    silent = {key for key in _SILENT if options.get(key) == _SILENT[key]}.union(_MEANINGLESS)
    result = {key: value for key, value in options.items() if key in known or key not in silent}
    if isinstance(options.get("axis"), list) and len(options["axis"]) == 1:
        result["axis"] = options["axis"][0]
    if isinstance(options.get("function"), list):
        code = dict(zip(("code", "defaults", "closure"), options["function"], strict=False))
        result["function"] = {"class_name": "__lambda__", "config": code}
    return result


def load_archive(path: Path, *, safe_mode: bool) -> Any:
    """The model of a `.keras` file that Keras 2 has written.

    Raises:
        ModelError: the weights are not those of the layers.
        Exception: whatever Keras raises over a config that cannot be cured.
    """
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        weights = io.BytesIO(archive.read("model.weights.h5"))
    config["compile_config"] = None
    model = keras.saving.deserialize_keras_object(convert_config(config), safe_mode=safe_mode)
    with h5py.File(weights, "r") as file:
        filled: dict[int, int] = {}
        _fill(model, config, file, filled)
    found, wanted = sum(filled.values()), len(model.weights)
    if found != wanted:
        raise ModelError(f"it has {found} weights for the {wanted} of its layers")
    return model


def load_hdf5(path: Path, *, safe_mode: bool) -> Any:
    """The whole model of an HDF5 file, whatever the file is called.

    Raises:
        ModelError: it holds weights alone, or weights of other layers.
        Exception: whatever Keras raises over a config that cannot be cured.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "model.h5")  # Keras goes by the name.
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            config = hdf5_config(file)
            if config is None:
                raise ModelError("it holds weights alone")
            file.attrs["model_config"] = json.dumps(convert_config(config)).encode()
            group = file["model_weights"]
            named = [name for name in _names(group, "layer_names") if _names(group[name], "weight_names")]
            stored = [_new_name(name) for name in named]
        model = keras.saving.load_model(copy, compile=False, safe_mode=safe_mode)
        present = [layer.name for layer in model.layers if layer.weights]
        if sorted(present) != sorted(stored):
            raise ModelError(f"it has weights for the layers {sorted(set(stored) ^ set(present))[:5]}, or lacks them")
        if present != stored:  # Keras goes by the order, which another version may have made otherwise.
            if named != stored:
                raise ModelError("its layers are in another order, and have names that Keras 3 does not take")
            model.load_weights(copy, by_name=True)
    return model


def hdf5_config(file: Any) -> Any:
    """The config of the model in an open HDF5 file; None in one of weights alone."""
    text = file.attrs.get("model_config")
    return None if text is None else json.loads(text)


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names among the attributes of a group; a long one is in several parts."""
    parts = [group.attrs[attribute]] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{attribute}{len(parts)}"])
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in part]


def _fill(layer: Any, config: Mapping[str, Any], group: Any, filled: dict[int, int]) -> None:
    """Give a layer, and those within it, the weights of a group of the file.

    Args:
        layer: of the new model, or that model.
        config: of the layer as the file has it; its layers are in the order in which the file counts them.
        group: the layer's group in the weights file.
        filled: gets the number of weights of every layer, by identity.
    """
    own = {key: np.asarray(value) for key, value in group.get("vars", {}).items()}
    if own:
        layer.load_own_variables(own)
        filled[id(layer)] = len(own)
    options = config.get("config", {})
    container = next((group[name] for name in _CONTAINERS if name in group), None)
    if container is not None:
        waiting: dict[str, list[str]] = {}
        for inner in options["layers"]:
            kind = inner["class_name"]
            if kind not in waiting:
                # Groups have their class's name in snake case, from the second on with a number: 1, 2 and so on, or in
                # other versions 2, 4.
                name = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
                matches = [re.fullmatch(rf"{re.escape(name)}(?:_(\d+))?", found) for found in container]
                numbers = {match[0]: int(match[1] or 0) for match in matches if match}
                waiting[kind] = sorted(numbers, key=numbers.__getitem__)
            names = waiting[kind]
            if names:  # An input has no group in some versions.
                _fill(layer.get_layer(_new_name(inner["config"]["name"])), inner, container[names.pop(0)], filled)
        return
    for name in group:
        child = getattr(layer, name, None)
        if name != "vars" and isinstance(child, keras.Layer):
            _fill(child, options.get(name) or {}, group[name], filled)
