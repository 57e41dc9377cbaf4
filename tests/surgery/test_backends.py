"""The same surgery on other backends, each in a process of its own: Keras chooses one once, when it is imported."""

import os
import subprocess
import sys

import keras
import pytest

from helpers.places import ROOT
from helpers.processes import UNOPTIMISED

# PyTorch compiles nothing: all of it, but for a layer normalisation of axes that Keras cannot normalise there, and for
# the tests that count the storages of variables: there the parameter stays, and its old values go.
ON_TORCH = "not normalisations and not many_times and not old_storage"
# The whole of it is `KERAS_BACKEND=jax pytest tests/graph tests/surgery`: JAX compiles every operation for every width,
# which takes some ten minutes.
TOPOLOGIES = ("attention", "grouped", "residual", "slices")
OTHERS = "(restore or optimiser or loads) and preactivation"
BRANCHES = "half_of and (raw_sums or nested_dense or gated_residuals) or (fit_runs or state_of) and not adafactor"
MORE = "comes_back or training_changed and plain or test_heads"
ON_JAX = f"zeroed and ({' or '.join(TOPOLOGIES)}) or {OTHERS} or {BRANCHES} or {MORE}"


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="already there")
@pytest.mark.parametrize(("backend", "part"), [("torch", ON_TORCH), ("jax", ON_JAX)])
def test_surgery_on(backend, part):
    names = ("branch_corners", "branches", "exactness", "memory", "own_classes", "random_graphs")
    tests = [*(f"tests/surgery/test_{name}.py" for name in names)]
    tests += ["tests/models/test_distilling.py", "tests/tasks/test_heads.py"]
    # What JAX compiles runs once: nothing of it needs optimising. PyTorch's threads wait for one another after every
    # operation, by default by keeping their cores busy.
    options = {"XLA_FLAGS": UNOPTIMISED} if backend == "jax" else {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *tests, "-k", part],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "AUTOPRUNE_EXAMPLES": "3", **options},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "failed" not in done.stdout
