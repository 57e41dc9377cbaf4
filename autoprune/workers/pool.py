"""Child processes that serve one queue of requests.

Each is started only when a request waits and none is idle, and replaced when it dies, hangs, grows too large or has
served long enough.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from autoprune.errors import AutopruneError
from autoprune.workers import resources
from autoprune.workers.child import ChildProcess, DeadChildError

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 10


class WorkerPool:
    """Hands requests, in order, to child processes. Close it when done.

    Args:
        make_process: makes one of the processes; it starts with its first request.
        processes: how many may run at once, 1 or more. Beyond the first, one is started only while there is memory.
        bytes_each: of memory that a process is expected to take.
        name: what messages call a process, such as `compiler process`.
        task: what it does with a request, such as `compile the model`.
        error: what futures raise, made of a message and of what a process could not do: `task`, or `start`, or `get
            ready` for its first request.
        read: makes the result of an answer; its exception is the future's.
        timeout: seconds that one request may take before its process is killed; None waits without end.

    Attributes:
        processes: how many may run at once.
    """

    def __init__(
        self,
        make_process: Callable[[], ChildProcess],
        processes: int,
        *,
        bytes_each: float,
        name: str,
        task: str,
        error: Callable[[str, str], AutopruneError],
        read: Callable[[dict[str, Any]], Any],
        timeout: float | None = None,
    ) -> None:
        self.processes = processes
        self._make_process = make_process
        self._bytes_each = bytes_each
        self._name = name
        self._task = task
        self._error = error
        self._read = read
        self._timeout = timeout
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Mapping[str, Any], Future[Any]]] = deque()
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

    def submit(self, request: Mapping[str, Any]) -> Future[Any]:
        """Ask for one thing.

        Returns:
            A future of what `read` makes of the answer; its exception is what `error` makes, also when the pool is
            closed first.

        Raises:
            AutopruneError: made by `error`: the pool is closed.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                raise self._closing_error()
            self._waiting.append((request, future))
            if len(self._waiting) > self._idle:
                # The memory of a process that has only just been started is still counted as free.
                to_come = sum(not process.settled for process, _ in self._workers) + 1
                fits = resources.available_memory() >= to_come * self._bytes_each
                if (len(self._workers) < self.processes and fits) or not self._workers:
                    self._grow()
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the processes at once. What waits or is being worked on gets an error."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for process, _ in self._workers:
            process.end()
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(self._closing_error())
        for _, thread in self._workers:
            # A thread that runs somebody's callback, such as this very one, is not waited for without end.
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    def _grow(self) -> None:
        """One more process, with the thread that supervises it."""
        process = self._make_process()
        thread = threading.Thread(target=self._serve, args=(process,), name=self._name, daemon=True)
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
            except AutopruneError as error:
                future.set_exception(error)
            except Exception as error:  # noqa: BLE001 - the asker must hear of it, or it waits for ever
                message = f"The {self._name} failed: {type(error).__name__}: {error}"
                future.set_exception(self._error(message, self._task))
            else:
                future.set_result(result)
        process.end()

    def _ask(self, process: ChildProcess, request: Mapping[str, Any]) -> Any:
        """A process that died is replaced once; what it refuses is final, and so is a time-out."""
        for last_try in (False, True):
            try:
                answer = process.ask(request, task=self._task, timeout=self._timeout)
                break
            except DeadChildError as error:
                if self._closed:
                    raise self._closing_error() from None
                if not error.retry:
                    raise self._error(str(error), error.task) from None
                if last_try:
                    words = f"The {self._name} died twice before it could {error.task}. Its last words: "
                    raise self._error(words + error.last_words, error.task) from None
                logger.info("a %s is replaced: %s", self._name, error)
        with self._changed:
            self._answers += 1
        return self._read(answer)

    def _closing_error(self) -> AutopruneError:
        return self._error(f"The pool was closed before it could {self._task}.", self._task)
