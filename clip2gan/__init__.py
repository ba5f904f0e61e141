"""Drive a frozen StyleGAN2 with words: CLIP embeddings mapped to its latent space.

    import clip2gan

    model = clip2gan.load("avatars", device="cpu")
    images = model.generate("a smiling face with sunglasses", num=4, seed=0)

Importing this package is quick: torch and the rest load with the first use of a public name.
"""

import warnings
from typing import TYPE_CHECKING, Any

from stylegan2.lazy import lazy_names

if TYPE_CHECKING:
    from clip2gan.editing.session import EditSession
    from clip2gan.mappers import load_mapper, save_mapper
    from clip2gan.mappers.mlp import MlpMapper
    from clip2gan.model import Model, load

__version__ = "0.1.0"
__all__ = ["EditSession", "MlpMapper", "Model", "load", "load_mapper", "save_mapper"]

_HOMES = {
    "EditSession": "clip2gan.editing.session",
    "MlpMapper": "clip2gan.mappers.mlp",
    "Model": "clip2gan.model",
    "load": "clip2gan.model",
    "load_mapper": "clip2gan.mappers",
    "save_mapper": "clip2gan.mappers",
}
_find = lazy_names(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name == "Clip2Gan":  # goes with release 0.2
        warnings.warn("clip2gan.Clip2Gan is called clip2gan.Model now", DeprecationWarning, stacklevel=2)
        name = "Model"
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
