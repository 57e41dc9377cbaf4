"""What happens when the compiler says no: the worker puts it into an answer, the asker makes an error of that.

And which layer of a model it refuses: the first whose beginning of the model fails too.
"""

import re
import traceback
from collections.abc import Callable
from typing import Any

import keras

from autoprune.errors import CostError, DoesNotFitError, RouteError, without_escape_codes
from autoprune.models import keras_internals

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
_TOO_LARGE = (
    re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
    re.compile(rf"[Uu]sed {_SIZE} of {_SIZE} hbm"),
)


def encode_error(error: BaseException) -> dict[str, Any]:
    """An answer that says why there is no result; `result_of` reads it."""
    if isinstance(error, RouteError):
        return {"error": str(error), "kind": "route"}
    words = describe_error(error)
    for pattern in _TOO_LARGE:
        if found := pattern.search(words):
            needed, available = (float(found[n]) * _UNITS[found[n + 1]] for n in (1, 3))
            return {"error": words, "kind": "memory", "needed": needed, "available": available}
    return {"error": f"The TPU compiler refused the model: {words}", "kind": "refused"}


def result_of(answer: dict[str, Any]) -> Any:
    """What an answer holds.

    Raises:
        CostError: it is a refusal; of the class and with the words that the refusal stands for.
    """
    if "error" not in answer:
        return answer["result"]
    kind = answer.get("kind")
    if kind == "route":
        raise RouteError(answer["error"])
    if kind == "memory":
        needed, available = answer["needed"], answer["available"]
        words = (
            f"The model does not fit: it needs {needed / 2**30:.2f} GiB of the device's {available / 2**30:.2f} GiB. "
            f"Make target.batch_size smaller. The TPU compiler says: {answer['error']}"
        )
        raise DoesNotFitError(words, needed, available)
    raise CostError(answer["error"])


def describe_error(error: BaseException) -> str:
    """An error in its own words, without what JAX appends to all of them."""
    words = without_escape_codes("".join(traceback.format_exception_only(error))).strip()
    return words.split("\n--------------------\n")[0][:4000]


def find_failing_layer(model: Any, works: Callable[[Any], bool]) -> str:
    """Path of the first operation, in data-flow order, without which the model would not have failed.

    Args:
        model: one that does not work.
        works: tries a model that is made of the first operations of this one. Called log2(operations) times, and as
            often again for each level of nested models.
    """
    graph = keras_internals.graph_of(model)
    given = {id(tensor) for tensor in graph.inputs}
    nodes = [node for node in keras_internals.nodes_of(graph) if not {id(t) for t in node.outputs} <= given]
    low, high = 0, len(nodes) - 1
    while low < high:
        middle = (low + high) // 2
        outputs = [tensor for node in nodes[: middle + 1] for tensor in node.outputs]
        if works(keras.Model(graph.inputs, outputs)):
            low = middle + 1
        else:
            high = middle
    operation = nodes[low].operation
    if keras_internals.is_graph(operation) and not works(operation):
        return f"{operation.name}/{find_failing_layer(operation, works)}"
    return operation.name
