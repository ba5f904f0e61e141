"""Drive a frozen StyleGAN2 with words: CLIP embeddings mapped to its latent space.

    import clip2gan

    model = clip2gan.load("avatars", device="cpu")
    images = model.generate("a smiling face with sunglasses", num=4, seed=0)

Importing this package is quick: torch and the rest load with the first use of a public name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip2gan.mappers import load_mapper, save_mapper
    from clip2gan.mappers.mlp import MlpMapper
    from clip2gan.pipeline import Clip2Gan, load

__version__ = "0.1.0"
__all__ = ["Clip2Gan", "MlpMapper", "load", "load_mapper", "save_mapper"]

_HOMES = {
    "Clip2Gan": "clip2gan.pipeline",
    "MlpMapper": "clip2gan.mappers.mlp",
    "load": "clip2gan.pipeline",
    "load_mapper": "clip2gan.mappers",
    "save_mapper": "clip2gan.mappers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clip2gan' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
