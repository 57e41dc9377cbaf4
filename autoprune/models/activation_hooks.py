"""Shows what flows into some layers of a model while it runs on data."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from autoprune.models import keras_internals

Observe = Callable[[Any, Any], None]


def observe_inputs(model: Any, layers: Iterable[Any], batches: Iterable[Any], observe: Observe) -> None:
    """Run a model eagerly, in inference mode, and hand what enters some of its layers to a function.

    Nested models and layers that are called several times are seen like all others: every call is observed. Nothing
    of the model changes.

    Args:
        model: a built model.
        layers: layers of it, or of models nested in it, that take one tensor.
        batches: inputs as the model takes them, one batch after the other.
        observe: called with the layer and the tensor that enters it, a tensor of the backend in the layer's compute
            dtype.
    """

    def call(layer: Any, original: Callable[..., Any], first: str, /, *args: Any, **kwargs: Any) -> Any:
        observe(layer, args[0] if args else kwargs[first])
        return original(*args, **kwargs)

    calls = {layer: partial(call, layer, layer.call, keras_internals.call_arguments(layer)[0]) for layer in layers}
    with keras_internals.overridden("call", calls):
        for batch in batches:
            keras_internals.run_on(model, batch)
