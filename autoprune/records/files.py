"""Files that appear whole or not at all, and JSON that tells whether it is still what was written."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

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
        data = {**plain, _CHECKSUM: _digest(plain)}
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` has written. JSON without a checksum is taken as it is.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, or not what was written.
    """
    try:
        data = json.loads(path.read_text())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if isinstance(data, dict) and (checksum := data.pop(_CHECKSUM, None)) is not None and checksum != _digest(data):
        raise ValueError(
            f'its contents do not match its checksum. If you have changed them on purpose, delete "{_CHECKSUM}" there'
        )
    return data


def _digest(plain: dict[str, Any]) -> str:
    """Of plain data, however a file lays it out."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
