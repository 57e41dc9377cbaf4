"""What is known of each kind of layer and raw operation, one class each: `LayerKind` says what such a class holds.

How channels pass it, how many operations it takes, how importance is read from what enters it, what it derived from its
widths, and how it is traced for all of them. The analyses of the packages after this one ask the registry, so that a
layer of a user's own takes part in all of them by one class. `call.py`, `channels.py` and `record.py` are the books
that `LayerKind.channels` writes into.
"""

from autoprune.layers import (  # noqa: F401 - importing a module of kinds registers them
    attention,
    elementwise,
    experts,
    flows,
    kernels,
    merging,
    normalization,
    ode,
    reshaping,
    slicing,
    spatial,
    wrappers,
)
from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.kind import (
    LayerKind,
    Merge,
    count_calls,
    exact_kind_of,
    kind_of,
    layer_kind,
    list_kinds,
    open_widths,
    raw_kind,
    shape_within,
    update_derived,
)

__all__ = [
    "Call",
    "Channels",
    "LayerKind",
    "Merge",
    "count_calls",
    "exact_kind_of",
    "kind_of",
    "layer_kind",
    "list_kinds",
    "open_widths",
    "raw_kind",
    "shape_within",
    "update_derived",
]
