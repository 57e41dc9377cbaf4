"""What a model costs on a target: latency, memory, operations, parameters.

`model.py` is the door: `measure_cost` for one model, `open_cost_model` for many. Behind it stand the TPU compiler
in processes of its own (`compiler.py`, `pool.py`, `process.py`, `worker.py`, `hlo.py`), this host (`host.py`), and the
counting of operations (`flops.py`). `chips.py` holds the hardware's numbers, `cache.py` remembers compilations on disk.
"""

from autoprune.cost.model import CostModel, measure_cost, open_cost_model
from autoprune.cost.training_step import training_step_cost

__all__ = ["CostModel", "measure_cost", "open_cost_model", "training_step_cost"]
