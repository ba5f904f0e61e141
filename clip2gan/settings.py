"""Settings in dataclasses: checked, changed by name, and laid flat."""

import dataclasses
import json
import math
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of names: {"weights": {"cosine": 1}} becomes {"weights.cosine": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def check_settings(owner: type, settings: Mapping[str, Any], what: str) -> None:
    """Raise ValueError for a setting that the dataclass `owner` does not have or that is of another type."""
    hints = get_type_hints(owner)
    names = [field.name for field in dataclasses.fields(owner)]
    for name, value in settings.items():
        if name not in names:
            raise ValueError(f"{what} has no setting {name!r}; it has {', '.join(names)}")
        if not _fits(value, hints[name]):
            raise ValueError(f"{what}: {name} must be {_name(hints[name])}, got {value!r}")


def override(settings: T, changes: Mapping[str, Any]) -> T:
    """A dataclass with values replaced by their flat names ("weights.cosine").

    Raises ValueError for a name that is not there and a value of another type.
    """
    for dotted, value in changes.items():
        name, _, rest = dotted.partition(".")
        current = getattr(settings, name, None)
        if rest and dataclasses.is_dataclass(current):
            new = override(current, {rest: value})
        elif rest and isinstance(current, Mapping):
            new = {**current, rest: value}
        else:
            check_settings(type(settings), {dotted: value}, type(settings).__name__)
            new = value
        settings = dataclasses.replace(settings, **{name: new})  # type: ignore[type-var]
    return settings


def parse_assignment(text: str) -> tuple[str, Any]:
    """("lr", 0.1) of "lr=0.1"; the value is JSON or else a string. Raises ValueError without an "="."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(each, parts[0]) for each in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, origin or hint)


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
