"""Workers that serve one queue of requests: child processes of this one, or actors on other machines.

Each is started only when a request waits and none is idle. What a worker that was lost had in hand is asked again, of
whichever is free next.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from autoprune.errors import AutopruneError
from autoprune.workers import resources
from autoprune.workers.child import DeadChildError

logger = logging.getLogger(__name__)

MOST_DEATHS = 2  # Of workers that had a request in hand, after which it is not asked again.
MOST_STARTS = 3  # Of workers that were to start for it, while none of the pool has answered yet: none may ever start.
MOST_RESTARTS = 10  # The same, where some have: nodes come and go.
_JOIN_SECONDS = 10


class Worker(Protocol):
    """What answers one request at a time: a `ChildProcess`, or something like it.

    Attributes:
        name: what messages call it, such as `compiler process`.
        settled: whether it has answered before, so that its memory is no longer to come.
    """

    name: str
    settled: bool

    @property
    def id(self) -> int | None:
        """Its process id while it runs."""
        ...

    def get_ready(self) -> None:
        """Wait until a request would be worked on at once; a `DeadChildError` where it cannot be."""
        ...

    def is_lost(self) -> bool:
        """Whether it was ready, and could not even take a request now."""
        ...

    def ask(self, request: Mapping[str, Any], *, task: str, timeout: float | None = None) -> dict[str, Any]:
        """Its answer; a `DeadChildError` where there is none."""
        ...

    def end(self) -> None:
        """End it for good, from any thread."""
        ...


@dataclass(eq=False)
class _Request:
    """A request, and what became of it so far."""

    content: Mapping[str, Any]
    future: Future[Any] = field(default_factory=Future)
    deaths: Counter[str] = field(default_factory=Counter)  # By what a worker was to do.


class WorkerPool:
    """Hands requests, in order, to workers. Close it when done.

    Args:
        make_worker: makes one of the workers.
        processes: how many may run at once, 1 or more. Beyond the first, one is started only while there is memory.
        bytes_each: of this machine's memory that a worker is expected to take.
        task: what it does with a request, such as `compile the model`.
        error: what futures raise, made of a message and of what a worker could not do: `task`, or `start`, or `get
            ready`.
        read: makes the result of an answer; its exception is the future's.
        timeout: seconds that one request may take before its worker is ended; None waits without end.

    Attributes:
        processes: how many may run at once.
        answers: how many requests have been answered by a worker, refusals included.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        processes: int,
        *,
        bytes_each: float,
        task: str,
        error: Callable[[str, str], AutopruneError],
        read: Callable[[dict[str, Any]], Any],
        timeout: float | None = None,
    ) -> None:
        self.processes = processes
        self._make_worker = make_worker
        self._bytes_each = bytes_each
        self._task = task
        self._error = error
        self._read = read
        self._timeout = timeout
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._workers: list[tuple[Worker, threading.Thread]] = []
        self._idle = 0
        self.answers = 0
        self._closed = False

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The processes that run."""
        found = (worker.id for worker, _ in self._workers)
        return tuple(number for number in found if number is not None)

    def submit(self, request: Mapping[str, Any]) -> Future[Any]:
        """Ask for one thing.

        Returns:
            A future of what `read` makes of the answer; its exception is what `error` makes, also when the pool is
            closed first.

        Raises:
            AutopruneError: made by `error`: the pool is closed.
        """
        asked = _Request(request)
        with self._changed:
            if self._closed:
                raise self._closing_error()
            self._waiting.append(asked)
            if len(self._waiting) > self._idle:
                # The memory of a process that has only just been started is still counted as free.
                to_come = sum(not worker.settled for worker, _ in self._workers) + 1
                fits = resources.available_memory() >= to_come * self._bytes_each
                if (len(self._workers) < self.processes and fits) or not self._workers:
                    worker = self._make_worker()
                    thread = threading.Thread(target=self._serve, args=(worker,), name=worker.name, daemon=True)
                    self._workers.append((worker, thread))
                    thread.start()
            self._changed.notify()
        return asked.future

    def close(self) -> None:
        """End the workers at once. What waits or is being worked on gets an error."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for worker, _ in self._workers:
            worker.end()
        for asked in waiting:
            if asked.deaths or asked.future.set_running_or_notify_cancel():
                asked.future.set_exception(self._closing_error())
        for _, thread in self._workers:
            # A thread that runs somebody's callback, such as this very one, is not waited for without end.
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    def _serve(self, worker: Worker) -> None:
        """Body of a thread: requests in order until the pool is closed."""
        while True:
            trouble = None
            try:
                worker.get_ready()
            except DeadChildError as error:
                trouble = error  # Whoever is next hears of it.
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._idle -= 1
                if self._closed:
                    break
                asked = self._waiting.popleft()
            # Nothing that the request has done: a node may be lost with all its workers, idle ones too.
            if trouble is None and worker.is_lost() and self._put_back(asked):
                continue
            if not asked.deaths and not asked.future.set_running_or_notify_cancel():
                continue
            try:
                if trouble is not None:
                    raise trouble
                answer = worker.ask(asked.content, task=self._task, timeout=self._timeout)
                with self._changed:
                    self.answers += 1
                asked.future.set_result(self._read(answer))
            except DeadChildError as error:
                self._bury(worker, asked, error)
            except AutopruneError as error:
                asked.future.set_exception(error)
            except Exception as error:  # noqa: BLE001 - the asker must hear of it, or it waits for ever
                message = f"The {worker.name} failed: {type(error).__name__}: {error}"
                asked.future.set_exception(self._error(message, self._task))
        worker.end()

    def _bury(self, worker: Worker, asked: _Request, error: DeadChildError) -> None:
        """Ask again what a worker died of, a few times; what it refused is final, and so is a time-out."""
        with self._changed:
            asked.deaths[error.task] += 1
            starts = MOST_RESTARTS if self.answers else MOST_STARTS
            deaths, most = asked.deaths[error.task], MOST_DEATHS if error.task == self._task else starts
            if error.retry and deaths < most and self._put_back(asked):
                logger.info("a %s is replaced: %s", worker.name, error)
                return
        if self._closed:
            asked.future.set_exception(self._closing_error())
        elif error.retry:
            words = f"The {worker.name} died {deaths} times before it could {error.task}. Its last words: "
            asked.future.set_exception(self._error(words + error.last_words, error.task))
        else:
            asked.future.set_exception(self._error(str(error), error.task))

    def _put_back(self, asked: _Request) -> bool:
        """Let a request be the next one again, unless the pool is closed."""
        with self._changed:
            if not self._closed:
                self._waiting.appendleft(asked)
                self._changed.notify()
            return not self._closed

    def _closing_error(self) -> AutopruneError:
        return self._error(f"The pool was closed before it could {self._task}.", self._task)
