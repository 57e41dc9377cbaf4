"""The process that runs the TPU compiler: reads requests from standard input, writes answers to standard output.

It holds Keras on JAX and libtpu, never TensorFlow, because libtpu may end the process it lives in. One request and
one answer are one line of JSON each; `client.py` is the other end. Started by `python -m autoprune.cost.worker`.
"""

import importlib
import json
import os
import shutil
import sys
import traceback
from typing import Any, TextIO

import jax
import keras
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from autoprune.cost import hlo
from autoprune.errors import ModelError
from autoprune.models import keras_internals


def versions() -> dict[str, str]:
    """Versions of everything that a figure depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("jax", "jaxlib", "libtpu", "keras")}


class Compiler:
    """Compiles models for described chips; descriptions are made once."""

    def __init__(self) -> None:
        self._devices: dict[str, Any] = {}

    def compile(self, request: dict[str, Any]) -> dict[str, Any]:
        """Compile one model and read the compiler's figures.

        Args:
            request: `config` (serialised Keras model), `modules` (that its layers come from), `batch_size`, `dtype`,
                `topology`, `options`, `clock` (cycles per second), `bandwidth` (bytes per second).

        Returns:
            `latency` and `latency_sum` in seconds; `weights`, `activations`, `code` and `total` in bytes; `kernels`.
        """
        compiled, inputs = self._compiled(request)
        module = hlo.parse_module(compiled.as_text())
        memory = compiled.memory_analysis()
        entering = sum(hlo.padded_bytes(shape) for shape in module.parameters[-inputs:])
        weights = memory.argument_size_in_bytes - entering
        activations = entering + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
        return {
            "latency": hlo.walk_schedule(module, request["clock"], request["bandwidth"]),
            "latency_sum": hlo.total_cycles(module) / request["clock"],
            "weights": weights,
            "activations": activations,
            "code": memory.generated_code_size_in_bytes,
            "total": weights + activations + memory.generated_code_size_in_bytes,
            "kernels": sum(1 for i in module.computations[module.entry] if i.cycles),
        }

    def _compiled(self, request: dict[str, Any]) -> tuple[Any, int]:
        """The compiled forward pass, and the number of model inputs, which are its last arguments."""
        sharding = SingleDeviceSharding(self._device(request["topology"], request["options"]))
        with keras.StatelessScope(initialize_variables=False):
            # Shapes are all the compiler needs: no weight is ever made.
            model = rebuilt(with_dtype(request["config"], request["dtype"]), request["modules"])

        structure = keras_internals.input_structure(model)

        def abstract(shape: Any, dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)

        def forward(trainable: list, others: list, *inputs: Any) -> Any:
            packed = keras.tree.pack_sequence_as(structure, list(inputs))
            return model.stateless_call(trainable, others, packed, training=False)[0]

        inputs = [abstract((request["batch_size"], *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
        lowered = jax.jit(forward).lower(
            [abstract(variable.shape, variable.dtype) for variable in model.trainable_variables],
            [abstract(variable.shape, variable.dtype) for variable in model.non_trainable_variables],
            *inputs,
        )
        return lowered.compile(), len(inputs)

    def _device(self, topology: str, options: dict[str, Any]) -> Any:
        if topology not in self._devices:
            options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
            described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
            self._devices[topology] = described.devices[0]
        return self._devices[topology]


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
            f"keras.saving.register_keras_serializable. Keras says: {str(error)[:1500]}"
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


def resident_bytes() -> int:
    """Memory of this process, so that the other end can replace it before it grows too large."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def answer(compiler: Compiler, line: str) -> dict[str, Any]:
    """Do what one request says; a failure of the compiler is an answer, not a crash."""
    request = json.loads(line)
    try:
        result = compiler.compile(request)
        return {"id": request["id"], "result": result, "resident": resident_bytes()}
    except ModelError as error:
        return {"id": request["id"], "error": str(error), "resident": resident_bytes()}
    except Exception as error:  # noqa: BLE001 - whatever the model or the compiler raises goes to the asker
        detail = "".join(traceback.format_exception_only(error)).strip()
        words = f"The TPU compiler refused the model: {detail[:4000]}"
        return {"id": request["id"], "error": words, "resident": resident_bytes()}
    finally:
        jax.clear_caches()
        keras.backend.clear_session(free_memory=False)


def main() -> None:
    """Answer requests until standard input ends, then leave nothing behind."""
    # libtpu and JAX print to standard output: keep a private copy of it and send theirs to the log.
    channel: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    compiler = Compiler()
    channel.write(json.dumps({"versions": versions(), "resident": resident_bytes()}) + "\n")
    try:
        for line in sys.stdin:
            channel.write(json.dumps(answer(compiler, line)) + "\n")
    except BrokenPipeError:
        pass
    finally:
        shutil.rmtree(os.environ.get("TPU_LOG_DIR", ""), ignore_errors=True)


if __name__ == "__main__":
    main()
