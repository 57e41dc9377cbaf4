"""Times a forward pass on a device that JAX has: this host's processor, or an attached TPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autoprune.cost.compiler import hlo
from autoprune.cost.compiler.compiler_errors import describe_error
from autoprune.cost.measured.timing import Timing, make_loop, time_loop
from autoprune.errors import RouteError
from autoprune.records import Memory


@dataclass(frozen=True)
class JaxTiming:
    """What was measured, and what the compiler says of the program that ran.

    Attributes:
        timing: latency of one forward pass.
        memory: the executable's own figures, in bytes; `total` is their sum.
        peak: the most bytes that were in use on the device until the forward pass had run once; None where the device
            does not tell.
        traffic: bytes that the program moves to and from the device's memory.
        figures: `memory_analysis` of the executable, as the compiler names its parts, in bytes.
    """

    timing: Timing
    memory: Memory
    peak: int | None
    traffic: int
    figures: dict[str, int]


def time_on_jax(forward: Callable[[Any, list[Any]], Any], state: Any, batch: list[Any], device: Any) -> JaxTiming:
    """Compile a forward pass for a device and measure it there.

    Args:
        forward: takes weights, in any structure, and a list of inputs.
        state: the weights.
        batch: the inputs.
        device: JAX's device; weights and inputs are placed there before anything is timed.

    Raises:
        RouteError: Keras cannot trace it on JAX.
        CostError: it cannot be timed.
    """
    state, batch = jax.device_put((state, batch), device)
    try:
        lowered = jax.jit(forward).lower(state, batch)
    except Exception as error:  # whatever the layers of a model raise
        raise RouteError(f"The model cannot be traced by Keras on JAX: {describe_error(error)}") from error
    executable = lowered.compile()
    outputs = jax.tree.leaves(jax.block_until_ready(executable(state, batch)))
    # The loop holds inputs and outputs of its own: what is in use is asked before it runs.
    statistics = device.memory_stats()
    module, analysis = hlo.parse_module(executable.as_text()), executable.memory_analysis()
    parts = ("argument", "output", "alias", "temp", "generated_code")
    carried = (list(batch), outputs)
    loop = jax.jit(make_loop(forward), donate_argnums=(2, 3)).lower(jnp.int32(0), state, *carried).compile()

    def run(iterations: int) -> None:
        nonlocal carried
        carried = jax.block_until_ready(loop(np.int32(iterations), state, *carried))

    return JaxTiming(
        timing=time_loop(run),
        memory=hlo.memory_of(analysis, module, len(batch)),
        peak=statistics.get("peak_bytes_in_use") if statistics else None,
        traffic=hlo.hbm_traffic(module),
        figures={part: getattr(analysis, f"{part}_size_in_bytes") for part in parts},
    )
