"""Pictures in files: reading any picture a user may have, writing PNGs that tell how they were made."""

from clip2gan.images.decoder import (
    MAX_PIXELS,
    Photo,
    decode,
    decode_photo,
    picture_size,
    read_photo,
    read_picture,
    to_srgb,
)
from clip2gan.images.formats import picture_files
from clip2gan.images.sheets import Sheet, contact_sheet, difference, label
from clip2gan.images.tensors import to_picture
from clip2gan.images.write import read_metadata, slug, write_png

__all__ = [
    "MAX_PIXELS",
    "Photo",
    "Sheet",
    "contact_sheet",
    "decode",
    "decode_photo",
    "difference",
    "label",
    "picture_files",
    "picture_size",
    "read_metadata",
    "read_photo",
    "read_picture",
    "slug",
    "to_picture",
    "to_srgb",
    "write_png",
]
