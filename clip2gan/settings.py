"""Settings in dataclasses: read from JSON and checked, changed by name, and laid flat."""

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


def from_plain(owner: type[T], plain: Any, name: str = "") -> T:
    """A dataclass from what JSON holds: nested dataclasses, tuples and mappings are built, all types checked.

    Args:
        owner: the dataclass.
        plain: a mapping of its fields; those with a default may be missing.
        name: of the whole in messages, in front of a field's own ("domain" gives 'domain.neutral').

    Raises ValueError that begins with the field's name in quotes.
    """
    if not isinstance(plain, Mapping):
        raise ValueError(f"{name!r} is {plain!r:.80}; expected an object")
    hints = get_type_hints(owner)
    dot = f"{name}." if name else ""
    if strangers := [key for key in plain if key not in hints]:
        raise ValueError(f"{dot + str(strangers[0])!r:.100} is not known; update clip2gan, or remove it")
    values = {}
    for part in dataclasses.fields(owner):  # type: ignore[arg-type]  # T is a dataclass
        if part.name in plain:
            values[part.name] = _build(plain[part.name], hints[part.name], dot + part.name)
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise ValueError(f"{dot + part.name!r} is missing; expected a {_name(hints[part.name])}")
    try:
        return owner(**values)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}" if name else str(error)) from error


def _build(value: Any, hint: Any, name: str) -> Any:
    """What JSON holds as a value of this type. Raises ValueError, with the name, where it is not one."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        chosen = [part for part in parts if part is not type(None)]
        if value is None and len(chosen) < len(parts):
            return None
        structured = [part for part in chosen if dataclasses.is_dataclass(part)]
        if isinstance(value, Mapping) and structured:
            return _build(value, structured[0], name)
        if len(chosen) == 1:
            return _build(value, chosen[0], name)
    elif dataclasses.is_dataclass(hint):
        return from_plain(hint, value, name)  # type: ignore[arg-type]  # a class, not an instance
    elif origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_build(each, parts[0], f"{name}[{index}]") for index, each in enumerate(value))
    elif origin not in (None, tuple, Literal) and isinstance(value, Mapping):
        return {key: _build(each, parts[1], f"{name}.{key:.80}") for key, each in value.items()}
    if not _fits(value, hint):
        raise ValueError(f"{name!r} is {value!r:.80}; expected a {_name(hint)}")
    return value


def parse_assignment(text: str) -> tuple[str, Any]:
    """("lr", 0.1) of "lr=0.1"; the value is JSON or else a string. Raises ValueError without an "="."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
    except RecursionError:
        raise ValueError(f"{name!r:.80}: the value nests too deeply") from None


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
    if hint is Any or hint is None:
        return hint is Any or value is None
    return isinstance(value, origin or hint)


def _name(hint: Any) -> str:
    if get_origin(hint) not in (None, Union, UnionType, Literal, tuple):
        return "dict"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
