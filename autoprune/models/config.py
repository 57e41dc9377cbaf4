"""A model made anew from its config, as the compiler wants it: in another dtype, and without weights."""

from collections.abc import Sequence
from typing import Any

import keras

from autoprune.errors import ModelError, words_of
from autoprune.models.own_modules import import_modules

Modules = Sequence[tuple[str, str | None]]  # See `import_modules`.


def shapes_only(config: Any, modules: Modules, dtype: str) -> Any:
    """The model of a config in a dtype. Its variables have shapes and no values.

    Raises:
        ModelError: it holds a layer that this process cannot import.
    """
    with keras.StatelessScope(initialize_variables=False):
        return rebuilt(with_dtype(config, dtype), modules)


def rebuilt(config: Any, modules: Modules) -> Any:
    """The model of a config, once the modules of its layers' classes are imported, which registers them.

    Raises:
        ModelError: it holds a layer that this process cannot import.
    """
    failed: Exception | None = None
    for module in modules:
        try:
            import_modules([module])
        except (ImportError, ModelError) as error:
            failed = failed or error  # It may be one that another model needs.
    try:
        # The config comes from the process that asks, where its code runs already.
        return keras.saving.deserialize_keras_object(config, safe_mode=False)
    except (ImportError, TypeError) as error:
        raise ModelError(
            "The compiler works in a process of its own, which could not rebuild the model. A layer of your own must "
            "lie in a module that can be imported, not in the script that is run, and be registered there with "
            f"keras.saving.register_keras_serializable. {failed or f'Keras says: {words_of(error, 1500)}'}"
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
