"""What layers derive from their widths when they are built, beside variables and the attributes that rules bind.

A channel rule says which axes of variables and which attributes follow the channels; surgery cuts these by itself. A
layer that keeps something else that depends on its widths, such as a shape or a table, has an editor too.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from autoprune.registry import entering

Editor = Callable[[Any], None]

_EDITORS: dict[type, Editor] = {}


def layer_editor(*layer_classes: type) -> Callable[[Editor], Editor]:
    """Decorator that enters an editor for layer classes: only the exact class matches.

    An editor takes the layer after its variables and bound attributes have changed, by surgery or by its undoing, and
    derives the rest from them anew. For a layer that also has a channel rule:

    >>> @layer_editor(Scale)
    ... def scale(layer):
    ...     layer.factor_shape = tuple(layer.factor.shape)

    Raises:
        ValueError: a class has an editor already.
    """
    return entering(_EDITORS, layer_classes, "{} has an editor already")


def edit_derived(layers: Iterable[Any]) -> None:
    """Run the editors of those of the layers that have one."""
    for layer in layers:
        editor = _EDITORS.get(type(layer))
        if editor is not None:
            editor(layer)


def with_owners(paths: Iterable[str], operations: Mapping[str, Any]) -> dict[str, Any]:
    """The operations at these paths and all that contain them: a wrapper changes with the layer that it wraps.

    A layer that several wrappers share has several paths.
    """
    named = {id(operations[path]) for path in paths}
    found = {}
    for path, operation in operations.items():
        if id(operation) not in named:
            continue
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            owner = "/".join(parts[:end])
            if owner in operations:
                found[owner] = operations[owner]
    return found


@layer_editor(keras.layers.SpectralNormalization)
def _spectral_normalization(layer: Any) -> None:
    layer.kernel_shape = layer.kernel.shape
