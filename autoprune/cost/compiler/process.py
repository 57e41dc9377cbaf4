"""One compiler process under supervision: started, asked, watched, replaced and ended. `pool.py` keeps several.

The process ends with this one, even when this one is killed: its standard input closes then, and it removes its
scratch folder. When both are killed, the next pool of any process removes the folder: its name tells the owner.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from autoprune.errors import CostError

# A process takes 0.7 to 0.9 GB and grows by 4 MB with each compilation of a small network, by more with large ones.
RESIDENT_LIMIT = 3 * 2**30
RECYCLE_AFTER = 200

_SCRATCH_PREFIX = "autoprune-compiler-"


class DeadProcessError(CostError):
    """A compiler process ended, or was ended, before it had answered.

    Attributes:
        retry: whether a fresh process may do better.
    """

    def __init__(self, message: str, *, retry: bool) -> None:
        super().__init__(message)
        self.retry = retry


class CompilerProcess:
    """A process that compiles one program at a time, started when first asked. `end` may come from any thread.

    Args:
        accelerator_type: value of TPU_ACCELERATOR_TYPE for the process.
        timeout: seconds that one compilation may take before the process is killed.
        start_timeout: seconds that the process may take to start.

    Attributes:
        settled: whether it has answered before, so that its memory is no longer to come.
    """

    def __init__(self, accelerator_type: str, *, timeout: float, start_timeout: float) -> None:
        self.settled = False
        self._accelerator_type = accelerator_type
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._scratch: str | None = None
        self._compilations = 0
        self._ended = False

    @property
    def id(self) -> int | None:
        """The running process, if any."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The process's answer to a request; a process that has grown too old or large is ended after it.

        Raises:
            DeadProcessError: the process did not start, died or took too long; the message holds its last words. The
                next request starts a fresh one.
        """
        self._start()
        answer = self._exchange(request, self._timeout, "compile the model")
        self.settled = True
        if answer["resident"] > RESIDENT_LIMIT or self._compilations >= RECYCLE_AFTER:
            self.stop()
        return answer

    def stop(self) -> None:
        """End the process and remove its scratch folder."""
        with self._lock:
            process, self._process = self._process, None
            scratch, self._scratch = self._scratch, None
        self.settled, self._compilations = False, 0
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    def end(self) -> None:
        """Kill the process, for good: whoever waits for its answer hears of its death, and none is started again."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def _start(self) -> None:
        if self.id is not None:
            return
        self.stop()
        with self._lock:
            # Between these lines and `end` there is no third way: a process is either never made or killed.
            if self._ended:
                raise DeadProcessError("The compiler process has been ended.", retry=False)
            self._scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH_PREFIX}{os.getpid()}-")
            self._process = spawned_compiler(self._accelerator_type, self._scratch)
        self._exchange(None, self._start_timeout, "start")

    def _exchange(self, request: dict[str, Any] | None, timeout: float, task: str) -> dict[str, Any]:
        """Send a request, if there is one, and wait for a line from the process, which is killed if none comes.

        Raises:
            DeadProcessError: there was no answer. The process has been stopped.
        """
        process, late = self._process, threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout, give_up)
        timer.daemon = True  # An interpreter that ends does not wait for it.
        timer.start()
        try:
            if request is not None:
                # Within the time as well: a process that hangs does not read, and a pipe takes 64 kB.
                self._compilations += 1
                process.stdin.write(json.dumps({**request, "id": self._compilations}) + "\n")
                process.stdin.flush()
            return json.loads(process.stdout.readline())
        except (OSError, ValueError):
            words = last_words(process, self._scratch)
            if late.is_set():
                death = DeadProcessError(
                    f"The compiler process took longer than {timeout:g} s to {task}. Its last words: {words}",
                    retry=False,
                )
            else:
                death = DeadProcessError(f"It could not {task}. Its last words: {words}", retry=True)
            self.stop()
            raise death from None
        finally:
            timer.cancel()


def last_words(process: subprocess.Popen, scratch: str) -> str:
    """How a process that is ending ended, and the end of what it wrote to standard error."""
    # Its pipes close a moment before it is gone.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    try:
        with open(Path(scratch, "stderr.txt"), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    lines = [line for line in text.splitlines() if line.strip()]
    return f"(exit code {process.returncode}) " + (" | ".join(lines[-5:])[-1500:] or "none")


def spawned(module: str, environment: dict[str, str], scratch: str) -> subprocess.Popen:
    """A process that has just been started; what it prints goes to a file in its scratch folder.

    Args:
        module: that it runs.
        environment: of the process.
        scratch: its folder.
    """
    with open(Path(scratch, "stderr.txt"), "wb") as log:
        return subprocess.Popen(
            # -P: it does not look in the working folder first, whose modules may be anything.
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            # Ctrl-C is for the search, which then ends this process in order.
            start_new_session=True,
        )


def import_path() -> str:
    """PYTHONPATH of a started process: what this one can import, that one can too, layers of a user's own modules."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def spawned_compiler(accelerator_type: str, scratch: str) -> subprocess.Popen:
    """A compiler process that has just been started."""
    process = spawned("autoprune.cost.compiler.worker", worker_environment(accelerator_type, scratch), scratch)
    # When memory runs out, the kernel shall end the compiler, which is replaced, and not the search.
    with contextlib.suppress(OSError):
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("500")
    return process


def worker_environment(accelerator_type: str, scratch: str) -> dict[str, str]:
    """Environment of a compiler process: Keras on JAX, a described TPU, and no TPU or metadata server looked for."""
    return {
        **os.environ,
        "PYTHONPATH": import_path(),
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


def remove_abandoned_scratch() -> None:
    """Remove the scratch folders of processes that no longer exist, and so could not do it themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH_PREFIX}*-*"):
        owner = folder.name.removeprefix(_SCRATCH_PREFIX).split("-")[0]
        if owner.isdecimal() and not _exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _exists(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
