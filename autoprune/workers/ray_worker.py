"""A worker on a Ray cluster: an actor that answers requests as a child process does, wherever there is room for it.

Requests and answers are plain data, what a worker loads goes as files through Ray's object store. An actor that is
lost, with its node or alone, is replaced by another one, on whichever node can have it; while none can, it waits.
"""

import importlib
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import numpy as np

from autoprune.errors import SettingsError
from autoprune.settings import RaySettings
from autoprune.settings.extras import extra
from autoprune.workers.child import DeadChildError, end_children
from autoprune.workers.process import import_path, make_scratch

_CONNECT_SECONDS = 20
_LEAVE_SECONDS = 10


def check_cluster(settings: RaySettings) -> ModuleType:
    """Ray, once it is known that somebody answers at the address.

    Raises:
        SettingsError: Ray is not installed, or nobody answers.
    """
    ray = extra("ray", "workers=ray", "ray")
    if ":" in (settings.address or ""):
        host, _, port = str(settings.address).removeprefix("ray://").rpartition(":")
        try:
            # Ray itself tries for ten minutes.
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise _unreachable(settings, error) from error
    return ray


@contextmanager
def connect(settings: RaySettings) -> Iterator[int]:
    """A Ray cluster within the block; it stays connected if it was before.

    Yields:
        How many actors there shall be.

    Raises:
        SettingsError: Ray is not installed, or there is no cluster at the address.
    """
    ray: Any = check_cluster(settings)
    mine = not ray.is_initialized()
    if mine:
        try:
            # Without an address Ray would join whichever cluster was last started on this machine.
            ray.init(
                address=settings.address or "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreachable(settings, error) from error
    try:
        cores = settings.resources.get("CPU", 1) or 1
        yield settings.actors or max(1, int(ray.cluster_resources().get("CPU", 1) // cores))
    finally:
        if mine:
            ray.shutdown()


def _unreachable(settings: RaySettings, error: Exception) -> SettingsError:
    return SettingsError(
        f"No Ray cluster answers at ray.address={settings.address}: {error}. Start one with `ray start --head`, or "
        "leave the address out for one on this machine alone."
    )


class Answering:
    """What runs in an actor: the handler of a module.

    Args:
        module: name of the module whose `make_handler` answers, see `ChildProcess`.
        opening: its first request. It gets the name of a folder with the files too, which is gone afterwards: what is
            mapped into memory stays.
        names: how the files are called.
        contents: their bytes, (n,) uint8 each.
    """

    def __init__(self, module: str, opening: Mapping[str, Any], names: Sequence[str], *contents: np.ndarray) -> None:
        self._handle = importlib.import_module(module).make_handler()
        folder = make_scratch()
        try:
            for name, content in zip(names, contents, strict=True):
                content.tofile(folder / name)
            self._opened = self._handle({**opening, "folder": str(folder)}, lambda event: None)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def get_ready(self) -> dict[str, Any]:
        """What the opening was answered, and the process."""
        return {**self._opened, "process": os.getpid()}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        return self._handle(request, lambda event: None)

    def leave(self) -> None:
        """End the children of this process, whose scratch folders go with them."""
        end_children()


class RayWorker:
    """Stands where a `ChildProcess` stands, within `connect`.

    Args:
        module: name of a module that the actor imports.
        name: what messages call the worker.
        opening: the first request of every actor, see `Answering`.
        files: references to their contents in the object store, by name.
        resources: that an actor takes, such as `{"CPU": 1, "TPU": 1}`.
        environment: variables of its process.

    Attributes:
        name: what messages call the worker.
        id: the actor's process id on its node, while it is there.
        settled: always: it takes no memory of this machine that is counted.
    """

    settled = True

    def __init__(
        self,
        module: str,
        *,
        name: str,
        opening: Mapping[str, Any],
        files: Mapping[str, Any],
        resources: Mapping[str, float],
        environment: Mapping[str, str],
    ) -> None:
        self._ray: Any = importlib.import_module("ray")
        self.name = name
        others = {kind: amount for kind, amount in resources.items() if kind not in ("CPU", "GPU") and amount}
        made = self._ray.remote(Answering).options(
            num_cpus=resources.get("CPU", 1),
            num_gpus=resources.get("GPU", 0),
            resources=others,
            # What this process can import, that one can too, if it is there.
            runtime_env={"env_vars": {"PYTHONPATH": import_path(), **environment}},
        )
        self._make: Callable[[], Any] = lambda: made.remote(module, dict(opening), list(files), *files.values())
        self._state = threading.Lock()
        self._actor: Any = None
        self.id: int | None = None
        self._asking = False
        self._ended = False

    def get_ready(self) -> None:
        """Wait for an actor, as long as the cluster has no room for it.

        Raises:
            DeadChildError: it cannot load what it shall, or was lost.
        """
        with self._state:  # An actor is either never made, or ended by `end`.
            if self._ended:
                raise DeadChildError(f"The {self.name} has been ended.")
            if self._actor is not None:
                return
            actor = self._actor = self._make()
        answer = self._wait(actor.get_ready.remote(), "get ready", None)
        if "error" in answer:
            self._drop()
            raise DeadChildError(f"The {self.name} could not get ready: {answer['error']}", task="get ready")
        self.id = answer["process"]

    def is_lost(self) -> bool:
        """Whether the actor, or its node, has gone since it got ready."""
        with self._state:
            actor = self._actor
        if actor is None:
            return False
        try:
            self._wait(actor.get_ready.remote(), "be reached", None)
        except DeadChildError:
            return not self._ended
        return False

    def ask(self, request: Mapping[str, Any], *, task: str, timeout: float | None = None) -> dict[str, Any]:
        """The answer of the actor that has got ready.

        Raises:
            DeadChildError: it was lost, or raised an error, or took too long.
        """
        with self._state:
            actor = self._actor
            if self._ended or actor is None:
                raise DeadChildError(f"The {self.name} has been ended.")
            self._asking = True
        try:
            return self._wait(actor.answer.remote(dict(request)), task, timeout)
        finally:
            self._asking = False

    def end(self) -> None:
        """End the actor for good, from any thread."""
        with self._state:
            self._ended = True
            actor = None if self._asking else self._actor
        if actor is not None and self.id is not None:
            # What one that is killed leaves is removed by whichever child is next on that machine.
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(actor.leave.remote(), timeout=_LEAVE_SECONDS)
        self._drop()

    def _wait(self, reference: Any, task: str, timeout: float | None) -> dict[str, Any]:
        ray = self._ray
        try:
            answer: dict[str, Any] = ray.get(reference, timeout=timeout)
            return answer
        except ray.exceptions.GetTimeoutError:
            self._drop()
            message = f"The {self.name} took longer than {timeout:g} s to {task}."
            raise DeadChildError(message, task=task) from None
        except ray.exceptions.RayError as error:
            self._drop()
            words = " ".join(str(error).split())[-1500:]
            message = f"The {self.name} was lost before it could {task}: {words}"
            raise DeadChildError(message, task=task, last_words=words, retry=not self._ended) from None

    def _drop(self) -> None:
        actor, self._actor, self.id = self._actor, None, None
        if actor is not None and self._ray.is_initialized():
            self._ray.kill(actor)
