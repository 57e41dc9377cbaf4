"""The one function that makes settings from Hydra's config."""

from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from autoprune.errors import SettingsError
from autoprune.records.plain import from_plain, hints_of
from autoprune.registry import suggestion
from autoprune.settings.options import part_type

S = TypeVar("S")
_structured = cache(OmegaConf.structured)  # Merging copies it; making it takes as long as all the rest.


def from_config(config: DictConfig, schema: type[S]) -> S:
    """Settings from a composed Hydra config.

    Raises:
        SettingsError: a key is unknown, or a value has the wrong type or range.
    """
    data: Any = OmegaConf.to_container(config, resolve=True)
    made: S = _build(schema, data, "")
    return made


def _build(schema: type[Any], data: dict[str, Any], prefix: str) -> Any:
    """Fill a settings dataclass, part by part, so that an error names the whole key."""
    known = {item.name: item for item in fields(schema)}
    for key in data:
        if key not in known:
            raise SettingsError(f"There is no option '{prefix}{key}'. {suggestion(key, known)}")
    plain, parts = {}, {}
    for key, value in data.items():
        part = part_type(known[key])
        if part is None:
            plain[key] = value
        elif isinstance(value, dict):
            parts[key] = _build(part, value, f"{prefix}{key}.")
        else:
            options = ", ".join(f"{prefix}{key}.{item.name}" for item in fields(part))
            raise SettingsError(
                f"'{prefix}{key}' has parts: give one or more of {options}. Received: {prefix}{key}={value}"
            )
    kind: Any = schema
    try:
        typed: Any = OmegaConf.to_container(OmegaConf.merge(_structured(kind), plain))
    except ConfigKeyError as error:
        raise SettingsError(str(error).splitlines()[0]) from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", "") or ""
        raise SettingsError(f"The option '{prefix}{key}' has a wrong value: {str(error).splitlines()[0]}") from error
    hints = hints_of(kind)
    for key in plain:
        # OmegaConf does not look into lists.
        try:
            from_plain(hints[key], typed[key], f"The option '{prefix}{key}'")
        except ValueError as error:
            raise SettingsError(str(error)) from error
    return schema(**{key: typed[key] for key in plain}, **parts)
