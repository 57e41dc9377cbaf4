"""The same surgery on the JAX backend, in a process of its own: Keras chooses its backend once, when it is imported."""

import os
import subprocess
import sys

import keras
import pytest
from places import ROOT

# The whole of it is `KERAS_BACKEND=jax pytest tests/graph tests/surgery`: JAX compiles every operation for every width,
# which takes some ten minutes.
TOPOLOGIES = (
    *("attention", "convnext", "grouped", "normalised", "residual", "shared_layer", "shuffle", "slices", "squeeze"),
    "unet",
)
OTHERS = "(restore or optimiser or loads) and (preactivation or uneven_split)"
PART = f"zeroed and ({' or '.join(TOPOLOGIES)}) or {OTHERS} or comes_back or training_changed"


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="already there")
def test_surgery_on_jax():
    tests = [f"tests/surgery/test_{name}.py" for name in ("exactness", "random_graphs", "memory")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *tests, "-k", PART],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", "AUTOPRUNE_EXAMPLES": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "failed" not in done.stdout
