"""Where a program's arguments lie: on one described device, or on all chips of a slice. Runs in the worker process."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from autoprune.cost.compiler.compiler_errors import encode_error

# Of a program that cannot be printed: without the reduction on SparseCores, of which libtpu prints what it cannot read.
_PRINTABLE = {"xla_tpu_enable_sparse_core_collective_offload_all_reduce": False}


def describe_devices(topology: str, options: dict[str, Any]) -> tuple[Any, ...]:
    """The devices of a topology that libtpu knows by name."""
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices)


def place_arguments(state: Any, batch: Any, devices: Sequence[Any]) -> tuple[Any, Any]:
    """Shapes of state and batch with their devices: every device has the whole state and its share of the batch."""
    if len(devices) == 1:
        whole = shared = SingleDeviceSharding(devices[0])
    else:
        mesh = Mesh(np.array(devices), ("batch",))
        whole, shared = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    state, batch = (
        jax.tree.map(lambda leaf, on=sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on), part)
        for part, sharding in ((state, whole), (batch, shared))
    )
    return state, batch


def text_of(lowered: Any, compiled: Any) -> str:
    """The compiled program as text.

    libtpu cannot print programs that reduce over the devices of tpu7x on SparseCores: they are compiled again without.
    """
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        return lowered.compile(compiler_options=_PRINTABLE).as_text()


def available_memory(device: Any) -> int | None:
    """Bytes of HBM that a program may take on a device: what the compiler says when it refuses far too large a one."""
    huge = jax.ShapeDtypeStruct((2**28, 1024), "float32", sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    except Exception as error:  # noqa: BLE001 - the refusal is the answer
        available = encode_error(error).get("available")
        return None if available is None else round(available)
    return None
