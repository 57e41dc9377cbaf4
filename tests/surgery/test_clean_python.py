"""Saved pruned models need nothing of autoprune: a Python that never imported it loads them and gets the same."""

import os
import subprocess
import sys

import numpy as np
import pytest

from autoprune.surgery import apply_plan
from helpers.oracle import outputs_of
from helpers.plans import uneven_plan
from helpers.topologies import TOPOLOGIES, images_for, made

LOADER = """
import pathlib, sys
import keras, numpy as np
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
    model = keras.saving.load_model(path)
    stored = np.load(path.with_suffix(".npz"))
    inputs = [stored[f"input{n}"] for n in range(len(model.inputs))]
    outputs = model(inputs[0] if len(inputs) == 1 else inputs, training=False)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    for number, output in enumerate(outputs):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(output), stored[f"output{number}"], str(path))
    assert model.count_params() == stored["parameters"], path
    print("equal", path.stem)
assert not any(name.split(".")[0] == "autoprune" for name in sys.modules)
"""


@pytest.mark.slow
def test_every_topology_loads_without_autoprune(tmp_path):
    for name in TOPOLOGIES:
        model = made(name)
        inputs = images_for(model)
        apply_plan(model, uneven_plan(model))
        model.save(tmp_path / f"{name}.keras")
        arrays = {f"output{n}": output for n, output in enumerate(outputs_of(model, inputs))}
        inputs = inputs if isinstance(inputs, list) else [inputs]
        arrays |= {f"input{n}": array for n, array in enumerate(inputs)}
        np.savez(tmp_path / f"{name}.npz", parameters=model.count_params(), **arrays)
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADER, str(tmp_path)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(done.stdout.split()) - {"equal"} == set(TOPOLOGIES)
