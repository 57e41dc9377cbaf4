"""Channel rules: for each kind of operation, how its output channels follow from its inputs and variables.

`registry.py` holds the table and tells how to write a rule of your own.
"""

from autoprune.layers import (  # noqa: F401 - importing a module of rules enters them
    convolution,
    elementwise,
    merging,
    normalization,
    reshaping,
    slicing,
    spatial,
    wrappers,
)
from autoprune.layers.registry import (
    channel_rule,
    layers_with_rules,
    raw_operations_with_rules,
    raw_rule,
    rule_for,
)

__all__ = ["channel_rule", "layers_with_rules", "raw_operations_with_rules", "raw_rule", "rule_for"]
