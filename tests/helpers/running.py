"""Runs commands as a user does."""

import os
import subprocess
import sys
from pathlib import Path


def command(*arguments, module="search", cwd=None, environment=None):
    return subprocess.run(
        [sys.executable, "-m", f"autoprune.{module}", *arguments],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )


def run_in(folder, *arguments, module="search"):
    """Run a command in a folder and return the run folder it made."""
    done = command(*arguments, module=module, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = [p.parent for p in Path(folder).glob(f"outputs/{module}/*/*/.hydra")]
    return made, done
