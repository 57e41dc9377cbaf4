"""What all commands share."""

import signal
import subprocess
import sys


def test_a_crash_of_native_code_says_where_every_thread_was():
    code = "import os\nfrom autoprune import cli\ndef prune(): os.abort()\ncli.guarded(prune)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in done.stderr
    assert "in prune" in done.stderr
    assert "in guarded" in done.stderr
