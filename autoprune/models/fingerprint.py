"""Fingerprints: of an architecture, whatever its layers are called, and of a set of weights."""

import hashlib
import json
from typing import Any

from autoprune.errors import ModelError
from autoprune.models import keras_internals

# What a trained model does and costs does not depend on these.
_IRRELEVANT = (
    "initializer",
    "regularizer",
    "constraint",
    "build_config",
    "compile_config",
    "registered_name",
)
_IRRELEVANT_KEYS = frozenset({"trainable", "optional", "seed", "module"})


def architecture_fingerprint(model: Any) -> str:
    """Hash of what a model computes for given weights: equal after save and load, whatever the names.

    Two models built by the same code have the same fingerprint; another width, kernel size, connection, activation
    or input size gives another. Initialisers, regularisers, dtype policies, the `trainable` flags and the classes of
    models that are made of a graph do not count.

    Returns:
        16 hexadecimal digits.

    Raises:
        ModelError: Keras has no config for one of its layers.
    """
    try:
        config = keras_internals.graph_config(model)
    except NotImplementedError as error:
        raise ModelError(
            f"The model '{model.name}' cannot be saved by Keras, and so neither be planned for: {str(error).strip()}"
        ) from error
    return _digest(json.dumps(_canonical(config, {}), sort_keys=True).encode())


def weights_fingerprint(model: Any) -> str:
    """Hash of the values of all weights, in order. 16 hexadecimal digits."""
    return _digest(*(weight.numpy().tobytes() for weight in model.weights))


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _canonical(value: Any, names: dict[str, str]) -> Any:
    """The config without what does not matter, and with layers numbered instead of named.

    Args:
        value: any part of a serialised model.
        names: number of each layer of the innermost model, by name.
    """
    if isinstance(value, dict):
        return _canonical_dict(value, names)
    if isinstance(value, (list, tuple)):
        return [_canonical(item, names) for item in value]
    return value


def _canonical_dict(value: dict, names: dict[str, str]) -> dict:
    if isinstance(value.get("layers"), list):
        names = {layer["config"].get("name", layer.get("name")): f"#{n}" for n, layer in enumerate(value["layers"])}
    result = {}
    for key, item in value.items():
        if key in _IRRELEVANT_KEYS or any(key.endswith(word) for word in _IRRELEVANT):
            continue
        if key == "name":
            # The model's own name is not among its layers' and vanishes; a layer's becomes its number.
            if item in names:
                result[key] = names[item]
        elif key == "keras_history" or (key in ("input_layers", "output_layers") and item):
            result[key] = _renamed(item, names)
        elif key == "dtype" and isinstance(item, dict):
            continue
        else:
            result[key] = _canonical(item, names)
    return result


def _renamed(item: Any, names: dict[str, str]) -> Any:
    """References to layers, `[name, call, output]`, in any nesting, by number."""
    if isinstance(item, str):
        return names.get(item, item)
    if isinstance(item, (list, tuple)):
        return [_renamed(part, names) for part in item]
    if isinstance(item, dict):
        return {key: _renamed(part, names) for key, part in item.items()}
    return item
