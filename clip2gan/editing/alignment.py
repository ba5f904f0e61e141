"""Faces in photographs: the square that a face generator expects, and the way back into the photo.

The square is FFHQ's (Karras et al. 2019, "A Style-Based Generator Architecture"): upright in the face's own
axes, half a side as long as the larger of twice the eyes' distance and 1.8 times that from eyes to mouth, its
centre a tenth of the way from the eyes to the mouth. It is a function of five points alone.

A point is (x, y) in pixels of the photo, from the left and top edges; left and right are the viewer's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from clip2gan.images import MAX_PIXELS

Point = tuple[float, float]

FEATHER = 0.08  # of the square's side, over which a face that is put back fades out
MOST_PIXELS = 2 * MAX_PIXELS  # of the box around a face: that of the largest photo, turned
LEAST_EYES = 8.0  # pixels between the eyes, below which there is nothing to see


@dataclass(frozen=True)
class Landmarks:
    """Five points of a face: the eyes' centres, the nose's tip and the mouth's corners."""

    left_eye: Point
    right_eye: Point
    nose: Point
    left_mouth: Point
    right_mouth: Point

    @classmethod
    def of(cls, points: Sequence[Sequence[float]]) -> "Landmarks":
        """From five points in this order, or from 68 in dlib's.

        Raises ValueError for another number of points, numbers that are not finite, or points that are no
        face (eyes in one place, or on the mouth).
        """
        array = np.asarray(points, dtype=np.float64)
        if array.shape == (68, 2):
            array = np.stack([array[36:42].mean(0), array[42:48].mean(0), array[30], array[48], array[54]])
        if array.shape != (5, 2):
            raise ValueError(f"a face is given by 5 or 68 points (x, y), not by {list(array.shape)} numbers")
        if not np.isfinite(array).all():
            raise ValueError("the points of a face must be finite numbers")
        face = cls(*((float(x), float(y)) for x, y in array))
        if math.dist(face.left_eye, face.right_eye) < 1 or math.dist(_eyes(face), _mouth(face)) < 1:
            raise ValueError("the points are no face: eyes or mouth fall into one place")
        return face


@dataclass(frozen=True)
class Square:
    """A square in a photo, turned as the face is: its centre, and half of its upper side as a vector."""

    centre: Point
    half: Point

    @property
    def side(self) -> float:
        """In pixels of the photo."""
        return 2 * math.hypot(*self.half)

    @property
    def angle(self) -> float:
        """By how many degrees the face is turned, clockwise."""
        return math.degrees(math.atan2(self.half[1], self.half[0]))

    def corners(self) -> list[Point]:
        """Upper left, lower left, lower right, upper right, as the face has them."""
        (cx, cy), (ux, uy) = self.centre, self.half
        down = (-uy, ux)
        return [
            (cx + a * ux + b * down[0], cy + a * uy + b * down[1])
            for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))
        ]

    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of an upright box around it, with room for resampling."""
        xs, ys = zip(*self.corners(), strict=True)
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
        return math.floor(left) - 2, math.floor(top) - 2, math.ceil(right) + 2, math.ceil(bottom) + 2

    def moved(self, dx: float, dy: float) -> "Square":
        """Where it lies in a photo whose origin is (-dx, -dy)."""
        return Square((self.centre[0] + dx, self.centre[1] + dy), self.half)

    def scaled(self, factor: float) -> "Square":
        """Where it lies in a photo that is resized by a factor."""
        (cx, cy), (ux, uy) = self.centre, self.half
        return Square((cx * factor, cy * factor), (ux * factor, uy * factor))


def face_square(face: Landmarks) -> Square:
    """FFHQ's square around a face."""
    eyes, mouth = np.array(_eyes(face)), np.array(_mouth(face))
    across = np.subtract(face.right_eye, face.left_eye)
    down = mouth - eyes
    direction = across - np.array([-down[1], down[0]])  # both of the face's axes have a say in its turn
    if math.hypot(*direction) < 1e-6:
        direction = across
    direction = direction / np.hypot(*direction)
    half = direction * max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8)
    centre = eyes + 0.1 * down
    return Square((float(centre[0]), float(centre[1])), (float(half[0]), float(half[1])))


def crop_face(photo: Image.Image, square: Square, resolution: int) -> Image.Image:
    """The square of a photo as an upright picture [resolution x resolution].

    What lies outside of the photo is mirrored from inside. Raises ValueError for a square so large that the
    photo would have to be mirrored beyond reason.
    """
    # As fine as the photo, then shrunk by averaging: the transformation itself looks at 4x4 pixels.
    scale = max(1, math.ceil(square.side / resolution))
    left, top, right, bottom = box = square.box()
    if (right - left) * (bottom - top) > MOST_PIXELS:
        raise ValueError("the face's square is far larger than the photo; check its points")
    source = _mirrored(photo, box)
    quad = [value for corner in square.moved(-left, -top).corners() for value in corner]
    size = resolution * scale
    upright = source.transform((size, size), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)
    return upright if scale == 1 else upright.reduce(scale)


def paste_face(photo: Image.Image, square: Square, before: Image.Image, after: Image.Image) -> Image.Image:
    """The photo with what changed from `before` to `after`, two upright pictures of the square, put into it.

    The *difference* is put back and not the picture: where nothing changed, the photo keeps its own pixels at
    its own resolution, and an edit of strength zero gives the photo itself. A soft mask fades the change out
    towards the square's border; beyond it not a pixel differs.
    """
    pasted = photo.copy()
    left, top, right, bottom = square.box()
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, photo.width), min(bottom, photo.height)
    if left >= right or top >= bottom:
        return pasted
    part, inside = photo.crop((left, top, right, bottom)), square.moved(-left, -top)
    change = np.asarray(after, dtype=np.float32) - np.asarray(before, dtype=np.float32)
    mask = np.asarray(face_mask(part.size, inside), dtype=np.float32)[..., None] / 255
    layers = [
        np.asarray(_into_photo(Image.fromarray(change[..., channel]), part.size, inside))
        for channel in range(3)
    ]
    pixels = np.asarray(part, dtype=np.float32) + mask * np.stack(layers, axis=-1)
    pasted.paste(Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)), (left, top))
    return pasted


def face_mask(size: tuple[int, int], square: Square) -> Image.Image:
    """How much of a face that is put back counts, 0 to 255: all inside, nothing outside of the square."""
    radius = max(1.0, FEATHER * square.side / 2)
    inner = Image.new("L", size, 0)
    shrunk = 1 - 2 * FEATHER
    (cx, cy), corners = square.centre, square.corners()
    ImageDraw.Draw(inner).polygon(
        [(cx + shrunk * (x - cx), cy + shrunk * (y - cy)) for x, y in corners], fill=255
    )
    outer = Image.new("L", size, 0)
    ImageDraw.Draw(outer).polygon(corners, fill=255)
    return ImageChops.multiply(inner.filter(ImageFilter.GaussianBlur(radius / 2)), outer)


def check_points(
    points: Sequence[Sequence[float]], size: tuple[int, int], name: str = "the photo"
) -> Landmarks:
    """The face that points give in a photo of this size (width, height).

    Raises ValueError for points that are no face, or outside of the photo.
    """
    face = Landmarks.of(points)
    for x, y in points:
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise ValueError(f"{x:g},{y:g} is outside of {name}, which has {size[0]}x{size[1]} pixels")
    return face


def looks_unaligned(photo: Image.Image, face: Landmarks) -> str | None:
    """Why a picture does not look framed as FFHQ's are, or None if it does.

    It compares FFHQ's square around the face with the centred square that is taken without alignment.
    """
    square, side = face_square(face), min(photo.size)
    away = math.dist(square.centre, (photo.width / 2, photo.height / 2)) / side
    reasons = []
    if abs(square.angle) > 10:
        reasons.append(f"the face is turned by {square.angle:.0f} degrees")
    if not 0.75 < square.side / side < 1.35:
        reasons.append(f"it should be {side / square.side:.2g} times as large")
    if away > 0.1:
        reasons.append(f"it is {away:.0%} of the picture away from its place")
    return ", ".join(reasons) or None


def _into_photo(upright: Image.Image, size: tuple[int, int], square: Square) -> Image.Image:
    """An upright picture of the square, where it lies in a photo of this size."""
    (cx, cy), (ux, uy) = square.centre, square.half
    # A pixel (x, y) of the photo is (a, b) in the square's own axes, each from -1 to 1.
    length = ux * ux + uy * uy
    resolution = upright.width
    k = resolution / 2
    a = (ux / length * k, uy / length * k)
    b = (-uy / length * k, ux / length * k)
    coefficients = (
        a[0], a[1], k - a[0] * cx - a[1] * cy,
        b[0], b[1], k - b[0] * cx - b[1] * cy,
    )  # fmt: skip
    return _extended(upright, coefficients, size)


def _extended(upright: Image.Image, coefficients: Sequence[float], size: tuple[int, int]) -> Image.Image:
    """An affine transformation that continues the border's pixels outwards, for a clean edge."""
    border = 4
    pixels = np.pad(np.asarray(upright), border, mode="edge")
    a, b, c, d, e, f = coefficients
    shifted = (a, b, c + border, d, e, f + border)
    return Image.fromarray(pixels).transform(size, Image.Transform.AFFINE, shifted, Image.Resampling.BICUBIC)


def _mirrored(photo: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A box (left, top, right, bottom) of the photo, in which what lies outside is mirrored from inside."""
    left, top, right, bottom = box
    if left >= 0 and top >= 0 and right <= photo.width and bottom <= photo.height:
        return photo.crop(box)
    columns, rows = (
        np.where(index % (2 * size) < size, index % (2 * size), 2 * size - 1 - index % (2 * size))
        for index, size in ((np.arange(left, right), photo.width), (np.arange(top, bottom), photo.height))
    )
    x, y = int(columns.min()), int(rows.min())
    part = np.asarray(photo.crop((x, y, int(columns.max()) + 1, int(rows.max()) + 1)))
    return Image.fromarray(part[(rows - y)[:, None], columns - x])


def _eyes(face: Landmarks) -> Point:
    return _middle(face.left_eye, face.right_eye)


def _mouth(face: Landmarks) -> Point:
    return _middle(face.left_mouth, face.right_mouth)


def _middle(a: Point, b: Point) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
