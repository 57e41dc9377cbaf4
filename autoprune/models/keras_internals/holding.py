"""What an operation can get at, whether or not Keras tracks it: variables and layers in attributes and functions."""

import dis
import functools
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

# Objects of these packages hold no layers of a user's but through containers, layers and functions, looked at as such.
_LIBRARIES = frozenset({"jax", "keras", "ml_dtypes", "numpy", "tensorflow", "torch", *sys.stdlib_module_names})


def reachable(operation: Any) -> dict[int, Any]:
    """Every object that an operation refers to, itself included, by `id`.

    Attributes are followed through containers, sub-layers, objects of a user's classes and functions: their closures,
    defaults and global names, also those of the methods of a user's class. The calls of the operation, which lead to
    all the rest of its model, are not.
    """
    found: dict[int, Any] = {}
    pending = [operation]
    while pending:
        value = pending.pop()
        if id(value) not in found:
            found[id(value)] = value
            kind: Any = type(value)
            look = _look_into(kind)
            if look is not None:
                pending.extend(look(value))
    return found


# A layer has some hundred attributes, of few types.
@functools.lru_cache(maxsize=4096)
def _look_into(kind: type) -> Callable[[Any], Iterable[Any]] | None:
    """What lists the references of the objects of a type; None where they have none that count."""
    if issubclass(kind, (type, types.ModuleType, keras.Variable)):
        return None
    if issubclass(kind, Mapping):
        return lambda value: _of_items(value.values())
    if issubclass(kind, (list, tuple, set, frozenset)):
        return _of_items
    if issubclass(kind, types.FunctionType):
        return _of_function
    if issubclass(kind, types.MethodType):
        return lambda value: (value.__self__, value.__func__)
    if issubclass(kind, functools.partial):
        return lambda value: (value.func, value.args, value.keywords)
    if issubclass(kind, keras.Operation) or not _is_of_a_library(kind):
        methods = [
            member
            for base in kind.__mro__
            if not _is_of_a_library(base)
            for member in vars(base).values()
            if isinstance(member, types.FunctionType)
        ]
        return lambda value: [*vars(value).values(), *methods] if hasattr(value, "__dict__") else ()
    return None


def _of_items(items: Iterable[Any]) -> list[Any]:
    # Tables of numbers can be long.
    return [item for item in items if not isinstance(item, (int, float, str))]


def _of_function(function: types.FunctionType) -> list[Any]:
    """Closure, defaults and, unless a library wrote the function, the globals that its code names."""
    found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # A name that has no value yet.
            continue
    if not _is_of_a_library(function):
        names: set[str] = set()
        codes = [function.__code__]
        for code in codes:
            names.update(step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")
            # The code of functions that are defined within it.
            codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        found.extend(function.__globals__[name] for name in names if name in function.__globals__)
    return found


def _is_of_a_library(definition: Any) -> bool:
    """Whether a class or function comes from Keras, a backend or Python itself."""
    return (definition.__module__ or "").partition(".")[0] in _LIBRARIES
