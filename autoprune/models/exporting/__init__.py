"""A model in the formats that other programs read, each checked against the model before it is there."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from autoprune.errors import ExportError, words_of
from autoprune.models import keras_internals
from autoprune.models.exporting.formats import FORMATS, check_libraries

DEFAULT_FORMATS = ("keras", "saved_model", "litert")


@dataclass(frozen=True)
class Exported:
    """A model in one format.

    Attributes:
        format: its name.
        path: the file, or the folder of a SavedModel.
        bytes: of the file, or of all files in the folder.
        difference: the largest between an output and the model's, on the examples.
        largest: the largest output of the model, by its absolute value, to judge that by.
    """

    format: str
    path: Path
    bytes: int
    difference: float
    largest: float


def export_model(
    model: Any,
    folder: str | Path,
    formats: Sequence[str] = DEFAULT_FORMATS,
    *,
    examples: Any = None,
    tolerance: float = 1e-4,
) -> dict[str, Exported]:
    """Write a model in several formats, and compare what each gives with what the model gives.

    A file appears in the folder once its outputs have been compared; one that is there already is replaced.

    Args:
        model: a Functional or Sequential model.
        folder: where to; it is made when missing.
        formats: `keras` (`model.keras`), `saved_model` (a folder), `litert` (`model.tflite`), `onnx` (`model.onnx`,
            needs the extra `onnx`).
        examples: (n, *input shape) inputs to compare on, for a model of several inputs a list or dict of these; by
            default two of random numbers, drawn with a fixed seed.
        tolerance: of the difference, as a share of the largest output.

    Returns:
        What was written, by format.

    Raises:
        ExportError: a format cannot hold the model, or its outputs deviate; the message says which. Those before it
            are there.
        ModelError: it is no model, such as the path of one.
        SettingsError: a library that a format needs is missing, or Keras does not run on TensorFlow.
        UnknownNameError: there is no such format.
    """
    keras_internals.check_model(model)
    for name in formats:
        check_libraries(FORMATS.get(name))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    examples = random_examples(model) if examples is None else examples
    expected = [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(model(examples, training=False))]
    return {name: _export_checked(model, folder, name, (examples, expected), tolerance) for name in formats}


def random_examples(model: Any, shape: Sequence[int] | None = None, count: int = 2) -> Any:
    """Inputs of random numbers in the structure that the model takes, always the same.

    Args:
        model: model that takes the examples.
        shape: of one example, for a model of one input that leaves its size open.
        count: number of examples, 1 or more.

    Raises:
        ExportError: an input has a size that is left open.
    """
    generator = np.random.default_rng(0)

    def draw(tensor: Any) -> np.ndarray:
        sizes = tuple(tensor.shape[1:] if shape is None else shape)
        if None in sizes:
            raise ExportError(
                f"The model '{model.name}' leaves its input size open: {sizes}. Give examples of the size that it is "
                "for: examples=... from Python, input_shape=[height,width,channels] to the command."
            )
        drawn = generator.standard_normal((count, *sizes))
        return (drawn > 0 if "int" in str(tensor.dtype) else drawn).astype(str(tensor.dtype))

    return keras.tree.map_structure(draw, keras_internals.input_structure(model))


def _export_checked(
    model: Any, folder: Path, name: str, compared: tuple[Any, list[np.ndarray]], tolerance: float
) -> Exported:
    """Write one format beside its place, compare, and put it there."""
    entry, (examples, expected) = FORMATS.get(name), compared
    path, partial = folder / entry.filename, folder / f".partial.{entry.filename}"
    _remove(partial)
    try:
        try:
            entry.write(model, partial)
            inputs = keras.tree.flatten(keras_internals.input_structure(model))
            found = entry.run(partial, examples, [tensor.name for tensor in inputs])
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(
                f"The model '{model.name}' cannot be exported to {name}: {type(error).__name__}: {words_of(error)}"
            ) from error
        shapes = [[output.shape for output in outputs] for outputs in (found, expected)]
        if shapes[0] != shapes[1]:
            raise ExportError(f"The {name} file gives outputs of shape {shapes[0]}, the model of {shapes[1]}.")
        difference = max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))
        largest = max(float(np.abs(e).max()) for e in expected)
        # Not the other way round: a difference that is not a number is no agreement.
        if not difference <= tolerance * largest:
            raise ExportError(
                f"The {name} file deviates from the model: by {difference:.3g} where the largest output is "
                f"{largest:.3g}; at most {tolerance * largest:.3g} was expected (tolerance {tolerance:g}). It was not "
                "kept."
            )
        size = sum(file.stat().st_size for file in [partial, *partial.rglob("*")] if file.is_file())
        _remove(path)
        partial.rename(path)
    finally:
        _remove(partial)
    return Exported(name, path, size, difference, largest)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
