"""The table of channel rules.

A rule is a function of one `autoprune.layers.call.Call`; `channel_rule` enters it for layer classes and `raw_rule`
for raw `keras.ops` operations. Only the exact class matches: a subclass may compute something else, so it has no
rule until it is given one.
"""

from collections.abc import Callable
from typing import Any

import keras

from autoprune.layers.call import Rule
from autoprune.models import keras_internals
from autoprune.registry import entering

_LAYER_RULES: dict[type, Rule] = {}
_RAW_RULES: dict[str, Rule] = {}


def channel_rule(*layer_classes: type) -> Callable[[Rule], Rule]:
    """Decorator that enters a rule for layer classes.

    Example: a layer that scales every channel by a learnt factor follows its input. Its config holds the number of
    channels, and a list with a name for each.

    >>> @channel_rule(Scale)
    ... def scale(call):
    ...     (channels,) = call.channels  # of the only input; None: nothing of it can be removed
    ...     if channels is not None:
    ...         call.bind("factor", -1, "follows", channels.ids)  # the last axis of the variable `factor`
    ...         call.bind_attribute("dim", channels.ids)  # surgery sets `layer.dim`
    ...         call.bind_values("names", 0, channels.ids)  # and shortens `layer.names`
    ...     return channels  # of the output

    A layer that makes channels binds the output axis of its kernel as `produces` and returns
    `Channels(axis, call.bind("kernel", -1, "produces"))`; the axis with which it reads is bound as `consumes`. What it
    cannot do, it freezes: `call.freeze("enters a layer that ...")`. A wrapper asks for the rule of the layer within
    (`call.within`). What else a layer derives from its widths when it is built is for `autoprune.layer_editor`.

    Raises:
        ValueError: a class has a rule already.
    """
    return entering(_LAYER_RULES, layer_classes, "{} has a channel rule already")


def raw_rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator that enters a rule for raw `keras.ops` operations by class name (`Add`, `Relu`, ...)."""
    return entering(_RAW_RULES, names, "the raw operation {} has a channel rule already")


def rule_for(operation: Any) -> Rule | None:
    """The rule of an operation, or None when it has none."""
    if isinstance(operation, keras.Layer):
        return _LAYER_RULES.get(type(operation))
    name = keras_internals.raw_operation_name(operation)
    return _RAW_RULES.get(name) if name else None


def layers_with_rules() -> tuple[type, ...]:
    """Every layer class that has a rule; the contract tests run over them."""
    return tuple(_LAYER_RULES)


def raw_operations_with_rules() -> tuple[str, ...]:
    """Every raw operation that has a rule; the contract tests run over them."""
    return tuple(_RAW_RULES)
