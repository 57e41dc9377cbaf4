"""Importing this imports Keras, and with it TensorFlow, while what native code prints to standard error is dropped.

TensorFlow tells of CUDA and oneDNN before it has read its own log level. A failed import still raises.
"""

import importlib
import os
import sys


def _import_keras() -> None:
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        importlib.import_module("keras")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


if "keras" not in sys.modules:
    _import_keras()
