"""Other processes in tests: started, waited for, and gone."""

import os
import subprocess
import sys
import time
from pathlib import Path

# XLA_FLAGS for programs that run a few times on this host: compiling them takes longer than running them.
UNOPTIMISED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Makes `autoprune.cost.cache` importable without its package's own imports: TensorFlow takes seconds.
WITHOUT_TENSORFLOW = """
import importlib.util, sys
import autoprune
spec = importlib.util.find_spec("autoprune.cost")
sys.modules["autoprune.cost"] = importlib.util.module_from_spec(spec)
"""


def started(code, *arguments, **environment):
    """A Python process that can import the test helpers."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed(process):
    """Kill a process with SIGKILL; what it had printed."""
    process.kill()
    told = process.stdout.read()
    process.communicate()
    return told


def wait_until(condition, seconds=60):
    """Whether a condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def gone(process_id):
    """Whether a process, of this one or not, runs no more."""
    try:
        return "zombie" in Path(f"/proc/{process_id}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
