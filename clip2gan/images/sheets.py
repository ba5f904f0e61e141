"""Pictures beside each other, with labels, for people to look at."""

from collections.abc import Callable, Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFont

TEXT_SIZE, LINE_HEIGHT, MARGIN = 12, 15, 4  # pixels, of labels


class Sheet:
    """Pictures in rows and columns on white, put in one at a time, so that none has to be kept.

    `cell` (width, height) is the size of each; larger ones are reduced to it, antialiased.
    `image` is the sheet.
    """

    def __init__(self, rows: int, columns: int, cell: tuple[int, int], gap: int = 2):
        self._cell, self._gap = cell, gap
        width, height = cell
        size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
        self.image = Image.new("RGB", size, "white")

    def paste(self, picture: Image.Image, row: int, column: int) -> None:
        """Put a picture in its place; both count from 0."""
        if picture.size != self._cell:
            picture = picture.resize(self._cell, Image.Resampling.LANCZOS)
        width, height = self._cell
        self.image.paste(picture, (column * (width + self._gap), row * (height + self._gap)))


def contact_sheet(
    images: Sequence[Image.Image], columns: int, gap: int = 2, most: int | None = None
) -> Image.Image:
    """The pictures, all of one size, row by row on white with `gap` pixels between them.

    `most` pixels along their longer sides; larger ones are reduced to it.
    """
    columns = min(columns, len(images))
    width, height = images[0].size
    scale = 1.0 if most is None else min(1.0, most / max(width, height))
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    sheet = Sheet(-(-len(images) // columns), columns, cell, gap)
    for index, image in enumerate(images):
        sheet.paste(image, *divmod(index, columns))
    return sheet.image


def label(text: str, width: int, height: int | None = None) -> Image.Image:
    """A text in black on white, by Pillow's own font, in lines that are cut to `width` pixels.

    They stand in the middle of `height`, where those that do not fit are left out ("..."); None makes the
    picture as high as they are. Scripts that the font lacks (it has Latin letters) come out as boxes.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    lines = _wrapped(text, width - 3 * MARGIN, font.getlength)
    if height is None:
        height = LINE_HEIGHT * len(lines)
    fitting = max(1, height // LINE_HEIGHT)
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], f"{lines[fitting - 1][:-3]}..."]
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = (height - len(lines) * LINE_HEIGHT) // 2
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + number * LINE_HEIGHT), line, fill="black", font=font)
    return picture


def difference(before: Image.Image, after: Image.Image) -> Image.Image:
    """Where two pictures of one size differ: mid grey where they do not, brighter or darker where they do."""
    return ImageChops.subtract(after, before, scale=1.0, offset=128)


def _wrapped(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """The lines of a text that are not longer than `width`; a word that alone is longer is broken."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if length(longer) <= width:
            lines[-1:] = [longer]
            continue
        lines.append("")
        for char in word:
            if lines[-1] and length(lines[-1] + char) > width:
                lines.append("")
            lines[-1] += char
    return lines
