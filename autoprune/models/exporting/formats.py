"""The formats: how a model is written in each, and how what was written is run."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from autoprune.errors import ExportError, SettingsError
from autoprune.models import keras_internals
from autoprune.models.files import save_model
from autoprune.registry import Registry
from autoprune.settings.extras import extra

Run = Callable[[Path, Any, Sequence[str]], list[np.ndarray]]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: name by which the format is asked for.
        filename: name of the file or folder that is written.
        write: writes a model to a path.
        run: loads what is at a path and gives its outputs, flat. It is called with the path, inputs in the structure of
            the model's, and their names, flat.
        libraries: of the extra of the same name that it needs.
        tensorflow: whether Keras has to run on TensorFlow.
    """

    name: str
    filename: str
    write: Callable[[Any, Path], None]
    run: Run
    libraries: tuple[str, ...] = ()
    tensorflow: bool = True


FORMATS: Registry[Format] = Registry("format")
_NUMBERED = re.compile(r"output_\d+").fullmatch


def check_libraries(entry: Format) -> None:
    """Refuse a format that cannot be written here.

    Raises:
        SettingsError: a library is missing, or Keras runs on another backend.
    """
    for library in entry.libraries:
        extra(library, f"formats=[{entry.name}]", entry.name)
    if entry.tensorflow and keras.backend.backend() != "tensorflow":
        raise SettingsError(
            f"The format {entry.name} is written by TensorFlow, and Keras runs on {keras.backend.backend()}. Save the "
            "model as .keras, and export that with KERAS_BACKEND=tensorflow."
        )


def _enter(run: Run, **options: Any) -> Run:
    """Enter a format in the table, with what runs it."""
    entry = Format(run=run, **options)
    FORMATS.add(entry.name)(entry)
    return run


@partial(_enter, name="keras", filename="model.keras", write=save_model, tensorflow=False)
def _run_keras(path: Path, inputs: Any, _: Sequence[str]) -> list[np.ndarray]:
    model = keras.saving.load_model(path, compile=False, safe_mode=False)
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(model(inputs, training=False))]


def _write_as(name: str, model: Any, path: Path) -> None:
    """Keras's own export to a format, of the model as it runs in inference."""
    # Told nothing, as Keras's export does it, layers choose for themselves, and those that augment images augment.
    inference = partial(model.__call__, training=False)
    with warnings.catch_warnings(), keras_internals.overridden("__call__", {model: inference}):
        # tf2onnx still looks for what NumPy 1 had.
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        model.export(str(path), format=name, verbose=False)


def _write_onnx(model: Any, path: Path) -> None:
    """Keras's own export, and one operation more than tf2onnx knows: that of the exact GELU.

    Raises:
        ExportError: the model holds an operation that ONNX does not have.
    """
    # All that tf2onnx knows is entered when its converter is imported.
    onnx, _, registry = (
        extra(name, "formats=[onnx]", "onnx") for name in ("onnx", "tf2onnx.convert", "tf2onnx.handler")
    )
    if not any("Erfc" in operations for operations in registry.tf_op.get_opsets()[""]):
        registry.tf_op("Erfc")(_ComplementaryErrorFunction)
    _write_as("onnx", model, path)
    graph = onnx.load(str(path), load_external_data=False).graph
    missing = {node.op_type: node.name for node in graph.node if not node.domain and not onnx.defs.has(node.op_type)}
    if missing:
        named = ", ".join(f"{kind} (in '{name}')" for kind, name in sorted(missing.items()))
        raise ExportError(
            f"ONNX does not have every operation of '{model.name}': {named}. Export to saved_model or litert, or build "
            "the model with other layers there."
        )


class _ComplementaryErrorFunction:
    """TensorFlow's `Erfc` for tf2onnx, as 1 - erf."""

    @classmethod
    def version_9(cls, context: Any, node: Any, **_: Any) -> None:
        """For ONNX operator sets from 9 on, which have `Erf`."""
        shapes, dtypes = node.output_shapes, node.output_dtypes
        numpy_type = extra("onnx", "formats=[onnx]", "onnx").helper.tensor_dtype_to_np_dtype(dtypes[0])
        one = context.make_const(f"{node.name}/one", np.ones((), numpy_type))
        context.remove_node(node.name)
        error = context.make_node("Erf", node.input, name=f"{node.name}/erf", shapes=shapes, dtypes=dtypes)
        context.make_node(
            "Sub", [one.output[0], error.output[0]], name=node.name, outputs=node.output, shapes=shapes, dtypes=dtypes
        )


@partial(_enter, name="saved_model", filename="saved_model", write=partial(_write_as, "tf_saved_model"))
def _run_saved_model(path: Path, inputs: Any, _: Sequence[str]) -> list[np.ndarray]:
    import tensorflow as tf

    # Held while it runs: its function does not keep its variables.
    loaded = tf.saved_model.load(str(path))
    return [output.numpy() for output in keras.tree.flatten(loaded.serve(inputs))]


@partial(_enter, name="litert", filename="model.tflite", write=partial(_write_as, "litert"))
def _run_litert(path: Path, inputs: Any, names: Sequence[str]) -> list[np.ndarray]:
    try:
        from ai_edge_litert import interpreter as litert
    except ImportError:
        import tensorflow as tf

        litert = tf.lite
    with warnings.catch_warnings():
        # TensorFlow names the package that its interpreter moves to; until then it is the same.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        interpreter = litert.Interpreter(str(path))
    runner = interpreter.get_signature_runner()
    outputs = runner(**_name_inputs(list(runner.get_input_details()), names, inputs))
    # By their number, `output_10` after `output_9`, or by the keys of a dict as Keras flattens it.
    return [outputs[name] for name in sorted(outputs, key=lambda name: (len(name) if _NUMBERED(name) else 0, name))]


def _name_inputs(known: Sequence[str], names: Sequence[str], inputs: Any) -> dict[str, np.ndarray]:
    """The inputs by the names that a file knows them by: the model's, or others in the same order."""
    arrays = keras.tree.flatten(inputs)
    return dict(zip(names if set(names) == set(known) else known, arrays, strict=True))


@partial(_enter, name="onnx", filename="model.onnx", write=_write_onnx, libraries=("onnx", "tf2onnx", "onnxruntime"))
def _run_onnx(path: Path, inputs: Any, names: Sequence[str]) -> list[np.ndarray]:
    onnxruntime = extra("onnxruntime", "formats=[onnx]", "onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, _name_inputs([entry.name for entry in session.get_inputs()], names, inputs))
