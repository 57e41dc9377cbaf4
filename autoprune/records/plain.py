"""Plain data: files that appear whole or not at all, JSON that tells whether it is still what was written, records."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import types
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_CHECKSUM = "checksum"


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, whatever happens to this process or machine.

    Raises:
        OSError: it cannot be written; what was there before is there still.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # A machine that is taken away does not write what it still holds.
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # On a disk that is full it would take the room that is needed to go on.


def write_json(path: Path, data: Any) -> None:
    """Write JSON as `write_text` does; an object gets a checksum of what it holds."""
    if isinstance(data, dict):
        plain = json.loads(json.dumps(data))
        plain.pop(_CHECKSUM, None)  # Of what was read before.
        data = {**plain, _CHECKSUM: _digest(plain)}
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path, *, by_hand: bool = False) -> Any:
    """What `write_json` has written.

    Args:
        path: the file.
        by_hand: whether people may write it too, without a checksum.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, or not what was written.
    """
    try:
        data = json.loads(path.read_text())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if isinstance(data, dict):
        checksum = data.pop(_CHECKSUM, None)
        if checksum is None and not by_hand:
            raise ValueError("it has no checksum: it is damaged, or was written by an older version or by hand")
        if checksum is not None and checksum != _digest(data):
            way = f'. If you have changed them on purpose, delete "{_CHECKSUM}" there' if by_hand else ""
            raise ValueError(f"its contents do not match its checksum{way}")
    return data


def _digest(plain: dict[str, Any]) -> str:
    """Of plain data, however a file lays it out."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def from_plain(kind: type[T], data: Any, name: str = "") -> T:
    """What JSON has of a record, or of anything else that annotations describe; each part is checked.

    Args:
        kind: a dataclass, a tuple, list or mapping, a union, literals, a text, a number, or Any.
        data: as `dataclasses.asdict` gives it, perhaps after JSON. Null in the place of a float is NaN.
        name: for messages; by default that of the kind.

    Raises:
        ValueError: the data are something else.
    """
    made: Any = _read(kind, data, name or getattr(kind, "__name__", str(kind)))
    return made


def _read(kind: Any, data: Any, name: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, data, name)
    if origin in (Union, types.UnionType):
        # A float would take null too.
        for part in sorted(parts, key=lambda part: part is not types.NoneType):
            with contextlib.suppress(ValueError):
                return _read(part, data, name)
    elif origin in (tuple, list) and isinstance(data, list | tuple):
        return origin(_read(parts[0], item, f"{name}[{number}]") for number, item in enumerate(data))
    elif origin in (Mapping, dict) and isinstance(data, dict):
        return {key: _read(parts[1], value, f"{name}[{key!r}]") for key, value in data.items()}
    elif kind is float and (data is None or type(data) in (float, int)):
        return math.nan if data is None else data
    elif kind is Any or (origin is Literal and data in parts) or (origin is None and type(data) is kind):
        return data
    raise ValueError(f"{name} must be {getattr(kind, '__name__', kind)}. Received: {str(data)[:60]!r}")


def _read_record(kind: Any, data: Any, name: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{name} must be an object. Received: {str(data)[:60]!r}")
    hints, fields = hints_of(kind), {item.name: item for item in dataclasses.fields(kind)}
    if unknown := [key for key in data if key not in fields]:
        raise ValueError(f"{name} has no {unknown[0]!r}")
    for key, item in fields.items():
        if key not in data and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name} lacks {key!r}")
    return kind(**{key: _read(hints[key], value, f"{name}.{key}") for key, value in data.items()})


@functools.cache
def hints_of(kind: Hashable) -> dict[str, Any]:
    """Annotations of a dataclass, by the names of its fields."""
    return get_type_hints(kind)
