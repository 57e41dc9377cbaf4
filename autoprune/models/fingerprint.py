"""Fingerprints: of an architecture, whatever its layers are called, and of a set of weights."""

import functools
import hashlib
import inspect
import json
from typing import Any

from autoprune.errors import ModelError, words_of
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
_DROPPING = ("Dropout", "AlphaDropout", "GaussianDropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_ATTENDING = ("MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention")
# Options of Keras's own layers by class, of which inference sees at most whether there are any.
_OF_TRAINING = {
    "BatchNormalization": ("momentum", "synchronized", "renorm_momentum", "renorm_clipping"),
    "ActivityRegularization": ("l1", "l2"),
    "GaussianNoise": ("stddev",),
    **dict.fromkeys(_DROPPING, ("rate", "noise_shape")),
    **dict.fromkeys(_RECURRENT, ("dropout", "recurrent_dropout")),
    **dict.fromkeys((f"{name}Cell" for name in _RECURRENT), ("dropout", "recurrent_dropout")),
    **dict.fromkeys(_ATTENDING, ("dropout",)),
}
# Layers that give in inference what they are given, whatever their options.
_AUGMENTING = frozenset(
    f"Random{name}" for name in ("Flip", "Rotation", "Translation", "Zoom", "Contrast", "Brightness")
)


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
    return _digest(json.dumps(_canonical(_config(model), {}), sort_keys=True).encode())


def inference_fingerprint(model: Any) -> str:
    """Hash of the program that a model is in inference, for a compiler that is told batch size and dtype besides.

    As `architecture_fingerprint`, and neither do the momentum of batch norms and the rate of dropout count. The code of
    layers that are not Keras's own does.

    Returns:
        16 hexadecimal digits.

    Raises:
        ModelError: Keras has no config for one of its layers.
    """
    kinds: set[Any] = {type(layer) for layer in keras_internals.layers_by_path(model).values()}
    own = {kind for kind in kinds if kind.__module__.split(".")[0] != "keras"}
    code = sorted(_code(kind) for kind in own)
    canonical = _canonical(_without_training(_config(model)), {})
    return _digest(json.dumps([canonical, code], sort_keys=True).encode())


def _config(model: Any) -> dict[str, Any]:
    try:
        return keras_internals.graph_config(model)
    except NotImplementedError as error:
        raise ModelError(
            f"The model '{model.name}' cannot be saved by Keras, and so neither be planned for: {words_of(error)}"
        ) from error


@functools.cache
def _code(kind: type) -> str:
    """Names and sources of a class and of those that it is derived from, up to Keras's own."""
    parts = []
    for base in kind.__mro__:
        if base.__module__.split(".")[0] in ("keras", "builtins"):
            break
        parts.append(f"{base.__module__}.{base.__qualname__}")
        try:
            parts.append(inspect.getsource(base))
        except (OSError, TypeError):  # such as a class made at a prompt
            continue
    return "\n".join(parts)


def _without_training(value: Any) -> Any:
    """A config in which options that only training sees are whether they are set: a layer that drops has a seed."""
    if isinstance(value, (list, tuple)):
        return [_without_training(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {key: _without_training(item) for key, item in value.items()}
    if value.get("module") == "keras.layers" and isinstance(value.get("config"), dict):
        options, kind = result["config"], value["class_name"]
        unseen = set(options) - {"name", "dtype"} if kind in _AUGMENTING else _OF_TRAINING.get(kind, ())
        options |= {name: bool(options[name]) for name in unseen if name in options}
    return result


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
    if isinstance(value, (list, tuple)):
        return [_canonical(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("layers"), list):
        names = {layer["config"].get("name", layer.get("name")): f"#{n}" for n, layer in enumerate(value["layers"])}
    result: dict[str, Any] = {}
    for key, item in value.items():
        if key in _IRRELEVANT_KEYS or key.endswith(tuple(_IRRELEVANT)) or (key == "dtype" and isinstance(item, dict)):
            continue
        if key == "name":
            # The model's own name is not among its layers' and vanishes; a layer's becomes its number.
            if item in names:
                result[key] = names[item]
        elif key == "keras_history" or (key in ("input_layers", "output_layers") and item):
            result[key] = _number_references(item, names)
        else:
            result[key] = _canonical(item, names)
    return result


def _number_references(item: Any, names: dict[str, str]) -> Any:
    """References to layers, `[name, call, output]`, in any nesting, by number."""
    if isinstance(item, str):
        return names.get(item, item)
    if isinstance(item, (list, tuple)):
        return [_number_references(part, names) for part in item]
    if isinstance(item, dict):
        return {key: _number_references(part, names) for key, part in item.items()}
    return item
