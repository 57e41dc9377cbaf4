"""Child processes.

`child.py` supervises one, `serve.py` runs in it, `pool.py` has several, `resources.py` says how many there can be.
"""

from autoprune.workers.child import ChildProcess, DeadChildError
from autoprune.workers.pool import WorkerPool

__all__ = ["ChildProcess", "DeadChildError", "WorkerPool"]
