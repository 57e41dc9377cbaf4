"""One running child process with its log and its scratch folder. `child.py` decides when there is one."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LOG = "stderr.txt"
_SCRATCH_PREFIX = "autoprune-worker-"


class NoMessageError(Exception):
    """A line of the child is no message; quoted."""


class RunningProcess:
    """One process and its folder; `destroy` may come from several threads at once.

    Attributes:
        process: the child.
        requests: number of requests that it has been sent.
    """

    def __init__(self, module: str, environment: Callable[[str], Mapping[str, str]], folder: Path | None) -> None:
        self.requests = 0
        self._temporary = folder is None
        if folder is None:
            folder = make_scratch()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log = folder / LOG
        # -P: it does not look in the working folder first, whose modules may be anything.
        command = [sys.executable, "-P", "-m", "autoprune.workers.serve", module]
        try:
            self._log.unlink(missing_ok=True)
            with open(self._log, "ab") as log:
                self.process = subprocess.Popen(
                    [*command, str(folder)] if self._temporary else command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    encoding="utf-8",
                    errors="replace",
                    env={**environment(str(folder)), "PYTHONPATH": import_path()},
                    # Ctrl-C is for the parent, which then ends this process in order.
                    start_new_session=True,
                )
        except BaseException:
            self._remove_folder()
            raise
        if self.process.stdin is None or self.process.stdout is None:
            raise OSError("the child has no pipes")  # It cannot be: both are asked for above.
        self._input, self._output = self.process.stdin, self.process.stdout
        # When memory runs out, the kernel shall end the child, whose death is reported, and not the parent.
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.process.pid}/oom_score_adj").write_text("500")

    def send(self, line: str) -> None:
        """Write a line to the child."""
        self._input.write(line)
        self._input.flush()

    def receive(self) -> dict[str, Any]:
        """The child's next message. What is printed before it is ready, while Python starts, is put into the log.

        Raises:
            ValueError: the next line is missing or cut off, because the child died.
            NoMessageError: the next line is no message of the protocol.
        """
        while True:
            text = self._output.readline()
            if not text.endswith("\n"):
                raise ValueError("the child died")
            message: Any = None
            with contextlib.suppress(ValueError):
                message = json.loads(text)
            if self.requests > 0:
                if isinstance(message, dict) and message.get("id") == self.requests:
                    return message
                raise NoMessageError(repr(text[:200]))
            if isinstance(message, dict) and "ready" in message:
                return message
            with open(self._log, "a") as log:
                log.write(text)

    def last_words(self) -> str:
        """How the process ended, and the end of what it wrote to standard error. It is waited for."""
        # Its pipes close a moment before it is gone.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        code = self.process.returncode
        try:
            with open(self._log, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
                text = file.read().decode(errors="replace")
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.strip()]
        return f"(exit code {code}) " + (" | ".join(lines[-5:])[-1500:] or "none")

    def destroy(self, grace: float) -> None:
        """End the process, in order within so many seconds or else at once, and remove its scratch folder."""
        try:
            if grace:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    self._input.close()
                    self.process.wait(grace)
        finally:
            # Also after Ctrl-C.
            self.process.kill()
            self.process.wait()
            for pipe in (self._input, self._output):
                with contextlib.suppress(OSError):
                    pipe.close()
            self._remove_folder()

    def _remove_folder(self) -> None:
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)


def import_path() -> str:
    """PYTHONPATH of a child: what this process can import, that one can too, such as layers of a user's own modules."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def make_scratch() -> Path:
    """A new scratch folder of this process. Those of processes that are no more, and so cannot do it, are removed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH_PREFIX}*-*"):
        owner = folder.name.removeprefix(_SCRATCH_PREFIX).split("-")[0]
        if not owner.isdecimal():
            continue
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, OverflowError):  # somebody else's process, or none of ours
            continue
    return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH_PREFIX}{os.getpid()}-"))
