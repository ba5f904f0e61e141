"""The CLIP-guided conditional GAN: what it starts from, what its steps do, and that it goes on exactly."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, make_generator
from PIL import Image

from clip2gan import devices
from clip2gan.clip import ClipEncoder
from clip2gan.data.captioned import Captioned, open_captioned
from clip2gan.gap import TextSide, load_gap
from clip2gan.memory import PeakMemory
from clip2gan.model import load
from clip2gan.training import text_mapping
from clip2gan.training.gan import settings_of, train_conditional
from clip2gan.training.gan_losses import guidance, mismatched
from clip2gan.training.gan_presets import GanTraining
from clip2gan.training.memory import largest_part
from clip2gan.training.start import Start, from_file
from stylegan2 import Generator, load_generator, save_generator
from stylegan2.discriminator import Discriminator, Encoder
from stylegan2.files import save_tensors
from stylegan2.runs import RunFolder, pack
from stylegan2.training.augment import Augmentation, augment, draw_augmentation

CPU = torch.device("cpu")
SMALL = GanTraining(
    steps=4, mapping_steps=0, batch=4, lr=1e-3, r1_interval=2, augment_images=8, style_mixing=0.5, half=False
)


def write_pictures(folder: Path, count: int = 8, captioned: int = 6) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{index}.png")
        if index < captioned:
            (folder / f"{index}.txt").write_text(f"picture number {index}\nthe {index}th")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures, six of them with two captions."""
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def data(folder: Path, tiny_clip: ClipEncoder, tmp_path_factory: pytest.TempPathFactory) -> Captioned:
    return open_captioned([str(folder)], 32).embed(tiny_clip, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional generator's file."""
    path = tmp_path_factory.mktemp("generator") / "plain.safetensors"
    save_generator(make_generator(), path)
    return path


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with its encoder, as our trainings keep them."""
    generator = make_generator()
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    shape = {"generator": vars(generator.config)}
    save_tensors(path, pack(generator=generator, encoder=Encoder(generator.config)), shape)
    return path


def train(
    config: GanTraining, start: Start, data: Captioned, clip: ClipEncoder, out: Path, **options
) -> Path:
    run = RunFolder.open(out, settings_of(config, start.shape))
    return train_conditional(config, start, data, clip, run, **options)


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# What it starts from


def test_a_warm_start_draws_the_old_pictures_whatever_the_text(plain: Path) -> None:
    old = load_generator(plain)
    start = from_file(plain, None, 16)
    new = Generator(start.shape)
    start.fill(new)
    z, c = torch.randn(3, 8), torch.randn(3, 16)
    torch.testing.assert_close(new.eval()(z, c), old(z), rtol=1e-4, atol=1e-5)


def test_a_warm_start_from_a_lower_resolution_draws_the_old_pictures_larger(plain: Path) -> None:
    old = load_generator(plain)
    start = from_file(plain, 128, 16)
    new = Generator(start.shape)
    start.fill(new)
    z = torch.randn(2, 8)
    large = new.eval()(z, torch.randn(2, 16), noise_mode="none")
    small = torch.nn.functional.avg_pool2d(large, 4)
    expected = old(z, noise_mode="none")
    assert large.shape == (2, 3, 128, 128)
    assert (small - expected)[:, :, 2:-2, 2:-2].abs().mean() < 0.1 * expected.abs().mean()


def test_a_new_mapping_network_may_be_wider(state: Path) -> None:
    start = from_file(state, None, 16, new_mapping=True, mapping_width=24)
    assert start.encoder is not None
    new = Generator(start.shape)
    start.fill(new)
    assert new.mapping(torch.randn(2, 8), torch.randn(2, 16)).shape == (2, start.shape.num_ws, 8)
    own = load_generator_state(state)
    assert torch.equal(new.synthesis.b4.const, own["generator/synthesis.b4.const"])  # type: ignore[union-attr]


def load_generator_state(path: Path) -> dict[str, torch.Tensor]:
    from stylegan2.files import load_tensors

    return load_tensors(path)[0]


def test_what_cannot_be_started_from_is_one_line(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="makes 32 px, more than 16; give --resolution 32 or higher"):
        from_file(plain, 16, 16)
    generator = make_generator()
    other = Generator(replace(generator.config, architecture="orig"))
    save_generator(other, tmp_path / "orig.safetensors")
    with pytest.raises(ValueError, match="architecture 'orig' cannot grow"):
        from_file(tmp_path / "orig.safetensors", 64, 16)
    save_generator(Generator(replace(generator.config, c_dim=5)), tmp_path / "labels.safetensors")
    with pytest.raises(ValueError, match="takes 5 labels, CLIP gives 16 numbers"):
        from_file(tmp_path / "labels.safetensors", None, 16)


# The parts


def test_the_discriminator_judges_the_pair() -> None:
    torch.manual_seed(0)
    conditional = Discriminator(replace(make_generator().config, c_dim=16))
    images, c = torch.rand(4, 3, 32, 32), torch.randn(4, 16)
    logits = conditional(images, c)
    assert not torch.allclose(logits, conditional(images, c.flip(0)))
    torch.testing.assert_close(conditional.b4.logits(conditional.features(images), c), logits)
    with pytest.raises(ValueError, match="conditional: give c"):
        conditional(images)


def test_augmentation_is_off_at_0_and_differentiable_above() -> None:
    images = torch.rand(64, 3, 16, 16, requires_grad=True)
    draws = draw_augmentation(64, torch.Generator().manual_seed(0))
    torch.testing.assert_close(augment(images, 0.0, draws), images)
    changed = augment(images, 0.3, draws)
    torch.testing.assert_close(augment(images[5:9], 0.3, draws[5:9]), changed[5:9])  # by the row
    assert changed.shape == images.shape
    untouched = (changed - images).abs().flatten(1).amax(1) < 1e-5
    assert 0 < int(untouched.sum()) < 32
    changed.sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_augmentation_follows_the_discriminators_certainty() -> None:
    augmentation = Augmentation()
    for _ in range(4):
        augmentation.adapt(torch.tensor(1.0), target=0.6, share=0.08)
    assert float(augmentation.p) == pytest.approx(0.32)
    for _ in range(10):
        augmentation.adapt(torch.tensor(-1.0), target=0.6, share=0.08)
    assert float(augmentation.p) == 0
    for _ in range(99):
        augmentation.adapt(torch.tensor(1.0), target=0.6, share=0.08)
    assert float(augmentation.p) == pytest.approx(0.8)


def test_guidance_prefers_the_right_texts() -> None:
    texts = torch.nn.functional.normalize(torch.randn(6, 16), dim=1)
    cosine, contrast = guidance(texts, texts, 100.0)
    assert float(cosine) == pytest.approx(0, abs=1e-6)
    assert float(contrast) < 1e-3
    wrong_cosine, wrong_contrast = guidance(texts, texts.roll(1, 0), 100.0)
    assert wrong_cosine > cosine + 0.5
    assert wrong_contrast > 10


def test_a_wrong_text_that_fits_better_is_not_called_wrong() -> None:
    eye = torch.eye(3)
    targets = torch.stack([eye[0], eye[1], eye[2]])
    images = torch.stack([eye[0], eye[0], eye[2]])  # the second picture shows what the first text says
    c, wrong = mismatched(targets, targets, images)
    assert torch.equal(c, targets.roll(1, 0))
    assert wrong.tolist() == [True, False, True]


def test_pictures_without_captions_get_pseudo_texts_where_texts_lie() -> None:
    gap = TextSide(mean_image=torch.tensor([0.8, 0.0, 0.0]), mean_text=torch.tensor([0.0, 0.8, 0.0]))
    picture = torch.tensor([[0.8, 0.0, 0.6]])
    assert torch.allclose(gap.from_image(picture), torch.tensor([[0.0, 0.8, 0.6]]), atol=1e-6)
    assert torch.equal(gap.to_image(picture, 1, torch.Generator())[:, 0], picture)


def test_captions_are_drawn_for_the_pictures_that_have_them(data: Captioned) -> None:
    rows = torch.arange(8).repeat(20)
    texts, has = data.draw_captions(rows, torch.Generator().manual_seed(0))
    assert has.tolist() == [True] * 6 + [False] * 2 + (([True] * 6 + [False] * 2) * 19)
    assert not texts[~has].any()
    first = texts[rows == 3]
    own = data.texts[6:8]
    assert {int((own - text).norm(dim=1).argmin()) for text in first} == {0, 1}
    assert max(float((own - text).norm(dim=1).min()) for text in first) == 0


# Memory


def test_the_largest_part_that_fits_is_measured_and_kept(tmp_path: Path) -> None:
    held: list[bytearray] = []

    def trial(size: int) -> None:
        held[:] = [bytearray(os.urandom(1 << 20) * (40 * size))]

    limit = PeakMemory(CPU).gigabytes() + 0.25
    record = tmp_path / "memory.json"
    part = largest_part(trial, 32, limit, 0, CPU, record)
    assert part in (2, 4)
    assert json.loads(record.read_text())["part"] == part
    assert largest_part(lambda size: pytest.fail("measured again"), 32, limit, 0, CPU, record) == part
    with pytest.raises(ValueError, match=r"2 pictures at once need .* GB, --max-memory is 0\.001 GB"):
        largest_part(lambda size: None, 4, 0.001, 0, CPU, tmp_path / "other.json")


def test_parts_of_a_batch_give_the_gradients_of_the_whole(
    plain: Path, data: Captioned, tiny_clip: ClipEncoder, tmp_path: Path
) -> None:
    """Without the terms that compare a batch's pictures; of these the minibatch deviation is left."""
    config = replace(SMALL, steps=2, batch=8, contrastive=0.0, matching=0.0, augment=0.0, r1_interval=1)
    start = from_file(plain, None, 16)

    def w_of(part: int, out: Path) -> torch.Tensor:
        run = RunFolder.open(out, {})
        (out / "memory.json").write_text(json.dumps({"part": part, "limit": 1.0}))
        train_conditional(config, start, data, tiny_clip, run, max_memory=1.0)
        return load_generator(out / "generator.safetensors").mapping.state_dict()["fc0.bias"]

    torch.testing.assert_close(w_of(4, tmp_path / "a"), w_of(8, tmp_path / "b"), rtol=0.05, atol=0.05)


def test_pictures_are_encoded_some_at_a_time(
    state: Path, data: Captioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = from_file(state, None, 16).encoder
    assert encoder is not None
    whole = text_mapping.encode_all(encoder, data, CPU, tmp_path / "whole")
    monkeypatch.setattr(devices, "BATCH_PIXELS", 3 * 32 * 32)
    sizes: list[int] = []
    encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    parts = text_mapping.encode_all(encoder, data, CPU, tmp_path / "parts")
    assert sizes == [3, 3, 2]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


# The training


def test_a_training_on_eight_pictures_leaves_a_model_without_a_mapper(
    plain: Path, data: Captioned, tiny_clip: ClipEncoder, tmp_path: Path, run: Run
) -> None:
    bundle = train(SMALL, from_file(plain, None, 16), data, tiny_clip, tmp_path / "run")
    config = json.loads((bundle / "config.json").read_text())
    assert config["mappers"] == {}
    last = lines(tmp_path / "run")[-1]
    assert {"generator", "clip_distance", "clip_contrast", "real", "fake", "mismatched", "r1"} <= last.keys()
    assert isinstance(load_gap(bundle / "gap.safetensors"), TextSide)

    model = load(str(bundle), device="cpu")
    one, two = model.generate("a red hat", num=2, truncation=1.0)
    assert one.tobytes() != two.tobytes()
    assert one.tobytes() == model.generate("a red hat", num=1, truncation=1.0)[0].tobytes()
    still = model.generate("a red hat", num=2, truncation=0.0)
    assert still[0].tobytes() == still[1].tobytes()  # truncation pulls to the text's own mean
    ws = model.estimate(one)
    assert ws.shape == (1, model.generator.num_ws, 8)
    assert model.edit(one, {"smiling": 1.0}, source="clip").size == (32, 32)
    assert model.style(3).shape == (1, model.generator.num_ws, 8)
    assert model.random_ws(3, torch.Generator().manual_seed(0), 0.5).shape == (3, model.generator.num_ws, 8)

    code, _, err = run(
        "generate", "--model", bundle, "--text", "x", "--out", tmp_path / "x.png", "--device", "cpu"
    )
    assert (code, err) == (0, "")
    code, _, err = run(
        "generate", "--model", bundle, "--text", "x", "--mapper", "mlp", "--out", tmp_path / "y.png"
    )
    assert code == 2
    assert "its generator takes texts itself; leave it out" in err
    code, out, err = run(
        "evaluate", "--model", bundle, "--prompts", write_prompts(tmp_path), "--num", 2, "--device", "cpu"
    )
    assert code == 0, err
    assert "clip_score" in out


def write_prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("a hat\na dog\n")
    return path


@pytest.mark.parametrize("stop", [2, 5, 7])
def test_a_stopped_training_goes_on_exactly(
    state: Path,
    data: Captioned,
    tiny_clip: ClipEncoder,
    tmp_path: Path,
    stop: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in either half of the mapping phase or in the adversarial one, it ends with the same bytes."""
    monkeypatch.setattr(text_mapping, "PAIRS", 64)
    config = replace(SMALL, mapping_steps=6, steps=3, anchor=0.5)
    start = from_file(state, None, 16, new_mapping=True, mapping_width=12)
    train(config, start, data, tiny_clip, tmp_path / "whole")

    def stopping(steps: range):
        for step in steps:
            if step == stop:
                raise KeyboardInterrupt
            yield step

    with pytest.raises(KeyboardInterrupt):
        train(config, start, data, tiny_clip, tmp_path / "parts", progress=stopping, checkpoint_seconds=0)
    train(config, start, data, tiny_clip, tmp_path / "parts")
    for name in ("generator.safetensors", "bundle/config.json"):
        whole, parts = ((tmp_path / part / name).read_bytes() for part in ("whole", "parts"))
        assert whole == parts.replace(b'"name": "parts"', b'"name": "whole"'), name


def test_a_checkpoint_is_a_start_with_its_encoder(
    state: Path, data: Captioned, tiny_clip: ClipEncoder, tmp_path: Path
) -> None:
    config = replace(SMALL, steps=1, lr=0.0, mapping_lr=0.0)
    train(config, from_file(state, None, 16), data, tiny_clip, tmp_path / "run")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*.safetensors")
    again = from_file(checkpoint, None, 16)
    assert again.encoder is not None
    new = Generator(again.shape).eval()
    again.fill(new)
    z, c = torch.randn(2, 8), torch.randn(2, 16)
    expected = load_generator(tmp_path / "run" / "generator.safetensors")(z, c)
    torch.testing.assert_close(new(z, c), expected, rtol=0.05, atol=0.05)  # checkpoints are taken in 16 bit


def test_without_guidance_clip_is_not_asked(
    plain: Path, data: Captioned, tiny_clip: ClipEncoder, tmp_path: Path
) -> None:
    config = replace(SMALL, clip_weight=0.0, steps=1)
    train(config, from_file(plain, None, 16), data, tiny_clip, tmp_path / "run")
    assert "clip_distance" not in lines(tmp_path / "run")[-1]


def test_pictures_without_any_caption_will_do(plain: Path, tiny_clip: ClipEncoder, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "in", captioned=0)
    data = open_captioned([str(source)], 32).embed(tiny_clip, tmp_path / "cache")
    assert len(data.texts) == 0
    bundle = train(replace(SMALL, steps=1), from_file(plain, None, 16), data, tiny_clip, tmp_path / "run")
    assert load(str(bundle), device="cpu").generate("anything")[0].size == (32, 32)


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint(
    plain: Path, data: Captioned, tiny_clip: ClipEncoder, tmp_path: Path
) -> None:
    start = from_file(plain, None, 16)
    assert start.generator is not None
    start.generator.synthesis.b4.const.data[0, 0, 0] = torch.nan  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"step 2: the loss generator.* is not finite"):
        train(SMALL, start, data, tiny_clip, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="clip_share is a share from 0 to 1, got 2"):
        replace(SMALL, clip_share=2)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        replace(SMALL, batch=0)
    with pytest.raises(ValueError, match="text_noise must be 0 or more, got -1"):
        replace(SMALL, text_noise=-1)


# The command


def options(folder: Path, clip: ClipEncoder, out: Path, init: Path) -> list[object]:
    return [
        *("train-gan", "--condition", "clip", "--data", folder, "--clip", clip.spec, "--init", init),
        *("--device", "cpu", "--batch", 4, "--steps", 2, "--no-half", "--out", out),
    ]


def test_the_command_trains_and_goes_on(
    plain: Path, folder: Path, tiny_clip: ClipEncoder, tmp_path: Path, run: Run
) -> None:
    arguments = options(folder, tiny_clip, tmp_path / "run", plain)
    code, out, err = run(*arguments, "--max-memory", 16)
    assert code == 0, err
    assert "has no encoder, so there is no mapping phase" in err
    assert "8 pictures with 12 captions (2 with none)" in out
    assert out.strip().endswith(f"wrote {tmp_path / 'run' / 'bundle'}")
    assert json.loads((tmp_path / "run" / "memory.json").read_text())["part"] == 4
    code, out, _ = run(*arguments, "--max-memory", 16)
    assert code == 0
    assert "is finished: all of its 2 steps are done; to train on, start another run from it: --init" in out
    code, _, err = run(*arguments, "--max-memory", 17)  # which is no other training
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "memory.json").read_text())["limit"] == 17
    code, _, err = run(*arguments, "--clip-weight", 9)
    assert code == 1
    assert "begun with other settings" in err
    assert "-> 9.0" in err


def test_bad_arguments_are_one_line(
    plain: Path, folder: Path, tiny_clip: ClipEncoder, tmp_path: Path, run: Run
) -> None:
    arguments = options(folder, tiny_clip, tmp_path / "run", plain)
    for extra, code, message in (
        (("--set", "no_such=1"), 2, "has no setting 'no_such'"),
        (("--set", "clip_share=3"), 2, "clip_share is a share from 0 to 1"),
        (("--perceptual", "avatars"), 2, "--perceptual has no meaning with --condition clip"),
        (("--set", "lr=NaN"), 2, "lr must be float"),
        (("--set", "r1_gamma=-1"), 2, "r1_gamma must be 0 or more, got -1"),
        (("--resolution", 16), 2, "makes 32 px, more than 16"),
        (("--resolution", 100), 2, "'--resolution': 100 is not a power of two; take 64 or 128"),
        (("--resolution", 0), 2, "'--resolution': 0 is not a power of two; take 8 or more"),
        (("--data", tmp_path / "gone"), 2, "no such folder or zip or tar"),
    ):
        found = run(*arguments, *extra)
        assert (found[0], message in found[2]) == (code, True), found
    assert not (tmp_path / "run").exists()
    code, _, err = run(*arguments, "--max-memory", 0.01)
    assert code == 1
    assert "--max-memory is 0.01 GB" in err
    code, _, err = run(*arguments)  # nothing is spoiled
    assert code == 0, err
    code, _, err = run("train-gan", "--data", folder, "--steps", 3, "--out", tmp_path / "x")
    assert code == 2
    assert "--steps has no meaning with --condition none" in err
    code, _, err = run("train-gan", "--data", tmp_path / "gone", "--out", tmp_path / "x")
    assert code == 2
    assert "no such folder or zip or tar" in err
    assert not (tmp_path / "x").exists()


def test_the_resolution_is_that_of_the_pictures(
    plain: Path, folder: Path, tiny_clip: ClipEncoder, tmp_path: Path, run: Run
) -> None:
    prepared = tmp_path / "x.zip"
    assert run("prepare", folder, prepared, "--resolution", 128, "--clip", "none")[0] == 0
    scratch = ("--preset", "stylegan2", "--dry-run", "--out", tmp_path / "run")
    clip = ("--condition", "clip", "--clip", tiny_clip.spec)
    for more, resolution in (
        (("--data", prepared), 128),
        (("--data", folder), 32),
        (("--data", folder, "--data", prepared), 64),  # they do not agree
        (("--data", prepared, "--resolution", 16), 16),
    ):
        for condition in ((), clip):
            code, out, err = run("train-gan", *condition, *scratch, *more)
            assert code == 0, err
            found = re.search(r"img_resolution\W+(\d+)", out + err)
            assert found is not None
            assert int(found[1]) == resolution
            shrunk = f"pictures of up to 128 px are shrunk to {resolution} px"
            assert (shrunk in err) == (prepared in more and resolution < 128)
    # A generator that is started from has its own.
    code, out, err = run("train-gan", *clip, *scratch, "--data", prepared, "--init", plain)
    assert code == 0, err
    assert "pictures of up to 128 px are shrunk to 32 px" in err
