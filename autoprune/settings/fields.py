"""What the command line knows of a field of settings beside its default: the field's metadata."""

from collections.abc import Mapping


def read_by(*entries: str) -> Mapping[str, tuple[str, ...]]:
    """Of an option that only these entries of its config group read, such as `tfds` of `conf/data`."""
    return {"only": entries}


def unread_by(*entries: str) -> Mapping[str, tuple[str, ...]]:
    """Of an option that these entries of its config group do not read."""
    return {"never": entries}


def leave_out(*names: str) -> Mapping[str, tuple[str, ...]]:
    """Of a part of which the command does not offer these options."""
    return {"without": names}
