"""Libraries that only some options need: imported when needed, refused with the command that brings them."""

import importlib
from types import ModuleType

from autoprune.errors import SettingsError


def extra(module: str, needed_by: str, name: str) -> ModuleType:
    """A library of one of the optional extras.

    Args:
        module: what is imported, such as `tensorflow_datasets`.
        needed_by: the option that asks for it, such as `data=tfds`.
        name: name of the optional extra.

    Raises:
        SettingsError: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{needed_by} needs {module}, which cannot be imported ({error}). Try, in the folder that autoprune was "
            f'installed from: pip install ".[{name}]"'
        ) from error
