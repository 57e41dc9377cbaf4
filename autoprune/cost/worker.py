"""The process that runs the TPU compiler: reads requests from standard input, writes answers to standard output.

It holds Keras on JAX and libtpu, never TensorFlow, because libtpu may end the process it lives in. One request and
one answer are one line of JSON each; `client.py` is the other end. Started by `python -m autoprune.cost.worker`.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import jax
import keras
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from autoprune.cost import hlo
from autoprune.cost.programs import Program, inference_program
from autoprune.errors import ModelError


def versions() -> dict[str, str]:
    """Versions of everything that a figure depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("jax", "jaxlib", "libtpu", "keras")}


PROGRAMS: dict[str, Callable[[dict[str, Any]], Program]] = {"inference": inference_program}


class Compiler:
    """Compiles programs for described chips; descriptions are made once."""

    def __init__(self) -> None:
        self._devices: dict[str, Any] = {}

    def compile(self, request: dict[str, Any]) -> dict[str, Any]:
        """Compile one program and read the compiler's figures.

        Args:
            request: `program` (a name in `PROGRAMS`) and what it needs; `topology`, `options`, `clock` (cycles per
                second), `bandwidth` (bytes per second).

        Returns:
            `latency` and `latency_sum` in seconds; `weights` (the program's state), `activations`, `code`, `total` and
            `traffic` (read from and written to HBM) in bytes; `kernels`, each as the positions of the layers in it and
            its seconds.
        """
        program = PROGRAMS[request["program"]](request)
        compiled = self._compiled(program, SingleDeviceSharding(self._device(request["topology"], request["options"])))
        module = hlo.parse_module(compiled.as_text())
        steps = hlo.walk_schedule(module, request["clock"], request["bandwidth"])
        memory = compiled.memory_analysis()
        entering = sum(hlo.padded_bytes(s) for s in module.parameters[-len(jax.tree.leaves(program.batch)) :])
        weights = memory.argument_size_in_bytes - entering
        activations = entering + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
        return {
            "latency": sum(delay for _, delay in steps),
            "latency_sum": hlo.total_cycles(module) / request["clock"],
            "weights": weights,
            "activations": activations,
            "code": memory.generated_code_size_in_bytes,
            "total": weights + activations + memory.generated_code_size_in_bytes,
            "traffic": hlo.hbm_traffic(module),
            "kernels": kernels(module, steps, program.paths),
        }

    def _compiled(self, program: Program, sharding: Any) -> Any:
        """The program, compiled for the device of a sharding."""

        def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        state, batch = jax.tree.map(placed, (program.state, program.batch))
        donated = (0,) if program.donated else ()
        return jax.jit(program.function, donate_argnums=donated).lower(state, batch).compile()

    def _device(self, topology: str, options: dict[str, Any]) -> Any:
        if topology not in self._devices:
            options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
            described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
            self._devices[topology] = described.devices[0]
        return self._devices[topology]


def kernels(module: hlo.Module, steps: list[tuple[hlo.Instruction, float]], paths: Sequence[str]) -> list[Any]:
    """Time by kernel: pairs of the positions in `paths` of the layers that a kernel computes, and its seconds.

    Kernels of the same layers are one pair; what belongs to no layer, such as waiting for copies, has no positions.
    """
    positions = {path: position for position, path in enumerate(paths)}
    times: dict[tuple[int, ...], float] = {}
    for instruction, delay in steps:
        if delay > 0:
            found = (_layer(scope, positions) for scope in hlo.kernel_layers(module, instruction))
            key = tuple(sorted({position for position in found if position is not None}))
            times[key] = times.get(key, 0.0) + delay
    return [[list(key), delay] for key, delay in times.items()]


def _layer(scope: str, positions: dict[str, int]) -> int | None:
    """Position of the innermost layer that a scope names."""
    parts = scope.split("/")
    for length in range(len(parts), 0, -1):
        if "/".join(parts[:length]) in positions:
            return positions["/".join(parts[:length])]
    return None


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
