"""Models in another process: their configs, and the modules of a user's own that these need.

A config is changed for the other process, and made into a model again there, with or without weights. Modules of a
user's own register layers and what is known of them: a process that is started for such a model finds them where this
one found them, as `layer_modules` says.
"""

import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras

from autoprune.errors import ModelError, words_of
from autoprune.models import keras_internals

Modules = Sequence[tuple[str, str | None]]  # See `import_modules`.
# Names of the modules, in their order; the folder that each was looked for in before anywhere else, and its file.
_IMPORTED: dict[str, tuple[str, str | None]] = {}


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
    # Of those that were imported with a folder not the ones whose files are gone, nor those whose name another module
    # has by now: that one came without a folder.
    own = [
        (name, folder)
        for name, (folder, file) in _IMPORTED.items()
        if file is not None and file == _file(name) and Path(file).exists()
    ]
    layers = keras_internals.layers_by_path(model, nested=False).values()
    names = {type(layer).__module__ for layer in layers}
    others = names.difference(name for name, _ in own)
    return [*own, *((name, None) for name in sorted(others) if name.split(".")[0] not in ("keras", "__main__"))]


def import_modules(modules: Iterable[tuple[str, str | None]]) -> None:
    """Import modules, each with a folder first on the import path, which is left as it was afterwards.

    Args:
        modules: names, as an `import` statement has them, and folders; None is the import path alone.

    Raises:
        ModelError: there is no such module, it fails, or another one of that name is in use.
    """
    for name, folder in modules:
        if folder is None:
            importlib.import_module(name)
            continue
        base = Path(folder, *name.split("."))
        own = [path.resolve() for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]
        known = sys.modules.get(name)
        if own and known is not None and Path(_file(name) or "").resolve() not in own:
            raise ModelError(
                f"'{own[0]}' cannot be imported as '{name}': another module of that name is in use. "
                "Give it a name of its own."
            )
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            importlib.import_module(name)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
                raise ModelError(
                    f"There is no module '{name}', neither in '{folder}' nor among what is installed. model.modules "
                    "takes names as an import statement has them: model.modules=[my_layers] for my_layers.py."
                ) from error
            raise ModelError(f"The module '{name}' could not be imported: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(folder)
        _IMPORTED[name] = (folder, _file(name))


def _file(name: str) -> str | None:
    """The file of a module that is in use."""
    return getattr(sys.modules.get(name), "__file__", None)
