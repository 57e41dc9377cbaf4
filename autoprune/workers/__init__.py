"""Child processes: `child.py` supervises one, `serve.py` runs in it, `resources.py` says how many there can be."""

from autoprune.workers.child import ChildProcess, DeadChildError

__all__ = ["ChildProcess", "DeadChildError"]
