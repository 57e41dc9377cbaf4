"""The only files that touch Keras's private attributes. Written against Keras 3.15.

Everything here is a small verb on a Keras object; the reasons and the order of calls are in the callers. It stands
left of `autoprune.graph` in the import order because walking the nodes of a model needs it as much as surgery does.
"""

from autoprune.models.keras_internals.attributes import (
    attribute_state,
    key_per_axis,
    key_without_bounds,
    read_attribute,
    restore_attribute,
    write_attribute,
)
from autoprune.models.keras_internals.graph import (
    application_class,
    arguments_of,
    calls_of,
    graph_of,
    input_structure,
    is_graph,
    layers_by_path,
    maker_of,
    nodes_of,
    operations_by_path,
    raw_operation_name,
    set_tensor_shape,
)
from autoprune.models.keras_internals.layers import (
    attention_parts,
    batch_statistics_only,
    build_shapes,
    call_arguments,
    has_variable,
    layer_variable,
    overridden,
    set_batch_shape,
    set_build_shapes,
)
from autoprune.models.keras_internals.training import (
    forget_compiled_functions,
    forget_training,
    optimizer_of,
    renew_identities,
    slot_lists,
    tracked_variables,
)
from autoprune.models.keras_internals.variables import (
    array_of,
    put_back,
    replace_value,
    shape_of,
    storage,
    value_of,
)

__all__ = [
    "application_class",
    "arguments_of",
    "array_of",
    "attention_parts",
    "attribute_state",
    "batch_statistics_only",
    "build_shapes",
    "call_arguments",
    "calls_of",
    "forget_compiled_functions",
    "forget_training",
    "graph_of",
    "has_variable",
    "input_structure",
    "is_graph",
    "key_per_axis",
    "key_without_bounds",
    "layer_variable",
    "layers_by_path",
    "maker_of",
    "nodes_of",
    "operations_by_path",
    "optimizer_of",
    "overridden",
    "put_back",
    "raw_operation_name",
    "read_attribute",
    "renew_identities",
    "replace_value",
    "restore_attribute",
    "set_batch_shape",
    "set_build_shapes",
    "set_tensor_shape",
    "shape_of",
    "slot_lists",
    "storage",
    "tracked_variables",
    "value_of",
    "write_attribute",
]
