"""Modules of a user's own, imported because they register layers and what is known of them.

A process that is started for such a model finds them where this one found them: `list_imported` says where.
"""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from autoprune.errors import ModelError

# Names of the modules, in their order; the folder that each was looked for in before anywhere else, and its file.
_IMPORTED: dict[str, tuple[str, str | None]] = {}


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
        _import(name, folder)
        _IMPORTED[name] = (folder, _file(name))


def list_imported() -> list[tuple[str, str]]:
    """The modules that were imported with a folder, and the folder, in their order.

    Not those whose files are gone, nor those whose name another module has by now: that one came without a folder.
    """
    return [
        (name, folder)
        for name, (folder, file) in _IMPORTED.items()
        if file is not None and file == _file(name) and Path(file).exists()
    ]


def _file(name: str) -> str | None:
    """The file of a module that is in use."""
    return getattr(sys.modules.get(name), "__file__", None)


def _import(name: str, folder: str) -> None:
    """Import a module from a folder, or from wherever Python finds it.

    Raises:
        ModelError: there is no such module, it fails, or another one of that name is in use.
    """
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
                f"There is no module '{name}', neither in '{folder}' nor among what is installed. model.modules takes "
                "names as an import statement has them: model.modules=[my_layers] for my_layers.py."
            ) from error
        raise ModelError(f"The module '{name}' could not be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
