"""Keeps one compiler process alive and hands it requests.

The process is started on the first request, restarted when it dies, hangs or grows too large, and ends with this
one, even when this one is killed: its standard input closes then.
"""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from autoprune.errors import CostError

# A process of Keras on JAX with libtpu takes 0.7 to 0.9 GB; large models leave more behind.
RESIDENT_LIMIT = 4 * 2**30


class CompilerClient:
    """Sends requests to a compiler process, one at a time, in order.

    Args:
        accelerator_type: value of TPU_ACCELERATOR_TYPE for the process.
        timeout: seconds that one compilation may take before the process is killed.
        start_timeout: seconds that the process may take to start.
    """

    def __init__(
        self, accelerator_type: str = "v5litepod-4", *, timeout: float = 600, start_timeout: float = 120
    ) -> None:
        self._accelerator_type = accelerator_type
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._requests: queue.Queue[tuple[dict[str, Any], Future] | None] = queue.Queue()
        self._process: subprocess.Popen | None = None
        self._scratch: str | None = None
        self._numbers = 0
        self._closed = False
        self.versions: dict[str, str] = {}
        self._thread = threading.Thread(target=self._serve, name="compiler client", daemon=True)
        self._thread.start()

    def submit(self, request: dict[str, Any]) -> Future:
        """Ask for one compilation; the future holds the worker's result or a `CostError`."""
        if self._closed:
            raise CostError("The compiler client is closed.")
        future: Future = Future()
        self._requests.put((request, future))
        return future

    def close(self) -> None:
        """End the process and drop what is still waiting."""
        if not self._closed:
            self._closed = True
            self._requests.put(None)
            self._stop()

    @property
    def process_id(self) -> int | None:
        """The running process, if any."""
        return self._process.pid if self._process else None

    def _serve(self) -> None:
        """Body of the thread: requests in order until `close`."""
        while (entry := self._requests.get()) is not None:
            request, future = entry
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._with_one_retry(request))
            except CostError as error:
                future.set_exception(error)
            except Exception as error:  # noqa: BLE001 - the asker must hear of it, or it waits for ever
                future.set_exception(CostError(f"The compiler client failed: {type(error).__name__}: {error}"))

    def _with_one_retry(self, request: dict[str, Any]) -> dict[str, Any]:
        """A process that died is replaced once; what the compiler itself refuses is final."""
        words = ""
        for _ in range(2):
            if self._closed:
                raise CostError("The compiler client was closed while a compilation waited.")
            self._start()
            answer = self._exchange(request, self._timeout)
            if answer is not None:
                if answer["resident"] > RESIDENT_LIMIT:
                    self._stop()
                if "error" in answer:
                    raise CostError(answer["error"])
                return answer["result"]
            words = self._last_words()
            self._stop()
        raise CostError(f"The compiler process died twice on this model. Its last words: {words}")

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        self._scratch = tempfile.mkdtemp(prefix="autoprune-compiler-")
        with open(Path(self._scratch, "stderr.txt"), "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "autoprune.cost.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=worker_environment(self._accelerator_type, self._scratch),
                # Ctrl-C is for the search, which then ends this process in order.
                start_new_session=True,
            )
        greeting = self._read(self._start_timeout)
        if greeting is None:
            words = self._last_words()
            self._stop()
            raise CostError(f"The compiler process did not start. Its last words: {words}")
        self.versions = greeting["versions"]

    def _exchange(self, request: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """Send a request and wait for its answer; None when the process died or took too long."""
        process = self._process
        self._numbers += 1
        try:
            process.stdin.write(json.dumps({**request, "id": self._numbers}) + "\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError, OSError):
            return None
        return self._read(timeout)

    def _read(self, timeout: float) -> dict[str, Any] | None:
        """One line from the process, which is killed when none comes in time."""
        process = self._process
        if process is None:
            return None
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            line = process.stdout.readline()
        except ValueError:
            return None
        finally:
            timer.cancel()
        try:
            return json.loads(line)
        except ValueError:
            return None

    def _stop(self) -> None:
        """End the process and remove its scratch folder."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    def _last_words(self) -> str:
        """The end of what the process wrote to standard error."""
        code = self._process.poll() if self._process else None
        try:
            text = Path(self._scratch or "", "stderr.txt").read_text(errors="replace")
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.strip()]
        return f"(exit code {code}) " + (" | ".join(lines[-5:])[-1500:] or "none")


def worker_environment(accelerator_type: str, scratch: str) -> dict[str, str]:
    """Environment of a compiler process: Keras on JAX, a described TPU, and no TPU or metadata server looked for."""
    return {
        **os.environ,
        # What this process can import, that one can: layers of a user's own modules.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": accelerator_type,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LOG_DIR": scratch,
    }
