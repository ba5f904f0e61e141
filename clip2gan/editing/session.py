"""A photo, its faces, and any number of edits of them.

    session = EditSession(model, photo, align="ffhq")
    for face in session.faces:
        edit = face.edit({"smiling": "auto"})
    session.paste_back()

Without `align` a picture is one entry, as it is. Every face is inverted once, when it is first needed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from torch import Tensor

from clip2gan.domain import InversionConfig
from clip2gan.editing.alignment import (
    Square,
    check_points,
    crop_face,
    face_square,
    looks_unaligned,
    paste_face,
)
from clip2gan.editing.change import Change, Directions, Origin, draw_origin, make_change, make_sweep
from clip2gan.editing.directions import Method
from clip2gan.editing.faces import find_faces
from clip2gan.editing.inversion import picture_fingerprint, psnr
from clip2gan.editing.kind import judge_inversion, judge_kind
from clip2gan.editing.notices import NoStoredLatents, NotFramed, Notice, NotReached
from clip2gan.editing.output import (
    FRAMES,
    FRAMES_PER_SECOND,
    LARGEST_FRAME,
    edit_sheet,
    figure_lines,
    there_and_back,
)
from clip2gan.editing.strength import Strength, wants_of
from clip2gan.images import to_picture, to_srgb
from clip2gan.images.xmp import COMPOSITE, GENERATED
from clip2gan.video import write_video

if TYPE_CHECKING:
    from clip2gan.model import Model, Source

Progress = Callable[[Iterable[Any], str], Iterable[Any]]
"""Wraps steps, with a word on what they are."""


@dataclass(frozen=True)
class InversionOptions:
    """How the latents of a face are found.

    Attributes:
        source: "invert", by optimisation; "encoder"; or "clip", mapped from its CLIP embedding.
        config: of the optimisation; None: the model's.
        tune: whether a copy of the generator is tuned to it (pivotal tuning).
        stored: latents found before, by the fingerprint of their picture (see `load_latents`).
        stored_name: the file that they are from, for messages.
        given: the latents [1, num_ws, w_dim] of the one face, whatever its picture is.
    """

    source: "Source" = "invert"
    config: InversionConfig | None = None
    tune: bool = False
    stored: Mapping[str, Tensor] | None = None
    stored_name: str = "the file"
    given: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Inverted:
    """A picture's latents, and how well they give it back.

    Attributes:
        ws: [1, num_ws, w_dim].
        fingerprint: of the picture as the generator would draw it, see `picture_fingerprint`.
        l1: mean absolute difference on [-1, 1].
        psnr: peak signal-to-noise ratio [dB].
        notices: what the user should know.
    """

    ws: Tensor = field(repr=False)
    fingerprint: str
    l1: float
    psnr: float
    notices: tuple[Notice, ...] = ()


def invert_pictures(
    model: "Model",
    pictures: Sequence[Image.Image],
    source: "Source" = "invert",
    config: InversionConfig | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[Inverted]:
    """Find the latents of pictures, those of `source` "invert" together.

    Args:
        model: draws and looks.
        pictures: of any size; the square at their centre counts.
        source: "invert", "encoder" or "clip".
        config: of the optimisation; None: the model's.
        progress: wraps the steps.

    Raises ValueError for a model without the encoder asked for.
    """
    if source == "invert":
        rows = model.invert_all(pictures, config, progress).split(1)
    else:
        rows = [model.latents(picture, source) for picture in pictures]
    found = []
    for picture, ws in zip(pictures, rows, strict=True):
        fitted = model.fit(picture)
        target, image = model.to_target(fitted), model.draw_ws(ws)
        other = judge_kind(model, picture)
        found.append(
            Inverted(
                ws=ws,
                fingerprint=picture_fingerprint(fitted),
                l1=float((image - target).abs().mean()),
                psnr=float(psnr(image, target)),
                notices=() if other is None else (other,),
            )
        )
    return found


@dataclass(frozen=True)
class Edit:
    """One edit of one face.

    Attributes:
        face: what was edited.
        before: the picture of the latents that were found for it.
        after: the picture of the latents that they were changed to.
        change: strengths and figures.
        notices: what the user should know.
    """

    face: "Face" = field(repr=False)
    before: Image.Image = field(repr=False)
    after: Image.Image = field(repr=False)
    change: Change
    notices: tuple[Notice, ...] = ()

    def figures(self) -> dict[str, Any]:
        """All figures, rounded, as they are reported."""
        figures = {"psnr": round(self.face.psnr, 2), **self.change.figures()}
        if self.change.course.has_reference:
            figures["reference"] = round(self.change.reference, 3)
        return figures

    def at(self, factor: float) -> Image.Image:
        """The picture at a part of the strengths, from 0 (`before`) to 1 (`after`)."""
        if factor in (0, 1):
            return self.after if factor else self.before
        return self.face.model.synthesize(self.change.at(factor))

    def sheet(self) -> Image.Image:
        """The face, the edit, their difference, and the figures below."""
        return edit_sheet(self.face.picture, self.after, figure_lines(self.figures()))


class Face:
    """A face of a photo, or a whole picture: inverted once, edited any number of times.

    Attributes:
        picture: as the generator would draw it, at its resolution.
        square: where it is in the photo; None for a whole picture.
        edited: its last edit, if there is one.
    """

    def __init__(
        self,
        model: "Model",
        picture: Image.Image,
        square: Square | None,
        options: InversionOptions,
        progress: Progress,
    ):
        self.square, self.edited = square, None
        self.picture = model.fit(picture)
        self._whole, self._model, self._options, self._progress = picture, model, options, progress
        self.edited: Edit | None

    @cached_property
    def _found(self) -> tuple[Tensor, str]:
        """Latents ws [1, num_ws, w_dim], and where they come from."""
        options, model = self._options, self._model
        if options.given is not None:
            return options.given, "latents"
        stored = options.stored or {}
        ws = stored.get(picture_fingerprint(self.picture)) if stored else None
        if ws is not None:
            return ws, "latents"
        if options.source == "invert":
            show = lambda steps: self._progress(steps, "inversion")  # noqa: E731
            return model.invert(self._whole, options.config, show), "invert"
        return model.latents(self._whole, options.source), options.source

    @property
    def ws(self) -> Tensor:
        """Its latents [1, num_ws, w_dim]."""
        return self._found[0]

    @property
    def source(self) -> str:
        """Where its latents come from: "invert", "encoder", "clip", or "latents" for stored ones."""
        return self._found[1]

    @cached_property
    def model(self) -> "Model":
        """What draws it: the model, or one whose generator is tuned to it."""
        if not self._options.tune:
            return self._model
        show = lambda steps: self._progress(steps, "tuning")  # noqa: E731
        tuning = self._model.domain.tuning_like(self._options.config)
        return self._model.tune(self.picture, self.ws, tuning, show)

    @cached_property
    def origin(self) -> Origin:
        """Its latents, drawn and seen by CLIP once."""
        return draw_origin(self.model, self.ws)

    @cached_property
    def before(self) -> Image.Image:
        """The picture of its latents."""
        return to_picture(self.origin.image)

    @cached_property
    def psnr(self) -> float:
        """How well its latents give it back [dB]."""
        return float(psnr(self.origin.image, self._model.to_target(self.picture)))

    @cached_property
    def notices(self) -> tuple[Notice, ...]:
        """What the user should know about its latents."""
        found: list[Notice | None] = [judge_kind(self._model, self._whole)]
        if self._options.stored is not None and self.source != "latents":
            found.append(NoStoredLatents(self._options.stored_name, self.source))
        found.append(judge_inversion(self._model, self.source, self.psnr))
        return tuple(notice for notice in found if notice is not None)

    def edit(
        self,
        attributes: Mapping[str, Strength],
        *,
        strength: float | Literal["auto"] = 1.0,
        reference: Image.Image | None = None,
        direction: Method = "neighbours",
        neutral: str | None = None,
        keep: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> Edit:
        """Change it by words.

        Args:
            attributes: text -> strength: 1 makes it as clear as pictures are that show it, negative ones take
                away, "auto" looks for the least strength that CLIP agrees to ("-auto" for taking away).
            strength: multiplies all of them; "auto" looks for each.
            reference: a picture to move towards as well.
            direction: how a text becomes a change of latents, see `editing.directions`.
            neutral: the text that attributes are added to; None: the model's.
            keep: texts of what is not to change.
            threshold: style channels that move CLIP less than this part of the most effective one stay.

        Raises ValueError for an empty text, a strength that is none, an unknown direction, or a model without
        the encoder asked for.
        """
        how = Directions(neutral, direction, tuple(keep), threshold)
        change = make_change(self.model, self.origin, attributes, how, strength=strength, reference=reference)
        notices = tuple(
            NotReached(text, want.sign, change.clearness[text], change.agrees)
            for text, want in wants_of(attributes, strength).items()
            if want.search and want.strength and not change.reached[text]
        )
        self.edited = self._edit(change, notices)
        return self.edited

    def sweep(
        self,
        attributes: Mapping[str, float],
        factors: Iterable[float],
        *,
        reference: Image.Image | None = None,
        direction: Method = "neighbours",
        neutral: str | None = None,
        keep: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> list[Edit]:
        """Edits at each of `factors` times the strengths; otherwise as `edit`."""
        how = Directions(neutral, direction, tuple(keep), threshold)
        found = make_sweep(self.model, self.origin, attributes, factors, how, reference=reference)
        edits = [self._edit(change) for change in found]
        self.edited = edits[-1] if edits else self.edited
        return edits

    def _edit(self, change: Change, notices: tuple[Notice, ...] = ()) -> Edit:
        return Edit(self, self.before, to_picture(change.image), change, notices)


class EditSession:
    """A photo and its faces; see the module.

    Attributes:
        model: draws and looks.
        photo: upright sRGB, of any size.
    """

    def __init__(
        self,
        model: "Model",
        photo: Image.Image,
        *,
        align: Literal["ffhq"] | None = None,
        face: int | None = None,
        points: Sequence[Sequence[float]] | None = None,
        landmark_model: str | Path | None = None,
        inversion: InversionOptions | None = None,
        progress: Progress | None = None,
    ):
        """Look at nothing yet: faces are found and inverted when they are asked for.

        Args:
            model: see `clip2gan.load`.
            photo: a PIL picture, in any mode and colour profile (see `images.to_srgb`).
            align: "ffhq" finds the faces and cuts them out as FFHQ does; None takes the whole picture.
            face: only the Nth face from the left, from 1; None takes all.
            points: five or 68 points (x, y) of the one face to cut out, in place of finding it.
            landmark_model: MediaPipe's face_landmarker.task, for releases that carry no models.
            inversion: how latents are found.
            progress: wraps the steps of what takes long.

        Raises ValueError for an unknown alignment, points that are no face of the photo, or a model without
        the encoder asked for.
        """
        if align not in (None, "ffhq"):
            raise ValueError(f"unknown alignment {align!r}; choose 'ffhq' or None")
        if face is not None and face < 1:
            raise ValueError(f"faces are counted from 1, got {face}")
        self.model, self.photo = model, to_srgb(photo)
        self._options = inversion or InversionOptions()
        model.check_source(self._options.source)
        self._align, self._face, self._landmark_model = align, face, landmark_model
        self._given = None if points is None else check_points(points, self.photo.size)
        self._progress = progress or (lambda steps, _: steps)

    @cached_property
    def squares(self) -> list[Square] | None:
        """Where the faces are, from left to right; None where the picture is taken as it is.

        Raises ValueError if there is no face, or fewer than the one asked for; see `find_faces` too.
        """
        if self._given is not None:
            return [face_square(self._given)]
        if self._align is None:
            return None
        found = find_faces(self.photo, self._landmark_model)
        if not found:
            raise ValueError("no face found; give its five points (--points), or leave --align out")
        if self._face is not None:
            if self._face > len(found):
                raise ValueError(f"has {len(found)} faces, so there is no face {self._face}")
            found = [found[self._face - 1]]
        return [face_square(each) for each in found]

    @cached_property
    def faces(self) -> list[Face]:
        """The faces from left to right, or the whole picture as one. Raises what `squares` does."""
        if self.squares is None:
            return [self._new_face(self.photo, None)]
        if self._options.given is not None and len(self.squares) > 1:
            raise ValueError(
                f"latents are given for one face, and it has {len(self.squares)}; choose one (--face)"
            )
        return [
            self._new_face(crop_face(self.photo, square, self.model.resolution), square)
            for square in self.squares
        ]

    @cached_property
    def notices(self) -> tuple[Notice, ...]:
        """What the user should know about the photo: whether it is framed as the model expects."""
        if not self.model.expects_aligned or self.squares is not None:
            return ()
        try:
            found = find_faces(self.photo, self._landmark_model)
        except ValueError:  # nothing to find them with
            return (NotFramed(),)
        if len(found) != 1:
            return (NotFramed(f"it shows {len(found)} faces"),)
        reason = looks_unaligned(self.photo, found[0])
        return (NotFramed(reason),) if reason else ()

    def paste_back(self, edits: Sequence[Edit] | None = None) -> Image.Image:
        """The photo with its edited faces: the last edit of each, or `edits`.

        Beyond the faces, and where nothing changed, the photo keeps its pixels. Raises ValueError without
        alignment, or if nothing was edited.
        """
        return self._pasted(self._chosen(edits), self.photo, 1.0)

    def frames(
        self, edits: Sequence[Edit] | None = None, *, paste_back: bool = False, num: int = FRAMES
    ) -> Iterator[Image.Image]:
        """Draw `num` pictures from none of the edits to all: of the first face, or of the photo.

        A photo is shrunk to 1024 pixels at most.
        """
        chosen = self._chosen(edits)
        factors = self._progress([step / (num - 1) for step in range(num)], "video")
        if not paste_back:
            return (chosen[0].at(factor) for factor in factors)
        scale = min(1.0, LARGEST_FRAME / max(self.photo.size))
        small = self.photo.resize((round(self.photo.width * scale), round(self.photo.height * scale)))
        return (self._pasted(chosen, small, scale, factor) for factor in factors)

    def write_video(
        self, path: str | Path, edits: Sequence[Edit] | None = None, *, paste_back: bool = False
    ) -> None:
        """Write `frames`, there and back, as GIF or MP4 (by the name; needs the extra `video`)."""
        frames = there_and_back(self.frames(edits, paste_back=paste_back))
        source_type = COMPOSITE if paste_back else GENERATED
        write_video(Path(path), frames, FRAMES_PER_SECOND, source_type=source_type)

    def _chosen(self, edits: Sequence[Edit] | None) -> Sequence[Edit]:
        chosen = [face.edited for face in self.faces if face.edited] if edits is None else edits
        if not chosen:
            raise ValueError("nothing was edited yet; call face.edit first")
        return chosen

    def _pasted(
        self, edits: Sequence[Edit], photo: Image.Image, scale: float, factor: float = 1.0
    ) -> Image.Image:
        for edit in edits:
            if edit.face.square is None:
                raise ValueError("a whole picture is not pasted back; give align or points")
            square = edit.face.square.scaled(scale)
            photo = paste_face(photo, square, edit.before, edit.at(factor))
        return photo

    def _new_face(self, picture: Image.Image, square: Square | None) -> Face:
        return Face(self.model, picture, square, self._options, self._progress)
