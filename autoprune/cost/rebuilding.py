"""A model made anew from its config, as the compiler wants it: in another dtype, and without weights."""

import importlib
from typing import Any

import keras

from autoprune.errors import ModelError, words_of


def shapes_only(config: Any, modules: list[str], dtype: str) -> Any:
    """The model of a config in a dtype. Its variables have shapes and no values.

    Raises:
        ModelError: it holds a layer that this process cannot import.
    """
    with keras.StatelessScope(initialize_variables=False):
        return rebuilt(with_dtype(config, dtype), modules)


def rebuilt(config: Any, modules: list[str]) -> Any:
    """The model of a config, once the modules of its layers' classes are imported, which registers them.

    Raises:
        ModelError: it holds a layer that this process cannot import.
    """
    try:
        for module in modules:
            importlib.import_module(module)
        return keras.saving.deserialize_keras_object(config)
    except (ImportError, TypeError) as error:
        raise ModelError(
            "The compiler works in a process of its own, which could not rebuild the model. A layer of your own must "
            "lie in a module that can be imported, not in the script that is run, and be registered there with "
            f"keras.saving.register_keras_serializable. Keras says: {words_of(error, 1500)}"
        ) from error


def with_dtype(config: Any, dtype: str) -> Any:
    """The model's config with every layer's dtype policy replaced; input dtypes stay."""
    if isinstance(config, list):
        return [with_dtype(item, dtype) for item in config]
    if not isinstance(config, dict):
        return config
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": dtype},
        "registered_name": None,
    }
    return {
        key: policy if key == "dtype" and isinstance(value, dict) else with_dtype(value, dtype)
        for key, value in config.items()
    }
