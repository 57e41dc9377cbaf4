"""What a model costs on a target: latency, memory, operations, parameters.

`model.py` is the door: `measure_cost` for one model, `open_cost_model` for many, `multi_target.py` for several targets.
Behind it stand the TPU compiler in processes of its own (`compiler/`), this host and an attached TPU (`measured/`), and
the counting of operations (`flops.py`). `chips.py` holds the hardware's numbers, `cache/` remembers compilations on
disk, `surrogate/` predicts costs from those of other plans.
"""

from autoprune.cost.compiler.training_step import training_step_cost
from autoprune.cost.model import CostModel, measure_cost, open_cost_model

__all__ = ["CostModel", "measure_cost", "open_cost_model", "training_step_cost"]
