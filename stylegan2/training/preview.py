"""Contact sheets of tensors."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stylegan2.files import atomic_path

PREVIEW_SIDE = 256  # pixels of a picture on a preview's sheet, at most


def save_grid(images: Tensor, path: str | Path, columns: int, gap: int = 2) -> None:
    """Write pictures [N, 3, H, W] in [-1, 1] as one PNG, row by row, `gap` white pixels apart.

    Those of more than PREVIEW_SIDE pixels a side are reduced to it.
    """
    if images.shape[-1] > PREVIEW_SIDE:
        images = F.adaptive_avg_pool2d(images.detach().float(), PREVIEW_SIDE)
    count, _, height, width = images.shape
    rows = -(-count // columns)
    pixels = (images.detach().float().cpu() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels = F.pad(pixels, [0, gap, 0, gap], value=255)
    sheet = torch.full([rows * columns, *pixels.shape[1:]], 255, dtype=torch.uint8)
    sheet[:count] = pixels
    sheet = sheet.reshape(rows, columns, 3, height + gap, width + gap).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), 3)
    with atomic_path(path) as temporary:
        Image.fromarray(sheet.numpy()).save(temporary)
