"""Compiler processes that serve one queue of requests. One compilation uses about two cores by itself."""

import functools
import os

from autoprune.cost.compiler.compiler_errors import result_of
from autoprune.errors import CostError
from autoprune.workers import ChildProcess, WorkerPool, resources

# What a process is expected to take between its start and its end, on average, in bytes.
BYTES_PER_PROCESS = 1.5 * 2**30
MOST_PROCESSES = 4
# A process takes 0.7 to 0.9 GB and grows by 4 MB with each compilation of a small network, by more with large ones.
RESIDENT_LIMIT = 3 * 2**30
RECYCLE_AFTER = 200


def worker_environment(accelerator_type: str, scratch: str) -> dict[str, str]:
    """Environment of a compiler process: Keras on JAX, a described TPU, and no TPU or metadata server looked for.

    Args:
        accelerator_type: value of TPU_ACCELERATOR_TYPE.
        scratch: folder for libtpu's logs and temporary files.
    """
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        # No TPU is opened: other users of libtpu, with a TPU or without, need not be kept out.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": accelerator_type,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LOG_DIR": scratch,
        "TMPDIR": scratch,
    }


class CompilerPool(WorkerPool):
    """Hands compilations, in order, to compiler processes. Its futures raise a `CostError`.

    Args:
        processes: how many may run at once, 1 or more; None is one for every two cores, as many as fit in memory, 1 to
            4.
        accelerator_type: value of TPU_ACCELERATOR_TYPE for the processes.
        timeout: seconds that one compilation may take before its process is killed.
        start_timeout: seconds that a process may take to start.
    """

    def __init__(
        self,
        processes: int | None = None,
        *,
        accelerator_type: str = "v5litepod-4",
        timeout: float = 600,
        start_timeout: float = 300,
    ) -> None:
        super().__init__(
            lambda: ChildProcess(
                "autoprune.cost.compiler.worker",
                name="compiler process",
                environment=functools.partial(worker_environment, accelerator_type),
                start_timeout=start_timeout,
                resident_limit=RESIDENT_LIMIT,
                recycle_after=RECYCLE_AFTER,
            ),
            resources.fitting_processes(BYTES_PER_PROCESS, MOST_PROCESSES) if processes is None else processes,
            bytes_each=BYTES_PER_PROCESS,
            task="compile the model",
            error=lambda message, _: CostError(message),
            read=result_of,
            timeout=timeout,
        )
