"""What a model costs on a target: latency, memory, operations, parameters.

`model.py` is the door: `measure_cost` for one model, `open_cost_model` for many. Behind it stand the TPU compiler
in a worker process (`compiler.py`, `client.py`, `worker.py`, `hlo.py`), this host (`host.py`), and the counting of
operations (`flops.py`). `chips.py` holds the hardware's numbers, `cache.py` remembers compilations on disk.
"""

from autoprune.cost.model import CostModel, measure_cost, open_cost_model

__all__ = ["CostModel", "measure_cost", "open_cost_model"]
