"""Cost on an attached TPU, measured: kind `measured`, target `tpu`.

Every model gets a process of its own (`attached_worker.py`), since a device's memory statistics have no reset. Each
measurement is also a check of the estimates: the compiler's account of the program that ran is compared with what it
says of the same model when it only compiles for the described chip.
"""

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from autoprune.cost.chips import CHIPS
from autoprune.cost.compiler.compiler_errors import result_of
from autoprune.cost.compiler.cost_model import check_static
from autoprune.cost.flops import count_flops
from autoprune.errors import CostError
from autoprune.models import keras_internals
from autoprune.models.config import layer_modules, without_training
from autoprune.records import CostReport, Memory, Target
from autoprune.workers import ChildProcess, DeadChildError

logger = logging.getLogger(__name__)

# What JAX calls a device of each chip; libtpu's own words for the described ones, and those of other releases.
CHIP_OF_KIND = {
    "TPU v2": "tpu_v2",
    "TPU v3": "tpu_v3",
    "TPU v4": "tpu_v4",
    "TPU v5 lite": "tpu_v5e",
    "TPU v5e": "tpu_v5e",
    "TPU v5": "tpu_v5p",
    "TPU v5p": "tpu_v5p",
    "TPU v6 lite": "tpu_v6e",
    "TPU v6e": "tpu_v6e",
    "TPU7x": "tpu7x",
}
DEVICE_FILES = ("accel[0-9]*", "vfio/[0-9]*")
MARKS = ("TPU_NAME", "TPU_WORKER_ID")


def find_attached_tpu(folder: Path = Path("/dev"), environment: Mapping[str, str] = os.environ) -> str:
    """What shows that a TPU is attached to this host, such as `/dev/accel0`; empty when nothing does.

    Args:
        folder: where device files lie.
        environment: variables, some of which only a TPU VM sets.
    """
    for pattern in DEVICE_FILES:
        for path in sorted(folder.glob(pattern)):
            return str(path)
    return next((name for name in MARKS if environment.get(name)), "")


def why_not_attached(found: str, backend: str, platforms: str | None) -> str:
    """Why the target `tpu` cannot be used here, and what to do; empty when it can.

    Args:
        found: what `attached_tpu` found.
        backend: Keras's backend in this process.
        platforms: value of JAX_PLATFORMS in this process.
    """
    if not found:
        return (
            "The target tpu needs a TPU attached to this host, and there is none: no device file "
            f"{' or '.join(f'/dev/{pattern}' for pattern in DEVICE_FILES)}, and neither {' nor '.join(MARKS)} is set. "
            "Choose tpu_v5e or another generation, whose costs the TPU compiler estimates without a TPU."
        )
    if backend == "jax" and platforms != "cpu":
        return (
            "The target tpu measures in processes of its own, and Keras on JAX in this one would keep the TPU from "
            "them. Start it with JAX_PLATFORMS=cpu, or with KERAS_BACKEND=tensorflow."
        )
    return ""


def self_check(live: Memory, compiled: Memory) -> str:
    """`equal`, or which parts of a program's memory, in bytes, differ between two compilations of one model."""
    parts = ("weights", "activations", "code")
    pairs = [(part, getattr(live, part), getattr(compiled, part)) for part in parts]
    return "; ".join(f"{part} {a} on the device, {b} when only compiled" for part, a, b in pairs if a != b) or "equal"


class AttachedTpuCostModel:
    """Measures models on a device that is attached to this host, each in a fresh process.

    Args:
        target: name `tpu`; batch size and dtype.
        reference: opens a cost model that compiles for a described chip, for the self-check; None: no self-check.
        platform: JAX's name of the kind of device.
        timeout: seconds that one model may take, the start of its process included.
        chip_of_kind: name of the chip by JAX's name of the device.
    """

    def __init__(
        self,
        target: Target,
        reference: Callable[[Target], Any] | None = None,
        *,
        platform: str = "tpu",
        timeout: float = 900,
        chip_of_kind: Mapping[str, str] = CHIP_OF_KIND,
    ) -> None:
        self.target = target
        self._open_reference = reference
        self._references: dict[str, Any] = {}
        self._platform = platform
        self._timeout = timeout
        self._chip_of_kind = chip_of_kind

    def submit(self, model: Any) -> Future[CostReport]:
        """Measure a model at once; the future is finished when this returns.

        Returns:
            A future of a `CostReport`; its exception is a `CostError`: an input size of the model is not fixed, the
            process cannot rebuild the model or open the device, the compiler refuses, or it took too long.
        """
        report: Future[CostReport] = Future()
        try:
            check_static(model)
            request = {
                "config": without_training(keras_internals.graph_config(model)),
                "modules": layer_modules(model),
                "batch_size": self.target.batch_size,
                "dtype": self.target.dtype,
                "platform": self._platform,
            }
            result = result_of(ask_fresh_process(request, self._platform, self._timeout))
            name = self._chip_of_kind.get(result["device"])
            report.set_result(self._report(model, result, self._check_estimate(model, result, name), name))
        except CostError as error:
            report.set_exception(error)
        return report

    def close(self) -> None:
        """Close the cost models of the self-check."""
        for reference in self._references.values():
            reference.close()
        self._references.clear()

    def _report(self, model: Any, result: dict[str, Any], check: str, name: str | None) -> CostReport:
        flops = count_flops(model, self.target.batch_size)
        weights, activations, code, total = result["memory"]
        chip = CHIPS[name] if name else None
        return CostReport(
            target=self.target,
            kind="measured",
            latency=result["latency"],
            latency_sum=None,
            latency_iqr=result["iqr"],
            memory=Memory(weights, activations, code, total if result["peak"] is None else result["peak"]),
            flops=flops,
            parameters=model.count_params(),
            traffic=result["traffic"] if chip else None,
            utilisation=chip.utilisation(flops, result["latency"]) if chip else None,
            bound=chip.bound(flops, result["traffic"]) if chip else None,
            provenance={
                "device": result["device"],
                "chip": name or "unknown",
                "runs": result["runs"],
                "loop_lengths": "{} and {}".format(*result["lengths"]),
                "total": "sum of the parts" if result["peak"] is None else "peak bytes in use",
                "self_check": check,
                **{f"{part}_bytes": size for part, size in result["figures"].items()},
                "runtime": result["runtime"],
                **result["versions"],
            },
        )

    def _check_estimate(self, model: Any, result: dict[str, Any], name: str | None) -> str:
        """The self-check's outcome; a difference is a warning, for the measurement holds all the same."""
        if name is None:
            return f"not done: no chip is described for the device '{result['device']}'"
        if self._open_reference is None:
            return "not done: there is no compiler to compare with"
        if name not in self._references:
            target = Target(name, self.target.batch_size, self.target.dtype)
            self._references[name] = self._open_reference(target)
        try:
            compiled = self._references[name].submit(model).result()
        except CostError as error:
            return f"not done: {error}"
        outcome = self_check(Memory(*result["memory"]), compiled.memory)
        if outcome != "equal":
            logger.warning(
                "the TPU's compiler and that of the estimates for %s disagree on the memory of '%s': %s. Estimates for "
                "%s need not hold for this TPU.",
                *(name, model.name, outcome, name),
            )
        return outcome


def ask_fresh_process(request: dict[str, Any], platform: str, timeout: float) -> dict[str, Any]:
    """The answer of a process that is started for one request. It and its scratch folder are gone afterwards.

    Args:
        request: what `attached_tpu_worker.measure` takes.
        platform: JAX's name of the kind of device, the only one that the process may use.
        timeout: seconds that the process may take to start, and then to answer, before it is killed.

    Raises:
        CostError: it took too long, or died; the message holds its last words.
    """
    # With the variable left out, libtpu keeps two processes from using one TPU.
    inherited = {name: value for name, value in os.environ.items() if name != "ALLOW_MULTIPLE_LIBTPU_LOAD"}
    with ChildProcess(
        "autoprune.cost.measured.attached_tpu_worker",
        name=f"process that measures on the {platform} device",
        # Keras on JAX, and that device alone.
        environment=lambda scratch: {
            **inherited,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": platform,
            "TPU_LOG_DIR": scratch,
        },
        start_timeout=timeout,
    ) as process:
        try:
            answer = process.ask(request, task="measure the model", timeout=timeout)
        except DeadChildError as error:
            raise CostError(str(error)) from None
        process.stop(grace=30)  # it lets go of the device in order
        return answer
