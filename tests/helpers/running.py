"""Runs commands as a user does."""

import contextlib
import io
import json
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


def commands(many, module="search", cwd=None):
    """Run a command with each of several lists of arguments, one after the other in one process, which starts slowly.

    For commands that are refused, after which nothing of them is left.

    Returns:
        for each list the exit status, and what was printed.
    """
    done = subprocess.run(
        [sys.executable, __file__, module],
        input=json.dumps(many),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [tuple(pair) for pair in json.loads(done.stdout.splitlines()[-1])]


def _run_all(module):
    """The process that `commands` starts."""
    from autoprune import cli

    ends = []
    for arguments in json.load(sys.stdin):
        sys.argv = [f"autoprune.{module}", *arguments]
        printed, status = io.StringIO(), 0
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                status = cli.run_command(module)
            except SystemExit as end:
                status = end.code
        ends.append((status, printed.getvalue()))
    print(json.dumps(ends))


def run_in(folder, *arguments, module="search"):
    """Run a command in a folder and return the run folder it made."""
    done = command(*arguments, module=module, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = [p.parent for p in Path(folder).glob(f"outputs/{module}/*/*/.hydra")]
    return made, done


if __name__ == "__main__":
    _run_all(sys.argv[1])
