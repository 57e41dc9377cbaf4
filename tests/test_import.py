"""What importing autoprune decides for Keras and TensorFlow, which read it once."""

import os
import subprocess
import sys

import pytest

CHOSEN = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS")
TELL = f"import os, autoprune; print(*(os.environ.get(name) for name in {CHOSEN}))"


@pytest.mark.parametrize(
    ("given", "first", "expected"),
    [
        ({}, "", ["tensorflow", "1"]),
        ({"KERAS_BACKEND": "jax", "TF_ENABLE_ONEDNN_OPTS": "0"}, "", ["jax", "0"]),
        ({}, "import sys; sys.modules['keras'] = sys.modules['tensorflow'] = sys; ", ["None", "None"]),
    ],
    ids=["nothing was chosen", "the user chose", "too late to choose"],
)
def test_only_what_is_still_open_is_decided(given, first, expected, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", first + TELL],
        env={**environment, "HOME": str(tmp_path), **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == expected
