"""A child process under supervision: started, asked, watched, replaced and ended. `serve.py` is the child's end.

Every child of autoprune is a `ChildProcess`: compilers, an attached TPU, trainings on devices. It runs a module in a
fresh interpreter, never a fork: TensorFlow and JAX do not survive one. Both ends write one line of JSON a message:

    child:   {"ready": true}                                    once, when its module is imported
    parent:  {"id": 1, "request": {...}}
    child:   {"id": 1, "event": {...}}                          any number of times
    child:   {"id": 1, "answer": {...}, "resident": bytes of memory}

No child survives the process that started it, even when that is killed: a child's standard input closes then, and it
ends itself and removes its scratch folder. When both are killed, the next child of any process removes the folder,
whose name tells the owner.
"""

import atexit
import contextlib
import json
import os
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from autoprune.errors import AutopruneError
from autoprune.workers.process import LOG, NoMessageError, RunningProcess

_registry_lock = threading.Lock()
_children: "weakref.WeakSet[ChildProcess]" = weakref.WeakSet()
_exiting = threading.Event()


class DeadChildError(AutopruneError):
    """A child process did not start, died, was ended or took too long before it had answered.

    Attributes:
        task: what it was to do, such as `compile the model`.
        last_words: its exit code and the end of what it wrote to standard error; empty when it was ended on purpose.
        retry: whether a fresh process may do better.
    """

    def __init__(self, message: str, *, task: str = "", last_words: str = "", retry: bool = False) -> None:
        super().__init__(message)
        self.task = task
        self.last_words = last_words
        self.retry = retry


class ChildProcess:
    """A process that answers one request at a time, started by the first one and again whenever it has ended.

    Any thread may ask; requests wait for each other. As a context manager it is ended at the end of the block.

    Args:
        module: name of a module that the child imports. Its `make_handler()` returns what answers: a function of a
            request and of `tell`, which sends an event. An exception of that function ends the child.
        name: what messages call the child, such as `compiler process`.
        environment: returns the child's environment variables, given its folder. PYTHONPATH is added.
        opening: request that every fresh process answers before any other, such as what to load; None for nothing. An
            answer with `error` ends it.
        start_timeout: seconds from the start until the module is imported, and again until `opening` is answered.
        folder: where the child's log `stderr.txt` is kept; None makes a scratch folder that goes with the child.
        resident_limit: bytes of memory; a child that holds more after an answer is replaced before the next request.
        recycle_after: answers after which a child is replaced.

    Attributes:
        name: what messages call the process.
        settled: whether the running child has answered before, so that its memory is no longer to come.
    """

    def __init__(
        self,
        module: str,
        *,
        name: str,
        environment: Callable[[str], Mapping[str, str]],
        opening: Mapping[str, Any] | None = None,
        start_timeout: float = 300,
        folder: Path | None = None,
        resident_limit: float | None = None,
        recycle_after: int | None = None,
    ) -> None:
        self.settled = False
        self._module = module
        self.name = name
        self._environment = environment
        self._opening = opening
        self._start_timeout = start_timeout
        self._folder = folder
        self._resident_limit = resident_limit
        self._recycle_after = recycle_after
        self._asking = threading.Lock()
        self._state = threading.Lock()
        self._running: RunningProcess | None = None
        self._ended = False
        with _registry_lock:
            _children.add(self)

    @property
    def id(self) -> int | None:
        """The process id of the running child, if any."""
        running = self._running
        return running.process.pid if running is not None and running.process.poll() is None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def get_ready(self) -> None:
        """Nothing: it starts with its first request."""

    def is_lost(self) -> bool:
        """Never: one that has died starts again with the next request."""
        return False

    def ask(
        self,
        request: Mapping[str, Any],
        *,
        task: str,
        timeout: float | None = None,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> dict[str, Any]:
        """The child's answer to a request. Whatever interrupts the wait, such as Ctrl-C, ends the child.

        Args:
            request: plain data.
            task: what the child is to do, for the message of an error, such as `compile the model`.
            timeout: seconds that the child may be silent before it is killed; None waits without end.
            on_event: called with each event that precedes the answer.

        Raises:
            DeadChildError: there was no answer. The next request starts a fresh child.
        """
        with self._asking:
            running = self._start()
            try:
                message = self._exchange(running, request, timeout, task)
                while "event" in message:
                    on_event(message["event"])
                    message = self._exchange(running, None, timeout, task)
            except BaseException:
                # Its next line would answer a request that nobody remembers.
                self.stop()
                raise
            self.settled = True
            too_large = self._resident_limit is not None and (message["resident"] or 0) > self._resident_limit
            if too_large or (self._recycle_after is not None and running.requests >= self._recycle_after):
                self.stop()
            return message["answer"]

    def stop(self, grace: float = 0) -> None:
        """End the running child, if any, and remove its scratch folder. The next request starts a fresh one.

        Args:
            grace: seconds that an idle child gets to end in order, which frees its devices in order; then it is killed.
        """
        with self._state:
            running, self._running = self._running, None
            self.settled = False
        if running is not None:
            running.destroy(grace)

    def end(self) -> None:
        """Kill the child for good, from any thread: whoever waits for its answer hears of it, and none starts again."""
        with self._state:
            self._ended = True
        self.stop()

    def _start(self) -> RunningProcess:
        """The running child, started and ready.

        Raises:
            DeadChildError: it did not get ready, or this child has been ended.
        """
        if self.id is None:
            self.stop()
        with self._state:
            # `end` takes the same lock: a process is either never made or killed.
            if self._ended or _exiting.is_set():
                raise self._end_error()
            if self._running is not None:
                return self._running
            try:
                running = self._running = RunningProcess(self._module, self._environment, self._folder)
            except OSError as error:
                raise DeadChildError(f"The {self.name} could not be started: {error}", task="start") from error
        try:
            self._exchange(running, None, self._start_timeout, "start")
            if self._opening is not None:
                answer = self._exchange(running, self._opening, self._start_timeout, "get ready")["answer"]
                if "error" in answer:
                    raise DeadChildError(f"The {self.name} could not get ready: {answer['error']}", task="get ready")
        except BaseException:
            self.stop()
            raise
        return running

    def _exchange(
        self, running: RunningProcess, request: Mapping[str, Any] | None, timeout: float | None, task: str
    ) -> dict[str, Any]:
        """Send a request, if there is one, and wait for a message of the child, which is killed if none comes in time.

        Raises:
            DeadChildError: no message came, or what came is none.
        """
        line = ""
        if request is not None:
            running.requests += 1
            line = json.dumps({"id": running.requests, "request": dict(request)}) + "\n"
        with _kill_after(timeout, running.process) as late:
            try:
                if line:
                    # Within the time as well: a child that hangs does not read, and a pipe takes 64 kB.
                    running.send(line)
                return running.receive()
            except NoMessageError as error:
                running.process.kill()
                what = f"sent what is no answer when it was to {task}: {error}"
            except (OSError, ValueError):  # its pipes are closed, perhaps by `stop` in another thread
                what = f"died before it could {task}."
        if self._ended or self._running is not running:
            raise self._end_error()
        if late.is_set():
            what = f"took longer than {timeout:g} s to {task}."
        words = running.last_words()
        if running.process.returncode == -9 and what.startswith("died"):
            what = f"was killed before it could {task}, perhaps because memory ran out."
        if self._folder is not None:
            what += f" All it wrote is in {self._folder / LOG}."
        message = f"The {self.name} {what} Its last words: {words}"
        raise DeadChildError(message, task=task, last_words=words, retry=not late.is_set())

    def _end_error(self) -> DeadChildError:
        return DeadChildError(f"The {self.name} has been ended.")


@contextlib.contextmanager
def _kill_after(timeout: float | None, process: subprocess.Popen[str]) -> Iterator[threading.Event]:
    """Within it a process is killed after so many seconds; the event tells that it was."""
    late = threading.Event()
    if timeout is None:
        yield late
        return

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True  # An interpreter that ends does not wait for it.
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


@atexit.register
def end_children() -> None:
    """End all children of this process, and start no more: the threads that ask do not outlive it, nor shall they."""
    _exiting.set()
    with _registry_lock:
        children = list(_children)
    for child in children:
        child.end()


# A fork of this process has no children of its own yet.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_children.clear)
