"""Fields of settings that know their help and limits: the one source of a command's options and of checks."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
LARGEST_SEED = 2**63 - 1
ABOUT = "about"  # the key of a field's metadata


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a setting beside its name, type and default.

    Attributes:
        help: a sentence for users.
        least, most: the smallest and the largest value.
        above, below: bounds that are no values themselves.
        choices: all that a text may be.
        metavar: what the value looks like.
        is_file: whether it names a file that must be there.
    """

    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    is_file: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError, with the setting's name, for a value that it cannot have; None is passed over."""
        if value is None:
            return
        if self.choices and value not in self.choices:
            raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(self.choices)}")
        if not all(
            (
                self.least is None or value >= self.least,
                self.most is None or value <= self.most,
                self.above is None or value > self.above,
                self.below is None or value < self.below,
            )
        ):
            raise ValueError(f"{name} {self._limits()}, got {value!r:.40}")

    def _limits(self) -> str:
        if self.least is None:
            return f"must be above {_number(self.above)}"
        if self.most is not None:
            what = "is a share" if (self.least, self.most) == (0, 1) else "must be"
            return f"{what} from {_number(self.least)} to {_number(self.most)}"
        if self.below is not None:
            return f"must be from {_number(self.least)} to below {_number(self.below)}"
        return f"must be at least {_number(self.least)}" if self.least else "must be 0 or more"


def _number(number: float | None) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def check_seed(seed: int, num: int = 1) -> None:
    """Raise ValueError unless `seed` and the `num` - 1 seeds after it are seeds."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed {seed} is out of range; give one from 0 to {LARGEST_SEED}")
    if num > 1 and seed + num - 1 > LARGEST_SEED:
        raise ValueError(
            f"seed {seed} is too large for {num} pictures with a seed each; give one up to "
            f"{LARGEST_SEED - num + 1}"
        )


def setting(
    default: T,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    is_file: bool = False,
) -> T:
    """A field of a dataclass with a default, and what `About` says of it.

    >>> @dataclass(frozen=True)
    ... class Training:
    ...     batch: int = setting(16, "Images per step.", least=1)
    >>> Training().batch
    16
    """
    about = About(
        help=help,
        least=least,
        most=most,
        above=above,
        below=below,
        choices=choices,
        metavar=metavar,
        is_file=is_file,
    )
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={ABOUT: about})  # type: ignore[call-arg]
    return dataclasses.field(default=default, metadata={ABOUT: about})


def about(owner: type, name: str) -> About:
    """What the dataclass `owner` says of its setting `name`. Raises KeyError where it says nothing."""
    return next(each for each in dataclasses.fields(owner) if each.name == name).metadata[ABOUT]


def check_limits(settings: Any, prefix: str = "") -> None:
    """Raise ValueError for the first field of a dataclass that is out of its limits.

    prefix: in front of a field's name in messages, such as "adversary.".
    """
    for each in dataclasses.fields(settings):
        if ABOUT in each.metadata:
            each.metadata[ABOUT].check(prefix + each.name, getattr(settings, each.name))


def check_size(name: str, value: object, least: int, most: int) -> None:
    """Raise ValueError unless `value` is a whole number in this range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r:.40}")
