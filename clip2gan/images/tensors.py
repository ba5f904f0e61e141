"""Tensors as pictures."""

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


def to_picture(image: "Tensor") -> Image.Image:
    """[1, 3, R, R] (or [1, 1, R, R]: grey) in [-1, 1] as an RGB picture; values outside are clipped.

    Raises ValueError for another number of channels, and where the picture is NaN or infinite somewhere.
    """
    from stylegan2.files import is_finite

    channels = image.shape[1]
    if channels not in (1, 3):
        raise ValueError(
            f"pictures of {channels} channels cannot be written; they must have 3, or 1 for grey"
        )
    if not is_finite(image):
        raise ValueError("the generator gives a picture that is not finite; take other latents or weights")
    pixels = ((image[0] + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())
