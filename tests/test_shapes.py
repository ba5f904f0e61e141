"""A stranger's walk through the whole product, with 360 drawn shapes and a CLIP of their own.

Nothing that a command prints or writes may speak of another domain: of the models that come with the package.
"""

import json
import re
from pathlib import Path

import pytest
from conftest import Run
from PIL import Image
from shapes import SIZE, shapes, train_shapes_clip, write_shapes

from clip2gan.clip import ClipEncoder

OTHER_DOMAINS = re.compile(
    r"\b(avatars?|faces?|facial|persons?|people|m[ae]n|wom[ae]n|boys?|girls?|hair|smil\w*|glasses|portraits?|beards?|eyes?)\b",
    re.IGNORECASE,
)
TEXTS = ("a large red circle on a white background", "a small blue square on a pink background")


class Walk:
    """Runs commands that must go well, and keeps all they say."""

    def __init__(self, run: Run):
        self._run = run
        self.said: list[str] = []

    def __call__(self, *args: object) -> str:
        code, out, err = self._run(*args)
        assert code == 0, err
        self.said.append(out + err)
        return out + err


@pytest.mark.slow
def test_a_domain_without_faces_from_pictures_to_edits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(Path("shapes"), 360)
    clip = f"local-dir:{train_shapes_clip(Path('clip'))}"
    walk = Walk(run)
    walk("prepare", "shapes", "shapes.zip", "--resolution", SIZE, "--clip", clip)

    short = ["--autoencoder-images", 2400, "--mapping-steps", 100, "--adversarial-images", 80]
    gan = ["train-gan", "--data", "shapes.zip", *short, "--out", "runs/gan"]
    walk(*gan)
    assert json.loads(Path("runs/gan/config.json").read_text())["focus"] is None
    walk(*gan)  # it is finished
    walk(
        "sample",
        "--generator",
        "runs/gan/generator.safetensors",
        "--seeds",
        "0-3",
        "--grid",
        "--out",
        "drawn",
    )

    small = ["--samples", 1000, "--set", "warmup_steps=300", "--set", "warmup_batch=64"]
    source = ["--generator", "runs/gan/generator.safetensors", "--clip", clip]
    walk("train-mapper", *source, *small, "--steps", 20, "--batch", 4, "--out", "runs/mapper")
    bundle = "runs/mapper/bundle"
    walk(
        "generate",
        "--model",
        bundle,
        "--text",
        TEXTS[0],
        "--text",
        TEXTS[1],
        "--num",
        4,
        "--grid",
        "--out",
        "made",
    )
    walk(
        "edit",
        "--model",
        bundle,
        "--image",
        "shapes/0003.png",
        "--attr",
        "green",
        "--sheet",
        "--out",
        "green.png",
    )
    walk("invert", "--model", bundle, "--image", "shapes/0003.png", "--out", "found.safetensors")
    walk(
        "evaluate",
        "--model",
        bundle,
        "--real",
        "shapes",
        "--max-real",
        40,
        "--num",
        2,
        "--out",
        "figures.json",
    )
    encoder = ["--steps", 20, "--batch", 4, "--out", "runs/encoder"]
    walk("train-encoder", "--model", bundle, *encoder)

    captioned = ["--condition", "clip", "--clip", clip, "--steps", 4, "--out", "runs/text"]
    walk("train-gan", "--data", "shapes.zip", *captioned)
    walk("generate", "--model", "runs/text/bundle", "--text", TEXTS[0], "--out", "said")

    written = [path for path in Path().rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".csv")]
    assert len(written) > 10
    everything = "\n".join([*walk.said, *(path.read_text() for path in written)])
    assert sorted(set(OTHER_DOMAINS.findall(everything))) == []

    made = [Image.open(path) for path in sorted(Path("made").glob("00*.png"))]
    seen = ClipEncoder.load(clip).encode_images(made)
    says = ClipEncoder.load(clip).encode_texts(TEXTS)
    cosines = seen @ says.T
    assert (cosines[:4, 0] > cosines[4:, 0].mean()).sum() >= 3  # a text's own pictures are nearer to it
    assert (cosines[4:, 1] > cosines[:4, 1].mean()).sum() >= 3


def test_shapes_are_drawn_as_their_captions_say() -> None:
    for shape, image in shapes(20):
        corner, middle = image.getpixel((1, 1)), image.getpixel((SIZE // 2, SIZE // 2))
        assert corner != middle
        assert shape.caption.startswith(f"a {shape.size} {shape.colour} {shape.form}")
