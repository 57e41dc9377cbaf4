"""Channel pruning of Keras models by reinforcement learning, for low latency and memory on TPUs.

The public names are imported when they are first used, so that `import autoprune` costs nothing and a process that
must not load TensorFlow does not.
"""

import importlib
import os
import sys
import types
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "apply_plan": "autoprune.surgery",
    "channel_rule": "autoprune.graph",
    "export_model": "autoprune.models.exporting",
    "find_groups": "autoprune.graph",
    "layer_editor": "autoprune.surgery",
    "load_plan": "autoprune.planning.plan_file",
    "make_plan": "autoprune.planning",
    "measure_cost": "autoprune.cost",
    "save_plan": "autoprune.planning.plan_file",
    "search": "autoprune.search",
    "training_step_cost": "autoprune.cost",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoprune' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


class _Package(types.ModuleType):
    """`autoprune.search` is a function, and the command of that name a module, which would take its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a module that is imported does not hide a public name."""
        if name not in _HOMES or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _choose_defaults() -> None:
    """Settings that Keras and TensorFlow read once, when they are imported: only where the user has set none."""
    if "keras" not in sys.modules and not os.path.exists(os.path.expanduser("~/.keras/keras.json")):
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # TensorFlow takes these kernels by itself only where it knows the processor: others train faster by them too.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


_choose_defaults()
