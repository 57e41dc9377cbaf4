"""Runs commands as a user does, each in a process of its own.

A command takes some nine seconds of processor time to import Keras, PyTorch and JAX. `command(..., fresh=True)` takes
them. The others are forked from one process that has imported everything and computed nothing: from there on each is a
whole process, with its own arguments, folder, environment, output, signals and end.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from helpers.processes import wait_until

_SERVER = Path(__file__).with_name("command_server.py")
_server = None  # The way to the process that forks them, and that process.


class Running:
    """A command that has been started; what is used of `subprocess.Popen`."""

    def __init__(self, module, arguments, cwd, environment):
        told, ours = os.pipe()
        read, written = os.pipe()
        read_errors, written_errors = os.pipe()
        request = json.dumps([module, arguments, str(cwd or os.getcwd()), environment]).encode()
        _connection().sendall(len(request).to_bytes(8, "big"))
        socket.send_fds(_connection(), [request[:1]], [ours, written, written_errors])
        _connection().sendall(request[1:])
        for end in (ours, written, written_errors):
            os.close(end)
        self.args = [f"autoprune.{module}", *arguments]
        self.stdout = os.fdopen(read)
        self.stderr = os.fdopen(read_errors)
        self.returncode = None
        # Two lines: its number when it has begun, its end when it has ended.
        self._told = os.fdopen(told)
        self.pid = int(self._told.readline())

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout=None):
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._told, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def send_signal(self, sign):
        if self.poll() is None:
            os.kill(self.pid, sign)

    def communicate(self, timeout=600):
        """Wait for its end; what it printed, to standard output and to standard error."""
        streams, said = {self.stdout: [], self.stderr: []}, []
        end = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for stream in streams:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0, end - time.monotonic()))
                if not ready:
                    self.send_signal(signal.SIGKILL)
                    raise subprocess.TimeoutExpired(self.args, timeout)
                for key, _ in ready:
                    part = os.read(key.fd, 2**16)
                    streams[key.fileobj].append(part)
                    if not part:
                        selector.unregister(key.fileobj)
        for stream, parts in streams.items():
            stream.close()
            said.append(b"".join(parts).decode())
        self.wait(max(0, end - time.monotonic()))
        return tuple(said)


def kill_after(process, happened, sign=signal.SIGKILL):
    """Wait until something has happened in a command that runs, then end it.

    Returns:
        what it had printed.
    """
    far_enough = wait_until(lambda: process.poll() is not None or happened(), seconds=300)
    alone = process.poll()
    process.send_signal(sign if far_enough else signal.SIGKILL)
    said = "".join(process.communicate(timeout=120))
    assert far_enough, f"it never came so far: {said}"
    assert alone is None, f"it ended before it could be ended: {said}"
    return said


def started(*arguments, module="search", cwd=None, environment=None):
    """A command that runs."""
    return Running(module, arguments, cwd, {**os.environ, **(environment or {})})


def command(*arguments, module="search", cwd=None, environment=None, fresh=False):
    """Run a command to its end.

    fresh: by Python itself, imports and all.
    """
    if not fresh:
        running = started(*arguments, module=module, cwd=cwd, environment=environment)
        printed = running.communicate()
        return subprocess.CompletedProcess(running.args, running.returncode, *printed)
    return subprocess.run(
        [sys.executable, "-m", f"autoprune.{module}", *arguments],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )


def run_in(folder, *arguments, module="search", fresh=False):
    """Run a command in a folder and return the run folder it made."""
    done = command(*arguments, module=module, cwd=folder, fresh=fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = [p.parent for p in Path(folder).glob(f"outputs/{module}/*/*/.hydra")]
    return made, done


def _connection():
    """The way to it; it is started by the first command, and ends with this process."""
    global _server
    if _server is None:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, _SERVER, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        _server = ours, process
    return _server[0]
