"""Reading and writing `.keras` files."""

import zipfile
from pathlib import Path
from typing import Any

import keras

from autoprune.errors import ModelError


def load_model(path: str | Path) -> Any:
    """Load a Keras 3 model for pruning, without its optimiser and losses.

    Raises:
        ModelError: the file is missing, is not a `.keras` file, is corrupt, or needs code that is not known here.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(f"There is no file '{path}'. Name a model with model.path=FILE.keras.")
    if path.suffix != ".keras":
        raise ModelError(
            f"Expected a .keras file, saved by Keras 3 with model.save('name.keras'). Received: '{path.name}'. A .h5 "
            "file can be loaded with keras.saving.load_model and saved again."
        )
    if not zipfile.is_zipfile(path):
        raise ModelError(f"'{path}' is not a .keras archive: it is truncated or of another format.")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        words = str(error).strip()
        advice = ""
        if "Could not locate class" in words:
            advice = (
                " From Python, import the module that registers the class (keras.saving.register_keras_serializable), "
                "load the model and call autoprune.search. Subclassed models cannot be pruned: they have no graph."
            )
        raise ModelError(f"'{path}' could not be loaded: {type(error).__name__}: {words[:600]}{advice}") from error


def save_model(model: Any, path: str | Path) -> None:
    """Write a model to a `.keras` file that appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial.keras")
    model.save(partial)
    partial.replace(path)
