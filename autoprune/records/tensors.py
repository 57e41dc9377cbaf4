"""Arrays on disk: one safetensors file, replaced whole, with a description and a checksum of what it holds."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

_CHECKSUM = "checksum"
_DESCRIPTION = "autoprune"  # Its place among the metadata of safetensors, which are texts.


def write_tensors(path: Path, description: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a file that appears whole or not at all, whatever happens to this process or machine.

    Args:
        path: of the file; its folder is made when missing.
        description: plain data, with the name and the version of the format.
        tensors: the arrays by name.

    Raises:
        OSError, SafetensorError: it cannot be written; what was there before is there still.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    described = {**description, _CHECKSUM: _digest(description, contiguous)}
    try:
        save_file(contiguous, partial, {_DESCRIPTION: json.dumps(described)})
        with open(partial, "rb") as file:
            os.fsync(file.fileno())  # A machine that is taken away does not write what it still holds.
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path, format_name: str, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays by name, as `write_tensors` was given them.

    Args:
        path: the file to read.
        format_name: that the description has to name.
        version: that the description has to have.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, or not what was written.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {})[_DESCRIPTION])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, KeyError, RecursionError) as error:
        raise ValueError(f"it cannot be read: {type(error).__name__}: {error}") from error
    marks = (described.get("format"), described.get("version")) if isinstance(described, dict) else (None, None)
    if marks != (format_name, version):
        raise ValueError(f"expected '{format_name}' of version {version}. Received: {marks[0]!r} {marks[1]!r}")
    if described.pop(_CHECKSUM, None) != _digest(described, tensors):
        raise ValueError("it is damaged: its contents do not match its checksum")
    return described, tensors


def _digest(description: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"|{name}|{tensors[name].dtype}|{tensors[name].shape}|".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
