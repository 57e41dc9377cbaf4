"""Compiler processes that serve one queue of requests.

Each is started only when a request waits and none is idle, and replaced when it dies, hangs, grows too large or has
served long enough. One compilation uses about two cores by itself.
"""

import functools
import logging
import os
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

from autoprune.cost.compiler.compiler_errors import decode_error
from autoprune.errors import CostError
from autoprune.workers import ChildProcess, DeadChildError
from autoprune.workers.resources import available_memory, usable_cores

logger = logging.getLogger(__name__)

# What a process is expected to take between its start and its end, on average, in bytes.
BYTES_PER_PROCESS = 1.5 * 2**30
MOST_PROCESSES = 4
# A process takes 0.7 to 0.9 GB and grows by 4 MB with each compilation of a small network, by more with large ones.
RESIDENT_LIMIT = 3 * 2**30
RECYCLE_AFTER = 200
_JOIN_SECONDS = 10


def automatic_processes() -> int:
    """How many compiler processes suit this machine: one for every two cores, as many as fit in memory, 1 to 4."""
    return int(max(1, min(MOST_PROCESSES, usable_cores() // 2, available_memory() // BYTES_PER_PROCESS)))


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


class CompilerPool:
    """Hands requests, in order, to compiler processes. Close it when done.

    Args:
        processes: how many may run at once, 1 or more; None chooses by cores and memory. Beyond the first, one is
            started only while there is memory for it.
        accelerator_type: value of TPU_ACCELERATOR_TYPE for the processes.
        timeout: seconds that one compilation may take before its process is killed.
        start_timeout: seconds that a process may take to start.

    Attributes:
        processes: how many may run at once.
    """

    def __init__(
        self,
        processes: int | None = None,
        *,
        accelerator_type: str = "v5litepod-4",
        timeout: float = 600,
        start_timeout: float = 300,
    ) -> None:
        self.processes = automatic_processes() if processes is None else processes
        self._accelerator_type = accelerator_type
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._changed = threading.Condition()
        self._waiting: deque[tuple[dict[str, Any], Future[dict[str, Any]]]] = deque()
        self._workers: list[tuple[ChildProcess, threading.Thread]] = []
        self._idle = 0
        self._answers = 0
        self._closed = False

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The processes that run."""
        found = (process.id for process, _ in self._workers)
        return tuple(number for number in found if number is not None)

    @property
    def answers(self) -> int:
        """How many requests have been answered by a process, refusals included."""
        return self._answers

    def submit(self, request: dict[str, Any]) -> Future[dict[str, Any]]:
        """Ask for one compilation.

        Returns:
            A future of the worker's result; its exception is a `CostError`, also when the pool is closed first.

        Raises:
            CostError: the pool is closed.
        """
        future: Future[dict[str, Any]] = Future()
        with self._changed:
            if self._closed:
                raise CostError("The compiler pool is closed.")
            self._waiting.append((request, future))
            if len(self._waiting) > self._idle:
                # The memory of a process that has only just been started is still counted as free.
                to_come = sum(not process.settled for process, _ in self._workers) + 1
                room = len(self._workers) < self.processes and available_memory() >= to_come * BYTES_PER_PROCESS
                if room or not self._workers:
                    self._grow()
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the processes at once. What waits or is being compiled gets a `CostError`."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for process, _ in self._workers:
            process.end()
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(_closing_error())
        for _, thread in self._workers:
            # A thread that runs somebody's callback, such as this very one, is not waited for without end.
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    def _grow(self) -> None:
        """One more process, with the thread that supervises it; the process itself starts with its first request."""
        process = ChildProcess(
            "autoprune.cost.compiler.worker",
            name="compiler process",
            environment=functools.partial(worker_environment, self._accelerator_type),
            start_timeout=self._start_timeout,
            resident_limit=RESIDENT_LIMIT,
            recycle_after=RECYCLE_AFTER,
        )
        thread = threading.Thread(target=self._serve, args=(process,), name="compiler process", daemon=True)
        self._workers.append((process, thread))
        thread.start()

    def _serve(self, process: ChildProcess) -> None:
        """Body of a thread: requests in order until the pool is closed."""
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._idle -= 1
                if self._closed:
                    break
                request, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = self._ask(process, request)
            except CostError as error:
                future.set_exception(error)
            except Exception as error:  # noqa: BLE001 - the asker must hear of it, or it waits for ever
                future.set_exception(CostError(f"The compiler pool failed: {type(error).__name__}: {error}"))
            else:
                future.set_result(result)
        process.end()

    def _ask(self, process: ChildProcess, request: dict[str, Any]) -> dict[str, Any]:
        """A process that died is replaced once; what the compiler itself refuses is final, and so is a time-out.

        Raises:
            CostError: there is no result.
        """
        for last_try in (False, True):
            try:
                answer = process.ask(request, task="compile the model", timeout=self._timeout)
                break
            except DeadChildError as error:
                if self._closed:
                    raise _closing_error() from None
                if not error.retry:
                    raise CostError(str(error)) from None
                if last_try:
                    raise CostError(
                        f"The compiler process died twice on this model before it could {error.task}. Its last words: "
                        f"{error.last_words}"
                    ) from None
                logger.info("a compiler process is replaced: %s", error)
        with self._changed:
            self._answers += 1
        if "error" in answer:
            raise decode_error(answer)
        return answer["result"]


def _closing_error() -> CostError:
    return CostError("The compiler pool was closed before the model was compiled.")
