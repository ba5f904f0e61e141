"""What `clip2gan edit` is asked for, and what it does with one picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2gan.cli._common import Report, warn
from clip2gan.cli._edit_options import Auto
from clip2gan.cli._outputs import EditFiles

if TYPE_CHECKING:
    from PIL import Image

    from clip2gan.editing.directions import Method
    from clip2gan.editing.session import Edit, EditSession, Face
    from clip2gan.images import Photo


@dataclass(frozen=True)
class EditRequest:
    """What is to be done to every face.

    Attributes:
        attributes: text -> strength.
        strength: multiplies all of them, or "auto".
        factors: of a sweep; none for a single edit.
        reference: a picture to move towards.
        direction, neutral, keep, threshold: see `Face.edit`.
        paste_back: whether the faces go back into the photo.
    """

    attributes: Mapping[str, float]
    strength: float | Auto
    factors: Sequence[float]
    reference: "Image.Image | None"
    direction: "Method"
    neutral: str | None
    keep: tuple[str, ...]
    threshold: float
    paste_back: bool

    def apply(self, face: "Face") -> "list[Edit]":
        """The edit of a face, or those of a sweep."""
        if self.factors:
            return face.sweep(
                self.attributes,
                self.factors,
                reference=self.reference,
                direction=self.direction,
                neutral=self.neutral,
                keep=self.keep,
                threshold=self.threshold,
            )
        edit = face.edit(
            self.attributes,
            strength=self.strength,
            reference=self.reference,
            direction=self.direction,
            neutral=self.neutral,
            keep=self.keep,
            threshold=self.threshold,
        )
        return [edit]


@dataclass(frozen=True)
class EditResult:
    """A picture to write: one face, or the photo with all of them.

    Attributes:
        before: what the sheet shows first.
        images: the edit, or those of a sweep.
        edits: what `images` show.
        photo: the file that they are pasted into, in its own colours.
    """

    before: "Image.Image"
    images: "list[Image.Image]"
    edits: "list[Edit]"
    photo: "Photo | None" = None

    def sheet(self) -> "tuple[Image.Image, bytes | None]":
        """`images` side by side, and the colour profile of their numbers."""
        from clip2gan.images import contact_sheet

        if self.photo is None:
            return contact_sheet(self.images, len(self.images)), None
        restored = [self.photo.restore(image) for image in self.images]
        return contact_sheet(restored, len(restored)), self.photo.profile


def edit_picture(
    session: "EditSession",
    photo: "Photo",
    path: Path,
    request: EditRequest,
    files: EditFiles,
    metadata: Mapping[str, Any],
    report: Report,
) -> list[dict[str, Any]]:
    """Edit the faces of a picture, write the results, and tell of them; the figures of all edits.

    A photo with its faces pasted back is written in its own colour profile.
    """
    if not request.paste_back:
        files.claim_faces(path, len(session.faces))
    names = {face: path.name for face in session.faces}
    if len(names) > 1:
        names = {face: f"{path.name}, face {number}" for number, face in enumerate(session.faces, 1)}
    for notice in session.notices:
        warn(f"{path.name}: {notice}")
    edits = []
    for face in session.faces:
        edits.append(request.apply(face))
        for notice in [*face.notices, *(notice for edit in edits[-1] for notice in edit.notices)]:
            warn(f"{names[face]}: {notice}")
    rows: list[dict[str, Any]] = []
    for number, result in enumerate(_results(session, photo, edits, request.paste_back)):
        figures = [{"image": names[edit.face], **edit.figures()} for edit in result.edits]
        _write(result, path, number, figures, files, {**metadata, "image": path.name}, report)
        rows += figures
    if files.video is not None:
        session.write_video(files.video, paste_back=request.paste_back)
        report.wrote(files.video, image=path.name)
    return rows


def _results(
    session: "EditSession", photo: "Photo", edits: "Sequence[Sequence[Edit]]", paste_back: bool
) -> list[EditResult]:
    """The pictures of each face, or of the photo with all of them; `edits` of each face."""
    if not paste_back:
        return [
            EditResult(face.picture, [edit.after for edit in row], list(row))
            for face, row in zip(session.faces, edits, strict=True)
        ]
    images = [session.paste_back(column) for column in zip(*edits, strict=True)]
    shown = [edit for row in edits for edit in row]
    return [EditResult(session.photo, images, shown, photo)]


def _write(
    result: EditResult,
    path: Path,
    number: int,
    figures: list[dict[str, Any]],
    files: EditFiles,
    metadata: dict[str, Any],
    report: Report,
) -> None:
    """Write a picture and its sheet, with what made them."""
    from clip2gan.editing.output import edit_sheet, figure_lines
    from clip2gan.images import write_png
    from clip2gan.images.xmp import COMPOSITE, make_packet

    metadata |= {"figures": figures}
    sources = {edit.face.source for edit in result.edits}
    if "latents" in sources:
        metadata["source"] = ", ".join(sorted(sources))
        if "invert" not in sources:
            metadata |= {"steps": None, "perceptual": None}
    if len(figures) == 1:
        metadata["attributes"] = figures[0]["strengths"]
    place = files.picture(path, number)
    picture, profile = result.sheet()
    write_png(place, picture, metadata, profile, xmp=_packet(result, picture, path))
    lines = [line for each in figures for line in figure_lines(each)]
    report.tell(lines)
    report.wrote(place, image=path.name, attributes=metadata["attributes"], figures=figures)
    if files.has_sheets:
        place = files.sheet(path, number)
        sheet = edit_sheet(result.before, result.images[0], lines)
        write_png(place, sheet, metadata, xmp=make_packet(COMPOSITE))
        report.wrote(place, image=path.name)


def _packet(result: EditResult, picture: "Image.Image", path: Path) -> bytes | None:
    """The XMP packet of a result: a photo's own is kept."""
    from clip2gan.images.xmp import COMPOSITE, make_packet

    if result.photo is None:
        return make_packet()
    try:
        return result.photo.packet(picture)
    except ValueError as error:
        warn(f"{path.name}: it has {error}, which is left out")
        return make_packet(COMPOSITE)
