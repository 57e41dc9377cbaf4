"""Importing this imports Keras, and with it TensorFlow, while what native code prints to standard error is dropped.

TensorFlow tells of CUDA and oneDNN before it has read its own log level. A failed import still raises.
"""

import importlib
import os
import sys

if "keras" not in sys.modules:
    sys.stderr.flush()
    _saved, _nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(_nowhere, 2)
        importlib.import_module("keras")
    finally:
        os.dup2(_saved, 2)
        os.close(_saved)
        os.close(_nowhere)
