"""Runs in a compiler process: compiles what `pool.py` asks for.

It holds Keras on JAX and libtpu, never TensorFlow, because libtpu may end the process it lives in.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras

from autoprune.cost.compiler import hlo, topology
from autoprune.cost.compiler.compiler_errors import describe_error, encode_error, find_failing_layer
from autoprune.cost.compiler.programs import Program, forward_pass, hlo_program, inference_program
from autoprune.cost.compiler.training_program import training_step_program
from autoprune.errors import ModelError, RouteError
from autoprune.models.config import rebuild_without_weights

PROGRAMS: dict[str, Callable[[dict[str, Any]], Program]] = {
    "inference": inference_program,
    "exported": hlo_program,
    "training step": training_step_program,
}


class Compiler:
    """Compiles programs for described chips; descriptions are made once."""

    def __init__(self) -> None:
        self._devices: dict[str, tuple[Any, ...]] = {}
        self._available: dict[str, int | None] = {}

    def compile(self, request: dict[str, Any]) -> dict[str, Any]:
        """Compile one program and read the compiler's figures.

        Args:
            request: `program` (a name in `PROGRAMS`) and what it needs; `topology`, `options`, `clock` (cycles per
                second), `bandwidth` (bytes per second); `devices`, the first so many of the topology, by default one.

        Returns:
            `latency` and `latency_sum` in seconds; in bytes of one device `weights` (the program's state),
            `activations`, `code`, `total`, `traffic` (read from and written to HBM), `communicated` (got from
            operations over all devices) and `available` (HBM that a program may take); `kernels`, each as the positions
            of the layers in it and its seconds.

        Raises:
            RouteError: the program cannot be made or traced in this process.
        """
        try:
            # TensorFlow's states of random generators have 64 bits.
            with jax.enable_x64(True) if "hlo" in request else contextlib.nullcontext():
                program: Program = PROGRAMS[request["program"]](request)
                lowered = self._trace(program, request)
        except ModelError as error:
            raise RouteError(str(error)) from error
        except Exception as error:  # whatever the layers of a model raise
            raise RouteError(f"The model cannot be traced by Keras on JAX: {describe_error(error)}") from error
        compiled = lowered.compile()
        name = request["topology"]
        if name not in self._available:
            self._available[name] = topology.available_memory(self._describe(request)[0])
        module = hlo.parse_module(topology.text_of(lowered, compiled))
        steps = hlo.walk_schedule(module, request["clock"], request["bandwidth"])
        memory = hlo.memory_of(compiled.memory_analysis(), module, len(jax.tree.leaves(program.batch)))
        return {
            "latency": sum(delay for _, delay in steps),
            "latency_sum": hlo.total_cycles(module) / request["clock"],
            **dataclasses.asdict(memory),
            "traffic": hlo.hbm_traffic(module),
            "communicated": hlo.collective_bytes(module),
            "available": self._available[name],
            "kernels": kernels(module, steps, program.paths),
        }

    def _trace(self, program: Program, request: dict[str, Any]) -> Any:
        devices = self._describe(request)[: request.get("devices", 1)]
        state, batch = topology.place_arguments(program.state, program.batch, devices)
        return jax.jit(program.function, donate_argnums=(0,) if program.donated else ()).lower(state, batch)

    def name_failing_layer(self, request: dict[str, Any]) -> str:
        """The layer for which an inference request was refused, in words; empty when there is none to name."""

        def works(part: Any) -> bool:
            try:
                self._trace(forward_pass(part, request["batch_size"]), request).compile()
            except Exception:  # noqa: BLE001 - any refusal is what is looked for
                return False
            return True

        try:
            model = rebuild_without_weights(request["config"], request["modules"], request["dtype"])
            return f" The first layer that is refused: '{find_failing_layer(model, works)}'."
        except Exception:  # noqa: BLE001 - a model that cannot be rebuilt has no layers here
            return ""

    def _describe(self, request: dict[str, Any]) -> tuple[Any, ...]:
        name = request["topology"]
        if name not in self._devices:
            self._devices[name] = topology.describe_devices(name, request["options"])
        return self._devices[name]


def kernels(module: hlo.Module, steps: list[tuple[hlo.Instruction, float]], paths: Sequence[str]) -> list[Any]:
    """Time by kernel: pairs of the positions in `paths` of the layers that a kernel computes, and its seconds.

    Kernels of the same layers are one pair; what belongs to no layer, such as waiting for copies, has no positions.
    """
    positions = {path: position for position, path in enumerate(paths)}
    times: dict[tuple[int, ...], float] = {}
    for instruction, delay in steps:
        if delay > 0:
            found = set()
            for scope in hlo.kernel_layers(module, instruction):
                parts = scope.removeprefix("call_exported/").split("/")
                # The innermost layer that the scope names.
                outer = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
                path = next((path for path in outer if path in positions), None)
                found |= set() if path is None else {positions[path]}
            key = tuple(sorted(found))
            times[key] = times.get(key, 0.0) + delay
    return [[list(key), delay] for key, delay in times.items()]


def answer(compiler: Compiler, request: dict[str, Any]) -> dict[str, Any]:
    """Do what one request says; a failure of the compiler is an answer, not a crash."""
    try:
        return {"result": compiler.compile(request)}
    except Exception as error:  # noqa: BLE001 - whatever the model or the compiler raises goes to the asker
        refused = encode_error(error)
        # A request that names no program has no model either.
        if request.get("program") == "inference" and refused["kind"] != "memory":
            refused["error"] += compiler.name_failing_layer(request)
        return refused
    finally:
        jax.clear_caches()
        keras.backend.clear_session(free_memory=False)


def make_handler() -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """What answers requests in this process."""
    compiler = Compiler()
    return lambda request, tell: answer(compiler, request)
