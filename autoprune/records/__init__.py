"""The nouns that flow between the stages, as frozen dataclasses: standard library and NumPy only.

`plain.py` writes and reads JSON, `tensors.py` arrays, by safetensors.

`ChannelGroup` comes from `autoprune.graph`, `Plan` from `autoprune.planning`, `SurgeryReport` from
`autoprune.surgery`, `CostReport` and `TrainingStepReport` from `autoprune.cost`, `Evaluation` from
`autoprune.evaluation`.
"""

from autoprune.records.costs import (
    Amount,
    Budget,
    CostReport,
    Evaluation,
    Memory,
    Target,
    TrainingMemory,
    TrainingStepReport,
)
from autoprune.records.pruning import Branch, ChannelGroup, Member, Plan, Role, SurgeryReport, VariableChange

__all__ = [
    "Amount",
    "Branch",
    "Budget",
    "ChannelGroup",
    "CostReport",
    "Evaluation",
    "Member",
    "Memory",
    "Plan",
    "Role",
    "SurgeryReport",
    "Target",
    "TrainingMemory",
    "TrainingStepReport",
    "VariableChange",
]
