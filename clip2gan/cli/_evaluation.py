"""What `clip2gan evaluate` measures with and by: models, texts, pictures, instruments."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import blame, resolve_device, warn
from clip2gan.cli._model import ModelOptions
from clip2gan.cli._options import grouped
from clip2gan.defaults import LPIPS

if TYPE_CHECKING:
    from PIL import Image

    from clip2gan.bundle import BundleConfig
    from clip2gan.domain import Domain
    from clip2gan.evaluation.report import Instruments
    from clip2gan.model import Model


@dataclass(frozen=True, kw_only=True)
class InstrumentOptions:
    """The options of what measures."""

    clip: str | None
    judge: str
    lpips: str | None
    identity: str | None

    def load(self, judge: str | None, device: str) -> "Instruments":
        """The instruments, with the judge of this name."""
        from clip2gan.clip import ClipEncoder
        from clip2gan.evaluation.inception import missing_part
        from clip2gan.evaluation.judge import load_judge
        from clip2gan.evaluation.report import Instruments
        from clip2gan.perceptual import identity_distance, lpips_distance

        where = resolve_device(device)
        with blame("--clip"):
            encoder = ClipEncoder.load(self.clip, where) if self.clip else None
        return Instruments(
            clip=encoder,
            judge=load_judge(judge) if judge is not None else None,
            lpips=lpips_distance(self.lpips, where) if self.lpips else None,
            identity=identity_distance(self.identity, where) if self.identity else None,
            inception=missing_part() is None,
        )


instrument_options = grouped(
    "measuring",
    InstrumentOptions,
    click.option(
        "--clip",
        metavar="CLIP",
        help="The CLIP that compares pictures and texts.  [default: each model's own]",
    ),
    click.option(
        "--judge",
        default="auto",
        show_default=True,
        metavar="auto|none|NAME",
        help="What sees attributes in pictures; auto: the judge that each model's domain names, if any.",
    ),
    click.option(
        "--lpips",
        type=click.Choice(LPIPS),
        help="Also measure by this network; stlpips comes in a package, the others are fetched.",
    ),
    click.option(
        "--identity", metavar="FILE.onnx", help="Also measure faces by a recogniser like ArcFace's."
    ),
)


def judge_of(judge: str, domain: "Domain") -> str | None:
    """The name of the judge of `--judge` for models of this domain."""
    from clip2gan.evaluation.judge import known_judges

    name = domain.judge if judge == "auto" else judge
    if name in (None, "none"):
        return None
    if name not in known_judges():
        if judge == "auto":
            return None  # of a domain that another version knows
        choices = ", ".join(known_judges())
        raise click.BadParameter(f"no judge {name!r}; choose auto, none or {choices}", param_hint="'--judge'")
    if domain.judge != name:
        warn(f"the judge {name} knows another domain than {domain.name}; its figures may mean nothing")
    return name


def texts_to_draw(path: Path | None, domain: "Domain", judge: str | None) -> "list[dict[str, Any]]":
    """{"text": ...} of each line of a file; else the judge's own, with their claims, or the domain's.

    Raises ValueError when there is none.
    """
    from clip2gan.data.samples import plain_prompts
    from clip2gan.evaluation.judge import judged_prompts

    if path is None and judge is not None:
        return judged_prompts(judge)
    if path is None and not domain.prompts:
        warn(f"the domain {domain.name} has no texts, so general ones are drawn; --prompts FILE gives others")
    return [{"text": text} for text in plain_prompts(path, domain)]


def texts_to_edit(path: Path | None, domain: "Domain") -> "list[dict[str, Any]]":
    """{"text": ...} of each line of a file; else the domain's vocabulary or its prompts."""
    from clip2gan.data.samples import plain_prompts

    if path is None and domain.vocabulary:
        return [
            {"text": text, "group": group, "value": value}
            for group, values in domain.vocabulary.items()
            for value, texts in values.items()
            for text in texts
        ]
    return [{"text": text} for text in plain_prompts(path, domain)]


def different_texts(entries: list[dict[str, Any]], source: Path | None) -> list[dict[str, Any]]:
    """Each text once: a picture is compared with all texts but its own."""
    different = {entry["text"]: entry for entry in entries}
    if len(different) < len(entries):
        warn(f"{source}: of its {len(entries)} texts {len(different)} are different; each counts once")
    return list(different.values())


def split_name(name: str) -> tuple[str, str | None]:
    """Model and mapper of MODEL[:MAPPER]; the colon of "hf-hub:ORG/NAME" is not one of these."""
    model, colon, mapper = name.rpartition(":")
    if not colon or model == "hf-hub" or Path(name).exists():
        return name, None
    return model, mapper


def check_model(name: str, option: str) -> "BundleConfig":
    """A model's config; click.BadParameter of this option where there is no such model or mapper."""
    from clip2gan.bundle import choose_mapper, locate_bundle, read_config

    model, mapper = split_name(name)
    with blame(option):
        folder = locate_bundle(model)
    config = read_config(folder)
    with blame(option):
        choose_mapper(config, mapper, model)
    return config


def load(name: str, device: str) -> "Model":
    """The model of MODEL[:MAPPER]."""
    model, mapper = split_name(name)
    return ModelOptions(model=model, mapper=mapper, device=device).load()


def real_pictures(source: str, resolution: int, count: int) -> "list[Image.Image]":
    """The first pictures of a folder, zip or shards; click.BadParameter where there are fewer than 2."""
    from PIL import Image

    from clip2gan.data.pictures import open_pictures

    with blame("--real"):
        try:
            pictures = open_pictures(source, resolution)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
        if len(pictures) < 2:
            raise ValueError(f"{source}: there is 1 picture in it; at least 2 are needed")
    pixels = pictures.batch(range(min(count, len(pictures)))).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]


def tell_left_out(
    instruments: "Instruments", prompts: Path | None, attributes: Path | None, has_real: bool
) -> None:
    """Say which figures will be missing, and why."""
    from clip2gan.evaluation.inception import missing_part

    if has_real and not instruments.inception:
        click.echo(f"FID and KID are left out; for them {missing_part()}", err=True)
    if instruments.judge is None:
        return
    reason = "the judge knows only of its domain's own texts what they say"
    if prompts is not None:
        click.echo(f"named and variety are left out for the texts of {prompts}: {reason}", err=True)
    if attributes is not None and has_real:
        click.echo(f"edit_target and edit_others are left out for those of {attributes}: {reason}", err=True)
