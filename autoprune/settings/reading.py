"""The one function that makes settings from Hydra's config."""

from dataclasses import fields
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from autoprune.errors import SettingsError
from autoprune.registry import suggestion
from autoprune.settings.options import part_type

S = TypeVar("S")


def from_config(config: DictConfig, schema: type[S]) -> S:
    """Settings from a composed Hydra config.

    Raises:
        SettingsError: a key is unknown, or a value has the wrong type or range.
    """
    data = OmegaConf.to_container(config, resolve=True)
    return _build(schema, data, "")


def _build(schema: type[S], data: dict[str, Any], prefix: str) -> S:
    """Fill a settings dataclass, part by part, so that an error names the whole key."""
    known = {item.name: item for item in fields(schema)}
    for key in data:
        if key not in known:
            raise SettingsError(f"There is no option '{prefix}{key}'. {suggestion(key, known)}")
    parts = {name: part_type(item) for name, item in known.items()}
    values = {}
    for key, value in data.items():
        if parts[key] is not None:
            values[key] = _build(parts[key], _options(value, parts[key], f"{prefix}{key}"), f"{prefix}{key}.")
    plain = {key: value for key, value in data.items() if key not in values}
    try:
        typed = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(schema), plain))
    except ConfigKeyError as error:
        raise SettingsError(str(error).splitlines()[0]) from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", "") or ""
        raise SettingsError(f"The option '{prefix}{key}' has a wrong value: {str(error).splitlines()[0]}") from error
    return schema(**{key: typed[key] for key in plain}, **values)


def _options(value: Any, part: type, key: str) -> dict[str, Any]:
    """The options of a part.

    Raises:
        SettingsError: the part itself was given a value.
    """
    if not isinstance(value, dict):
        options = ", ".join(f"{key}.{item.name}" for item in fields(part))
        raise SettingsError(f"'{key}' has parts: give one or more of {options}. Received: {key}={value}")
    return value
