"""Progress bars for what takes more than two seconds: on stderr, and on a terminal only."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(
    items: Iterable[T], what: str, total: int | None = None, done: int = 0, shown: bool = True
) -> Iterable[T]:
    """The items, with a bar that says how many are done.

    Args:
        items: what is worked through.
        what: it is, such as "training".
        total: how many items there are, with the `done` ones; None: as many as `items` has.
        done: how many were done before.
        shown: whether this process shows it.
    """
    disable = None if shown else True  # None: where stderr is no terminal
    return tqdm(items, what, total, initial=done, disable=disable, leave=False, delay=2)
