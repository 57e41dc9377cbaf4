"""The door to costs: from a target's name to something that costs models on it."""

import dataclasses
import importlib.util
import logging
import os
import platform
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import keras

from autoprune.cost.cache import CostCache, cache_key, open_cache
from autoprune.cost.chips import CHIPS
from autoprune.cost.compiler.cost_model import CompilerCostModel
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.measured.attached_tpu import AttachedTpuCostModel, find_attached_tpu, why_not_attached
from autoprune.cost.measured.cpu import CpuCostModel
from autoprune.errors import TargetError
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.models.keras_internals import check_model
from autoprune.records import CostReport, Target
from autoprune.records.plain import from_plain
from autoprune.registry import suggestion

logger = logging.getLogger(__name__)

DEFAULT_TPU = "tpu_v5e"
DTYPES = ("bfloat16", "float32")


class CostModel(Protocol):
    """Costs models on one target."""

    target: Target

    def submit(self, model: Any) -> Future[CostReport]:
        """A future of the `CostReport` of the model as it is now; its exception is a `CostError`."""
        ...

    def close(self) -> None:
        """Free what the cost model holds, such as a process."""
        ...


class MemoizedCostModel:
    """Asks another cost model once for each architecture: a measured cost is then one number, not several.

    Args:
        inner: the cost model that is asked.
        store: where answers outlive this process, or None.
    """

    def __init__(self, inner: CostModel, store: CostCache | None = None) -> None:
        self.target = inner.target
        self._inner = inner
        self._store = store
        self._known: dict[str, Future[CostReport]] = {}

    def submit(self, model: Any) -> Future[CostReport]:
        """As the inner model's, or its earlier answer. A failure is not remembered."""
        architecture = architecture_fingerprint(model)
        known = self._known.get(architecture)
        if known is not None and not (known.done() and known.exception() is not None):
            return known
        key = data = None
        if self._store is not None:
            # What one machine has measured says nothing of another.
            key = cache_key(architecture=architecture, target=dataclasses.asdict(self.target), host=platform.node())
            data = self._store.get(key)
        if data is not None:
            answer: Future[CostReport] = Future()
            answer.set_result(from_plain(CostReport, data))
        else:
            answer = self._inner.submit(model)
            if self._store is not None and key is not None and answer.exception() is None:
                self._store.put(key, dataclasses.asdict(answer.result()))
        self._known[architecture] = answer
        return answer

    def close(self) -> None:
        """Close the inner model, and the store."""
        self._inner.close()
        if self._store is not None:
            self._store.close()


def target_names() -> list[str]:
    """Every target that a cost model can be opened for."""
    return [*CHIPS, "tpu", "cpu"]


def compiler_available() -> bool:
    """Whether the TPU compiler is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("jax", "libtpu"))


def resolve_target(target: Target) -> Target:
    """Check a target, and choose one when its name is `auto`.

    `auto` is `tpu_v5e` where the TPU compiler is installed, else `cpu`.

    Raises:
        TargetError: the name, batch size or dtype cannot be, or needs the TPU compiler on a platform without it, or an
            attached TPU where there is none.
    """
    name = target.name
    if name == "auto":
        name = DEFAULT_TPU if compiler_available() else "cpu"
    if name == "all":
        raise TargetError("target=all is for `python -m autoprune.measure`; here one target is needed.")
    if name not in target_names():
        raise TargetError(f"There is no target '{name}'. {suggestion(name, [*target_names(), 'auto'])}")
    if name in (*CHIPS, "tpu") and not compiler_available():
        raise TargetError(f"The target {name} cannot be used here. {_no_compiler()} Use target=cpu.")
    if name == "tpu":
        complaint = why_not_attached(find_attached_tpu(), keras.backend.backend(), os.environ.get("JAX_PLATFORMS"))
        if complaint:
            raise TargetError(complaint)
    if target.batch_size < 1:
        raise TargetError(f"target.batch_size must be 1 or more. Received: batch_size={target.batch_size}")
    if target.dtype not in DTYPES:
        raise TargetError(f"There is no dtype '{target.dtype}'. {suggestion(target.dtype, DTYPES)}")
    # On this host a model runs as it is.
    return Target(name, target.batch_size, "float32" if name == "cpu" else target.dtype)


def _no_compiler() -> str:
    return (
        "The TPU compiler (libtpu, with jax) is not installed: it exists for Linux on x86-64, this is "
        f"{platform.system()} on {platform.machine()}, Python {sys.version_info.major}.{sys.version_info.minor}."
    )


def open_cost_model(
    target: Target,
    *,
    cache: str | Path | None = "auto",
    client: CompilerPool | None = None,
    measured: str | Path | None = None,
    route: str = "auto",
    processes: int | None = None,
) -> CostModel:
    """Something that costs models on a target. Close it when done.

    A target `auto` that becomes this host, for lack of the TPU compiler, is a warning.

    Args:
        target: `Target(name, batch_size, dtype)`; the name may be `auto`.
        cache: where compilations are remembered: `auto` is a file in the user's cache folder, `ro` reads that file and
            writes nothing, `off` or None keeps nothing, anything else is the path of a file.
        client: compiler processes to share between targets; they stay open.
        measured: file where what is measured, on this host or its TPU, is kept, so that an architecture has one cost
            in all processes of a search.
        route: how models reach the compiler: `keras`, `tensorflow` or `auto` (see `CompilerCostModel`).
        processes: how many compiler processes may run at once, where no client is given; None chooses by cores and
            memory.

    Raises:
        TargetError: the target cannot be used here.
    """
    asked, target = target.name, resolve_target(target)
    if target.name == "cpu":
        if asked == "auto":
            logger.warning("target auto: %s Costs are measured on this host instead.", _no_compiler())
        return MemoizedCostModel(CpuCostModel(target), CostCache(Path(measured)) if measured else None)
    if target.name == "tpu":
        compilations = open_cache(cache)
        attached = AttachedTpuCostModel(
            target, lambda described: CompilerCostModel(described, compilations, client, "keras", 1)
        )
        return MemoizedCostModel(attached, CostCache(Path(measured)) if measured else None)
    return MemoizedCostModel(CompilerCostModel(target, open_cache(cache), client, route, processes))


def measure_cost(
    model: Any,
    target: str = "auto",
    batch_size: int = 128,
    dtype: str = "bfloat16",
    *,
    cache: str | None = "auto",
) -> CostReport:
    """What one inference call of a model costs on a target.

    Args:
        model: a built Functional or Sequential model with a static input size.
        target: `tpu_v2`, `tpu_v3`, `tpu_v4`, `tpu_v5e`, `tpu_v5p`, `tpu_v6e` or `tpu7x`, estimated by the TPU compiler;
            `tpu`, measured on an attached one; `cpu`, measured on this host; or `auto`.
        batch_size: images per call on one device.
        dtype: `bfloat16` or `float32`.
        cache: where compilations are remembered: `auto`, `ro`, `off` or a path, see `open_cost_model`.

    Raises:
        ModelError: it is no model, such as the path of one.
        TargetError: the target cannot be used here.
        CostError: the compiler refuses the model, in its own words.

    Example:
        >>> cost = autoprune.measure_cost(model, target="tpu_v5e", batch_size=8)
        >>> cost.kind, cost.parameters, 0 < cost.latency < 1e-3
        ('compiler estimate', 3189, True)
    """
    check_model(model)
    cost_model = open_cost_model(Target(target, batch_size, dtype), cache=cache)
    try:
        return cost_model.submit(model).result()
    finally:
        cost_model.close()
