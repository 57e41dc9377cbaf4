"""What happens when the compiler says no: the worker puts it into an answer, the asker makes an error of that."""

import re
import traceback
from typing import Any

from autoprune.errors import CostError, DoesNotFitError, RouteError, without_escape_codes

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
