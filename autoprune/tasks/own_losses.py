"""Losses that a user names or brings, and what tells them and metrics apart."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from autoprune.errors import SettingsError, words_of


@dataclass(frozen=True)
class OwnLoss:
    """A loss that a user has named or brought.

    Attributes:
        name: as Keras or the user calls it.
        function: gives (n, ...) losses, or their mean, of labels and outputs.
        identity: what tells it from others, such as its config.
    """

    name: str
    function: Callable[[Any, Any], Any]
    identity: str

    def __call__(self, labels: Any, outputs: Any) -> Any:
        """The losses, or their mean."""
        return self.function(labels, outputs)


def as_loss(given: Any) -> OwnLoss:
    """A loss, of what Keras takes for one.

    Raises:
        SettingsError: Keras knows no such loss.
    """
    try:
        loss = keras.losses.get(given)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"There is no loss '{given}': {words_of(error, 200)}") from error
    # Called as a whole, a loss of Keras's would take the mean over examples.
    function = loss.call if isinstance(loss, keras.losses.Loss) else loss
    name = given if isinstance(given, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "loss")
    return OwnLoss(str(name), function, str(given) if isinstance(given, str) else identify(loss))


def identify(thing: Any) -> str:
    """What tells a metric or a loss from others: its class and config, or the code of a function."""
    if hasattr(thing, "get_config"):
        config = {name: value for name, value in thing.get_config().items() if name != "name"}
        return f"{type(thing).__module__}.{type(thing).__qualname__} {json.dumps(config, sort_keys=True, default=str)}"
    code = getattr(thing, "__code__", None)
    content = hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()[:16] if code else ""
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__name__)} {content}"
