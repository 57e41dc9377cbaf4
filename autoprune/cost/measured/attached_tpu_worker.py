"""Runs in the process that measures one model on an attached TPU for `attached_tpu.py`.

A process serves one model: memory statistics of a device have no reset. It holds Keras on JAX, never TensorFlow.
"""

import math
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from autoprune.cost.compiler.compiler_errors import describe_error, encode_error
from autoprune.cost.compiler.programs import inference_program
from autoprune.cost.measured.jax_timing import time_on_jax
from autoprune.cost.measured.timing import example_inputs
from autoprune.errors import CostError, ModelError, RouteError


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Rebuild a model from its config, give it random weights on the device, and measure its forward pass.

    Args:
        request: what `inference_program` takes, and `platform`: JAX's name of the kind of device.

    Returns:
        `latency` and `iqr` in seconds, `runs`, `lengths` of the two loops; in bytes `memory` (weights, activations,
        code, total), `figures` (the executable's memory analysis), `peak` (or None) and `traffic`; `device` (its kind),
        `runtime`, `versions`.

    Raises:
        CostError: there is no such device, or the model cannot be timed.
        RouteError: the model cannot be rebuilt in this process.
    """
    try:
        device = jax.devices(request["platform"])[0]
    except RuntimeError as error:
        raise CostError(f"JAX cannot open a {request['platform']} device: {describe_error(error)}") from error
    try:
        program = inference_program(request)
    except ModelError as error:
        raise RouteError(str(error)) from error
    batch = example_inputs([(leaf.shape, leaf.dtype.name) for leaf in program.batch])
    result = time_on_jax(program.function, random_weights(program.state, device), batch, device)
    memory, timing = result.memory, result.timing
    return {
        "latency": timing.latency,
        "iqr": timing.iqr,
        "runs": timing.runs,
        "lengths": timing.lengths,
        "memory": [memory.weights, memory.activations, memory.code, memory.total],
        "figures": result.figures,
        "peak": result.peak,
        "traffic": result.traffic,
        "device": device.device_kind,
        "runtime": " ".join(device.client.platform_version.split()),
        "versions": versions(),
    }


def random_weights(shapes: Any, device: Any) -> Any:
    """Weights of the given shapes, made on the device by one program that needs no memory but theirs.

    Matrices and kernels are spread around 0 so that activations neither vanish nor overflow, vectors lie between 0.5
    and 1.5, which suits biases and variances; integers are 0.
    """
    leaves, structure = jax.tree.flatten(shapes)

    def make(seed: jax.Array) -> list[jax.Array]:
        weights = []
        for number, leaf in enumerate(leaves):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                weights.append(jnp.zeros(leaf.shape, leaf.dtype))
                continue
            # A hash of the position: JAX's generators would be a long program for each of hundreds of weights.
            bits = (seed + number) * jnp.uint32(2654435761)
            for axis in range(len(leaf.shape)):
                bits = (bits ^ jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)) * jnp.uint32(0x9E3779B1)
                bits = bits ^ (bits >> 15)
            unit = jnp.broadcast_to(bits, leaf.shape).astype(jnp.float32) / 2.0**32
            spread = math.sqrt(12 / max(1, math.prod(leaf.shape[:-1])))
            weights.append((unit + 0.5 if len(leaf.shape) < 2 else (unit - 0.5) * spread).astype(leaf.dtype))
        return weights

    made = jax.jit(make, out_shardings=SingleDeviceSharding(device))(jnp.uint32(1))
    return jax.tree.unflatten(structure, jax.block_until_ready(made))


def versions() -> dict[str, str]:
    """Versions of everything that a figure depends on; libtpu may be the system's own."""
    found = {}
    for name in ("jax", "jaxlib", "libtpu", "keras"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request says; a failure is an answer, not a crash."""
    try:
        return {"result": measure(request)}
    except RouteError as error:
        return encode_error(error)
    except CostError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever the model or the compiler raises goes to the asker
        return encode_error(error)


def make_handler() -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """What answers the request in this process."""
    return lambda request, tell: answer(request)
