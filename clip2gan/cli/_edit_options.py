"""The options of `clip2gan edit` in three groups, each with the checks that need nothing computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from clip2gan.cli._common import EXISTING_FILE, Finite, blame
from clip2gan.cli._model import change_inversion, perceptual_option, steps_option
from clip2gan.cli._options import grouped

if TYPE_CHECKING:
    from clip2gan.editing.directions import Method
    from clip2gan.editing.latents import LatentsFile
    from clip2gan.editing.session import InversionOptions
    from clip2gan.model import Model

Auto = Literal["auto"]


class Strength(click.ParamType):
    """A finite number, or the word auto."""

    name = "auto|NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "auto":
            return "auto"
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'auto'.", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


@dataclass(frozen=True, kw_only=True)
class ChangeOptions:
    """What is to change, and how."""

    attributes: tuple[str, ...]
    ref_image: Path | None
    strength: float | Auto | None
    direction: "Method"
    neutral: str | None
    keep: tuple[str, ...]
    threshold: float
    sweep: str | None

    def parse(self, is_single: bool) -> tuple[dict[str, float], list[float], float | Auto]:
        """What is wanted: text -> strength, the factors of a sweep, and what multiplies the strengths.

        Args:
            is_single: whether an option was given that makes sense for a single edit only.

        Raises click.UsageError for what makes no sense.
        """
        from clip2gan.editing.attributes import parse_attributes, parse_sweep

        context = click.get_current_context()
        with blame("--attr"):
            wanted = parse_attributes(self.attributes)
        with blame("--sweep"):
            factors = parse_sweep(self.sweep) if self.sweep is not None else []
        if not wanted and self.ref_image is None:
            raise click.UsageError("say what to change: --attr TEXT or --ref-image FILE", context)
        if factors and (is_single or self.strength is not None):
            message = (
                "--sweep sets the strengths and makes a strip; leave --strength, --sheet and --video out"
            )
            raise click.UsageError(message, context)
        if self.strength == "auto" and not wanted:
            raise click.BadParameter("auto needs an --attr", param_hint="'--strength'")
        for option, texts in (
            ("--neutral", () if self.neutral is None else (self.neutral,)),
            ("--keep", self.keep),
        ):
            if not all(text.strip() for text in texts):
                raise click.BadParameter("the text is empty", param_hint=f"'{option}'")
        if self.strength is not None:
            return wanted, factors, self.strength
        given = any(abs(value) != 1 for value in wanted.values())
        given = given or any(":" in each for each in self.attributes)
        return wanted, factors, "auto" if wanted and not given and not factors else 1.0


change_options = grouped(
    "change",
    ChangeOptions,
    click.option(
        "--attr",
        "attributes",
        multiple=True,
        metavar="TEXT[:STRENGTH]",
        help='What to add, such as "red" or "red:1.5"; "-red" takes away (repeatable).',
    ),
    click.option("--ref-image", type=EXISTING_FILE, metavar="FILE", help="Move towards this picture."),
    click.option(
        "--strength",
        type=Strength(),
        help="Multiplies all strengths. At 1 the attribute is as clear as in pictures that show it; auto "
        "finds the weakest edit that CLIP recognises.  [default: auto, or 1 if an --attr sets a strength]",
    ),
    click.option(
        "--direction",
        type=click.Choice(["neighbours", "clip", "mapped", "raw"]),
        default="neighbours",
        show_default=True,
        help="How a text becomes a change: towards similar pictures that it describes; by the difference of "
        "CLIP's texts; M(text) - M(neutral); or M(text) alone, as in the paper.",
    ),
    click.option("--neutral", help="Text that attributes are measured against.  [default: the model's]"),
    click.option("--keep", multiple=True, metavar="TEXT", help="What must not change (repeatable)."),
    click.option(
        "--threshold",
        type=Finite(0, 1),
        default=0.0,
        show_default=True,
        help="Leave alone style channels with less than this share of the largest effect on CLIP.",
    ),
    click.option("--sweep", metavar="A:B:N", help="Make a strip of N pictures with strengths from A to B."),
)


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """How a picture's latents are found."""

    source: Literal["invert", "encoder", "clip"]
    latents: Path | None
    index: int | None
    tune: bool
    steps: int | None
    perceptual: str | None

    def check(self, has_pictures: bool) -> None:
        """Raise click.UsageError where neither pictures nor latents are given, or only --index."""
        context = click.get_current_context()
        if not has_pictures and self.latents is None:
            raise click.UsageError(
                "Missing option '--image'. (--latents alone edits the pictures of its latents)", context
            )
        if self.index is not None and self.latents is None:
            raise click.UsageError("--index belongs to --latents", context)

    def read(self, editor: "Model") -> "tuple[InversionOptions, LatentsFile | None]":
        """As a session takes it, and what `--latents` holds.

        Raises click.BadParameter for what this model does not have, or take.
        """
        from clip2gan.editing.latents import read_latents
        from clip2gan.editing.session import InversionOptions

        with blame("--source"):
            editor.check_source(self.source)
        config = change_inversion(editor.domain.inversion, self.steps, self.perceptual)
        options = InversionOptions(self.source, config, self.tune)
        if self.latents is None:
            return options, None
        with blame("--latents"):
            file = read_latents(self.latents, editor.generator, editor.bundle.fingerprint)
        if self.index is not None:
            with blame("--index"):
                options = replace(options, given=file.row(self.index))
        return options, file

    def assign(
        self, options: "InversionOptions", file: "LatentsFile | None", paths: Sequence[Path]
    ) -> "dict[Path, InversionOptions]":
        """The options of each picture: of several latents that name none, they go by the pictures' order.

        Raises click.BadParameter where there are not as many latents as pictures.
        """
        if self.index is not None and len(paths) > 1:
            raise click.BadParameter(
                "one of the latents is that of one picture; give a file", param_hint="'--image'"
            )
        if file is None or options.given is not None:
            return dict.fromkeys(paths, options)
        if file.by_picture is not None:
            return dict.fromkeys(paths, replace(options, stored=file.by_picture, stored_name=file.path.name))
        if len(file.ws) != len(paths):
            pictures = "1 picture" if len(paths) == 1 else f"{len(paths)} pictures"
            message = f"{file.path} has {len(file.ws)} latents for {pictures}; choose one by --index (from 0)"
            raise click.BadParameter(message, param_hint="'--latents'")
        return {path: replace(options, given=file.row(row)) for row, path in enumerate(paths)}

    def pictures(self, options: "InversionOptions", file: "LatentsFile") -> "dict[Path, InversionOptions]":
        """A name for the picture of each of the latents, where they are the pictures; and its options."""
        return {
            Path(f"{name}.png"): replace(options, given=file.row(number))
            for number, name in enumerate(file.names())
            if self.index in (None, number)
        }


start_options = grouped(
    "start",
    StartOptions,
    click.option(
        "--source",
        type=click.Choice(["invert", "encoder", "clip"]),
        default="invert",
        show_default=True,
        help="How the picture's latents are found: by optimisation (closest), by the model's encoder (fast), "
        "or from its CLIP embedding (fast; similar, not the same).",
    ),
    click.option(
        "--latents",
        type=EXISTING_FILE,
        metavar="FILE.safetensors|.npz|.pt",
        help="Use latents saved by `clip2gan invert`, by NVIDIA's projector (.npz) or by e4e, pSp and "
        "StyleCLIP (.pt). The latter name no pictures; as many as there are pictures go by the order of "
        "names. Without --image the pictures of the latents themselves are edited.",
    ),
    click.option("--index", type=click.IntRange(0), help="Use this one of the latents, from 0."),
    click.option(
        "--tune", is_flag=True, help="Tune a copy of the generator to each picture for more likeness."
    ),
    steps_option,
    perceptual_option,
)


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """Which faces of a photo are edited, and how they are found."""

    align: bool
    face: int | None
    points: str | None
    landmark_model: Path | None
    paste_back: bool

    def check(self, image: Path | None) -> None:
        """Raise click.UsageError where the options do not go together."""
        context = click.get_current_context()
        if image is None and (self.align or self.points is not None):
            raise click.UsageError("--align and --points are for photos; give --image", context)
        given = self.face is not None or self.landmark_model is not None
        if (given or self.paste_back) and not (self.align or self.points):
            raise click.UsageError("--face, --landmark-model and --paste-back belong to --align", context)
        if self.points is not None and given:
            message = (
                "--points give one face, so nothing is looked for; leave --face and --landmark-model out"
            )
            raise click.UsageError(message, context)
        if self.points is not None and image is not None and image.is_dir():
            raise click.BadParameter("the points are of one photo; give a file", param_hint="'--image'")

    def read_points(self, path: Path) -> list[tuple[float, float]] | None:
        """The five points of `--points` in the photo at `path`; without them, faces must be detectable."""
        if self.points is None:
            self._check_detector()
            return None
        from clip2gan.editing.alignment import check_points
        from clip2gan.images import read_picture

        with blame("--points"):
            try:
                numbers = [float(part) for part in self.points.replace(";", ",").split(",")]
            except ValueError:
                numbers = []
            if len(numbers) != 10:
                raise ValueError(f"{self.points!r} is not ten numbers X,Y,X,Y,...: eyes, nose, mouth corners")
            points = list(zip(numbers[::2], numbers[1::2], strict=True))
            check_points(points, read_picture(path).size, path.name)
        return points

    def _check_detector(self) -> None:
        if not self.align:
            return
        from clip2gan.editing.faces import check_detector

        with blame("--align"):
            check_detector(self.landmark_model)


face_options = grouped(
    "framing",
    FaceOptions,
    click.option("--align", is_flag=True, help="Find faces and crop them the way FFHQ does."),
    click.option(
        "--face", type=click.IntRange(1), help="Edit only the Nth face from the left.  [default: all]"
    ),
    click.option(
        "--points",
        metavar="X,Y,...",
        help="Eyes, nose and mouth corners of the face (left before right), instead of detecting it.",
    ),
    click.option(
        "--landmark-model", type=EXISTING_FILE, metavar="FILE.task", help="MediaPipe's face landmarker model."
    ),
    click.option("--paste-back", is_flag=True, help="Paste the edited faces back into the photo."),
)
