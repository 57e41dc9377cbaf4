"""Channel pruning of Keras models by reinforcement learning, for low latency and memory on TPUs.

The public names are imported when they are first used, so that `import autoprune` costs nothing and a process that
must not load TensorFlow does not.
"""

import os
import sys


def _leave_out_working_folder() -> None:
    """Keep a command from importing the working folder's modules: `python -m` looks there first for every name.

    Python's own use of the folder before this line cannot be helped, and from another program, a notebook or a prompt
    the folder is what its user has asked for.
    """
    # While `-m` looks for its module, the arguments begin with it; then the module's name is the word before the rest.
    arguments = getattr(sys, "argv", [])
    if sys.flags.safe_path or arguments[:1] != ["-m"]:
        return
    module = sys.orig_argv[-len(arguments)].removeprefix("-m")
    here = os.path.realpath(os.getcwd())
    home = os.path.realpath(os.path.dirname(os.path.dirname(__file__)))
    if module.split(".")[0] == __name__ and here != home and os.path.realpath(sys.path[0]) == here:
        del sys.path[0]


_leave_out_working_folder()

import importlib  # noqa: E402 - not from the working folder
from typing import Any  # noqa: E402

__version__ = "0.1.0"

# In a source checkout `autoprune.conf` and `autoprune.envs` are folders beside this one; installed, they are within it.
_CHECKOUT = os.path.dirname(__path__[0])
if not os.path.isdir(os.path.join(__path__[0], "envs")) and all(
    os.path.exists(os.path.join(_CHECKOUT, name)) for name in ("pyproject.toml", "conf", "envs")
):
    __path__.append(_CHECKOUT)

_HOMES = {
    "Channels": "autoprune.layers",
    "LayerKind": "autoprune.layers",
    "apply_plan": "autoprune.surgery",
    "export_model": "autoprune.models.exporting",
    "find_branches": "autoprune.graph",
    "find_groups": "autoprune.graph",
    "layer_kind": "autoprune.layers",
    "load_plan": "autoprune.planning.plan_file",
    "make_plan": "autoprune.planning",
    "measure_cost": "autoprune.cost",
    "prune": "autoprune.pipeline.search",
    "save_plan": "autoprune.planning.plan_file",
    "training_step_cost": "autoprune.cost",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoprune' has no attribute '{name}'. It has: {', '.join(__all__)}")
    importlib.import_module("autoprune.quiet")
    return getattr(importlib.import_module(_HOMES[name]), name)


# Settings that Keras and TensorFlow read once, when they are imported: only where the user has set none.
if "keras" not in sys.modules and not os.path.exists(os.path.expanduser("~/.keras/keras.json")):
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow takes these kernels by itself only where it knows the processor: others train faster by them too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # Otherwise the first process takes a GPU's whole memory, and workers find none.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
