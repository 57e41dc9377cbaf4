"""What a search needs is taken away while it runs: room on the disk, leave to write, memory, an answer."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.cost import open_cost_model
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.errors import CostError
from autoprune.evaluation import scoring
from autoprune.records import Target
from helpers.plans import evaluate_at
from helpers.small_search import SMALL, found_by

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

# In a namespace of its own a process may mount; what it mounts ends with it.
NAMESPACE = ("unshare", "-rm")
MOUNTING = [*NAMESPACE, "mount", "-t", "tmpfs", "none", "/tmp"]
able = shutil.which("unshare") and subprocess.run(MOUNTING, capture_output=True).returncode == 0
# Run a search on a bad file system, mend that, and go on: folder, state of the file system, options.
DRIVER = """
import json, shutil, subprocess, sys

folder, state, *options = sys.argv[1:]
search = [sys.executable, "-m", "autoprune.search"]


def mount(*options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", folder], check=True)


mount(state)
anew = [*search, *options, f"hydra.run.dir={folder}/run"]
begun = subprocess.run(anew, stderr=subprocess.PIPE, text=True)
mount("remount", "rw", "size=100m")
ways = {True: anew, False: [*search, f"resume={folder}/run"]}
resumed = subprocess.run(ways["start the command again" in begun.stderr], stderr=subprocess.PIPE, text=True)
shutil.copytree(f"{folder}/run", f"{folder}-kept")
print(json.dumps([begun.returncode, begun.stderr, resumed.returncode, resumed.stderr]))
"""


@pytest.mark.skipif(not able, reason="this user may mount nothing")
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_disk_that_takes_nothing_is_told_of_and_the_search_goes_on(whole, tmp_path, faults, moments, count, how):
    """It is full before anything is there, among the evaluations, or while the result is written."""
    expected, _, costs = whole
    for number in range(faults):
        place = tmp_path / str(number)
        place.mkdir()
        state = f"size={moments.randint(100, 6000)}k" if how == "full" else "ro"
        done = subprocess.run(
            [*NAMESPACE, sys.executable, "-c", DRIVER, place, state, *SMALL, f"target.cache={costs}"],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        code, said, again, errors = json.loads(done.stdout.splitlines()[-1])
        assert again == 0, errors
        # Some sizes suffice.
        assert code == 0 or (re.search("The system refused to (read or )?write", said) and code == 2), said
        assert "Traceback" not in said
        assert found_by(tmp_path / f"{number}-kept") == expected
        if code:
            count(f"a disk that is {how}")


def test_a_compiler_that_hangs_fails_its_request_and_no_other(count, scratch):
    def network(width):
        image = keras.Input((8, 8, 1))
        return keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(width, 3)(image)))

    with closing(CompilerPool(1, timeout=45)) as pool:
        cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=pool)
        assert cost_model.submit(network(8)).result().latency > 0
        (hung,) = pool.process_ids
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(CostError, match="took longer than 45 s to compile"):
            cost_model.submit(network(16)).result()
        assert cost_model.submit(network(24)).result().latency > 0
        assert hung not in pool.process_ids
    count("a compiler that hangs")


def test_memory_that_runs_out_fails_the_plan_and_no_other(count, opened, monkeypatch):
    """In the process of the search, by TensorFlow's own error."""
    evaluator = opened()
    before = evaluator.model.get_weights()
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "read_signals", lambda *arguments: keras.ops.zeros((10**9, 10**6)))
        failed = evaluate_at(evaluator, 0.5)
    assert failed.failed
    assert "Memory ran out while the plan was scored" in failed.error
    assert "evaluation.batch_size is 256" in failed.error
    for weight, value in zip(evaluator.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert not evaluate_at(evaluator, 0.6).failed
    count("memory that runs out")
