"""Configs of models: changed for another process, and made into a model again, with or without weights."""

from collections.abc import Sequence
from typing import Any

import keras

from autoprune.errors import ModelError, words_of
from autoprune.models import keras_internals
from autoprune.models.own_modules import import_modules, list_imported

Modules = Sequence[tuple[str, str | None]]  # See `import_modules`.


def rebuild_without_weights(config: Any, modules: Modules, dtype: str) -> Any:
    """The model of a config in a dtype. Its variables have shapes and no values.

    Raises:
        ModelError: it holds a layer that this process cannot import.
    """
    with keras.StatelessScope(initialize_variables=False):
        return rebuild(with_dtype(config, dtype), modules)


def rebuild(config: Any, modules: Modules) -> Any:
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


def without_training(config: Any) -> Any:
    """The config of a model without optimiser and losses, nested models included: only inference is compiled."""
    if isinstance(config, list):
        return [without_training(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {key: without_training(value) for key, value in config.items() if key != "compile_config"}


def layer_modules(model: Any) -> list[tuple[str, str | None]]:
    """What another process has to import for a model, as `import_modules` takes it.

    These are the modules that a user has named, and those besides Keras in which the classes of the model's layers were
    defined; not those of nested models.
    """
    own, layers = list_imported(), keras_internals.layers_by_path(model, nested=False).values()
    names = {type(layer).__module__ for layer in layers}
    others = names.difference(name for name, _ in own)
    return [*own, *((name, None) for name in sorted(others) if name.split(".")[0] not in ("keras", "__main__"))]
