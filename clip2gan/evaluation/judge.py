"""Judges: what sees a domain's attributes in pictures, used only to measure, never to train or to choose.

A judge is a package in `clip2gan.domains`, with a function `load_judge`; its prompts.json has texts to
draw of which it is known what they say. A model's domain names it, where there is one (`Domain.judge`).
"""

import json
from collections.abc import Sequence
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Attributes = dict[str, str]
"""One value for each attribute group."""


class Judge(Protocol):
    """Sees the attribute groups of a domain."""

    @property
    def groups(self) -> Sequence[str]: ...

    def see(self, images: "Tensor") -> list[Attributes]:
        """The verdicts on pictures [N, 3, R, R] in [-1, 1], of any size."""
        ...

    def visible(self, attributes: Attributes) -> dict[str, bool]:
        """Whether each group can be seen in a picture with these attributes."""
        ...


def known_judges() -> list[str]:
    """The names of the judges that come with the package."""
    folders = resources.files("clip2gan.domains").iterdir()
    return sorted(folder.name for folder in folders if (folder / "prompts.json").is_file())


def load_judge(name: str) -> Judge:
    """The judge of this name. Raises ValueError for one that does not come with the package."""
    _check(name)
    return import_module(f"clip2gan.domains.{name}").load_judge()


def judged_prompts(name: str) -> list[dict[str, Any]]:
    """Texts to draw, each with what it says: {"text": ..., "claims": {group: [value, ...]}}.

    Raises ValueError for a judge that does not come with the package.
    """
    _check(name)
    file = resources.files("clip2gan.domains") / name / "prompts.json"
    return json.loads(file.read_text(encoding="utf-8"))


def _check(name: str) -> None:
    if name not in known_judges():
        raise ValueError(
            f"no judge {name!r:.80} comes with this clip2gan; it has {', '.join(known_judges())}"
        )
