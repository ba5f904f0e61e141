"""The model that a command uses, and how it computes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from clip2gan.cli._common import blame, device_option, model_option, resolve_device, warn
from clip2gan.cli._options import grouped, setting_option
from clip2gan.defaults import LPIPS
from clip2gan.domain import InversionConfig

if TYPE_CHECKING:
    from clip2gan.model import Model

mapper_option = click.option(
    "--mapper", metavar="KIND", help="Mapper to use, such as mlp.  [default: the model's first]"
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Precision of the generator. On a CPU auto means fp32; bf16 is quicker on CPUs that have it.",
)
compile_option = click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the generator first (torch.compile); pays off for many pictures.",
)
steps_option = setting_option(InversionConfig, "steps", "the model's")
perceptual_option = click.option(
    "--perceptual",
    type=click.Choice(["clip", *LPIPS]),
    help="Network whose features inversion compares: CLIP's image tower, or one of LPIPS; stlpips is shift-"
    "tolerant, and comes in a package (the extra perceptual).  [default: the model's]",
)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options of these names."""

    model: str
    mapper: str | None = None
    device: str = "auto"
    precision: str = "auto"
    compiled: bool = False

    def load(self) -> "Model":
        """The model; mistakes in names are found before torch is imported."""
        from clip2gan.bundle import choose_mapper, locate_bundle, read_config

        with blame("--model"):
            folder = locate_bundle(self.model)
        config = read_config(folder)
        with blame("--mapper"):
            choose_mapper(config, self.mapper, self.model)
        where = resolve_device(self.device)

        from clip2gan.bundle import load_bundle
        from clip2gan.model import Model

        bundle = load_bundle(str(folder), where, self.mapper)
        return Model(bundle, self.model, self.precision, self.compiled)


model_options = grouped(
    "using", ModelOptions, model_option, mapper_option, device_option, precision_option, compile_option
)


def change_inversion(
    inversion: InversionConfig, steps: int | None, perceptual: str | None
) -> InversionConfig:
    """A model's settings of inversion, with those of `--steps` and `--perceptual` where they were given."""
    given = {"steps": steps, "features": perceptual}
    return replace(inversion, **{name: value for name, value in given.items() if value is not None})


def warn_of_texts(model: "Model", texts: Iterable[str]) -> None:
    """Say so if CLIP does not read all of a text, or the text says nothing to the model."""
    from clip2gan.editing.contrast import judge_text

    for text in texts:
        if model.clip.is_cut(text):
            start = " ".join(text.split())[:40]
            warn(f"CLIP reads {model.clip.context_length} tokens; the end of '{start}...' is cut off")
        if notice := judge_text(model, text):
            warn(str(notice))
