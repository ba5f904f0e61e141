"""Readers of files that come from strangers, and hostile files for each of them.

A `Reader` writes small whole files, damages them (or what they describe), and reads them by the functions
that the commands use. `fuzz_inputs.py` runs them, and watches.
"""

import copy
import io
import json
import random
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fuzz_checkpoints
import numpy as np
import torch
from icc import ADOBE_RGB, cmyk_profile, grey_profile, rgb_profile
from PIL import Image

from stylegan2 import Generator, GeneratorConfig, load_generator
from stylegan2.files import save_tensors


@dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Attributes:
        write: (random, an empty folder) -> the path to read; without damage where the random is None.
        read: raises ValueError or OSError, in one line that names the file, for what it refuses.
        pixels: how many a file has, where memory in proportion to them is allowed.
    """

    write: Callable[[random.Random | None, Path], Path]
    read: Callable[[Path], object]
    pixels: Callable[[Path], int] = lambda _: 0


# ---- damage

HUGE = (0, 1, -1, 2, 2**16, 2**20 + 1, 2**31 - 1, 2**31, 2**40, 2**63, 10**30, -(2**63), 0.5, 1e308, 1e999)
TEXTS = (
    *(
        "",
        "x",
        " ",
        ".",
        "..",
        "../../../canary",
        "/etc/passwd",
        "C:\\canary",
        "..\\canary",
        "a/../../canary",
    ),
    *(
        "canary\0.png",
        "nul",
        "con.safetensors",
        "\ud800",
        "\u202e",
        "a\nb",
        "\x1b[31m",
        "é" * 300,
        "x" * 70_000,
    ),
    *("file:///etc/passwd", "https://example.invalid/x", "~/canary", "$HOME", "{0.__class__}", "%s%n"),
    *("__import__('os').system('true')", "nan", "1e999", "9" * 5000, "local-dir:/etc", "hf-hub:../x"),
)


def odd_value(rng: random.Random) -> Any:
    """What JSON can hold and nobody expects."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(HUGE)
    if kind == 1:
        return rng.choice(TEXTS)
    if kind == 2:
        return rng.choice([None, True, False, float("nan"), float("-inf")])
    if kind == 3:
        return rng.choice([[], {}, [[]], {"": {}}, [None] * 1000, {str(i): i for i in range(2000)}])
    if kind == 4:
        return nested(rng.choice([3, 50, 300]))
    return [odd_value(rng) for _ in range(rng.randrange(4))]


def nested(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found.append((value, key))
        found += places(child)
    return found


def change_json(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three things in it replaced, dropped, renamed or added."""
    whole = {"": copy.deepcopy(value)}
    for _ in range(rng.choice((1, 1, 2, 3))):
        container, key = rng.choice(places(whole))
        action = rng.randrange(6)
        if action <= 2:
            container[key] = odd_value(rng)
        elif action == 3 and len(places(whole)) > 2 and container is not whole:
            del container[key]
        elif action == 4 and isinstance(container, dict):
            container[rng.choice(TEXTS)] = container[key]
        else:
            other, name = rng.choice(places(whole))
            container[key] = copy.deepcopy(other[name])
    return whole.get("")


def json_text(value: Any, rng: random.Random) -> bytes:
    """JSON, at times with what Python's writer never writes."""
    data = json.dumps(value).encode()
    odd = rng.randrange(12)
    if odd == 0:
        return damage(data, rng)
    if odd == 1:
        return rng.choice(
            (b"[" * 100_000, b'{"a":' * 50_000, b"", b"\xff\xfe", b"\xef\xbb\xbf" + data, b"null")
        )
    if odd == 2:  # the same key twice
        return data[:-1] + b', "a": 1, ' + data[1:] if data[:1] == b"{" and len(data) > 2 else data
    if odd == 3:
        return data.decode().encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
    return data


def damage(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three of them, or stretches of them, flipped, cut, repeated or enlarged."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(fuzz_checkpoints.DAMAGES)(result, rng)
    return bytes(result)


def change_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Safetensors with another header: sizes, offsets, types, names, and the JSON in the JSON."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    config = header.get("__metadata__", {}).get("config")
    choice = rng.randrange(8)
    if choice <= 3 and config is not None:
        header["__metadata__"]["config"] = json_text(change_json(json.loads(config), rng), rng).decode(
            errors="replace"
        )
    elif choice == 4:
        header = change_json(header, rng)
    elif choice == 5:
        tensor = header[rng.choice([name for name in header if name != "__metadata__"])]
        tensor[rng.choice(list(tensor))] = rng.choice(
            (
                [2**31, 2**31],
                [2**62, 4],
                [0, 2**40],
                [],
                [1] * 4000,
                "F8_E4M3",
                "F4",
                "U64",
                "C64",
                "BOOL",
                "BF16",
            )
        )
    elif choice == 6:  # numbers that are none
        body = bytearray(data[end:])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(max(len(body) - 4, 1)) & ~3
            body[at : at + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), 3e38, -1e30, 0.0)))
        return data[:end] + bytes(body)
    else:
        return damage(data, rng)
    text = json.dumps(header).encode()
    body = data[end:]
    return len(text).to_bytes(8, "little") + text + (body if rng.random() < 0.9 else body[: len(body) // 2])


def change_zip(data: bytes, rng: random.Random, change: Callable[[str, bytes], bytes] | None = None) -> bytes:
    """A zip with other members, names and sizes; or damaged as bytes."""
    choice = rng.randrange(6)
    if choice == 0:
        return damage(data, rng)
    members = read_members(data)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        names = list(members)
        victim = rng.choice(names)
        for name in names:
            content = members[name]
            if name == victim and choice == 1:
                name = f"{odd_name(rng)}{Path(name).suffix}"  # noqa: PLW2901
            elif name == victim and choice == 2:
                content = damage(content, rng)
            elif name == victim and change is not None:
                content = change(name, content)
            info = zipfile.ZipInfo(name)
            if name == victim and choice == 3:
                info.external_attr = 0o120777 << 16  # a link
                content = b"/etc/passwd"
            archive.writestr(info, content, zipfile.ZIP_BZIP2 if rng.random() < 0.05 else None)
        if choice == 4:
            archive.writestr(rng.choice(("bomb.txt", "bomb.json", "bomb.png")), b"[" + bytes(1 << 26))
    result = bytearray(file.getvalue())
    if choice == 5:  # sizes that are lies, in the directory at the end
        at = result.find(b"PK\x01\x02")
        field = at + rng.choice((20, 24, 28, 42))
        result[field : field + 4] = struct.pack("<I", rng.choice((0, 1, 100, 2**31, 2**32 - 1)))
    return bytes(result)


def odd_name(rng: random.Random) -> str:
    return rng.choice([text for text in TEXTS if "\ud800" not in text and len(text) < 1000])


def read_members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# ---- small whole things, made once


@cache
def generator() -> Generator:
    """z, w of 4; 8 px, so 4 latents."""
    shape = GeneratorConfig(
        z_dim=4, w_dim=4, img_resolution=8, channel_base=32, channel_max=4, mapping_layers=1
    )
    torch.manual_seed(0)
    return Generator(shape).eval().requires_grad_(False)


def content(write: Callable[[Path], object], suffix: str = "") -> bytes:
    """The bytes that a function writes into a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"file{suffix}")
        write(path)
        return path.read_bytes()


def one_file(
    originals: Callable[[], list[bytes]],
    suffix: str,
    read: Callable[[Path], object],
    change: Callable[[bytes, random.Random], bytes] = damage,
    pixels: Callable[[Path], int] = lambda _: 0,
) -> Reader:
    """A reader of one file."""
    whole = cache(originals)

    def write(rng: random.Random | None, folder: Path) -> Path:
        path = folder / f"input{suffix}"
        path.write_bytes(whole()[0] if rng is None else change(rng.choice(whole()), rng))
        return path

    return Reader(write, read, pixels)


# ---- generators


def checkpoint(kind: str) -> Reader:
    """A generator's file of one format, by the damages of `fuzz_checkpoints`."""
    if kind not in fuzz_checkpoints.NETWORKS:
        originals = cache(lambda: fuzz_checkpoints.originals(kind))
        return one_file(originals, ".safetensors", load_generator, fuzz_checkpoints.mutate)
    from tools.openvino_files import write_openvino

    folder = Path(tempfile.mkdtemp())
    write_openvino(fuzz_checkpoints.files.make(fuzz_checkpoints.MOBILE), folder)

    def write(rng: random.Random | None, target: Path) -> Path:
        shutil.copytree(folder, target, dirs_exist_ok=True)
        path = target / fuzz_checkpoints.NETWORKS[kind]
        if rng is not None:
            path.write_bytes(fuzz_checkpoints.mutate(path.read_bytes(), rng))
        return path

    return Reader(write, load_generator)


def generator_header() -> Reader:
    from stylegan2 import save_generator

    whole = lambda: [content(lambda path: save_generator(generator(), path))]  # noqa: E731
    return one_file(whole, ".safetensors", load_generator, change_safetensors)


def training_state() -> Reader:
    """What `train-gan --resume` starts from: the state of one of our trainings."""
    from stylegan2.discriminator import Encoder
    from stylegan2.runs import pack

    def whole() -> list[bytes]:
        from clip2gan.training.start import from_file  # noqa: F401

        shape = generator().config
        parts = {
            "generator": generator(),
            "generator_ema": copy.deepcopy(generator()),
            "encoder": Encoder(shape),
        }
        header = {"config": {"generator": vars(shape)}}
        return [content(lambda path: save_tensors(path, pack(**parts), header))]

    def read(path: Path) -> object:
        from clip2gan.training.start import from_file

        return from_file(path, None, 16)

    return one_file(whole, ".safetensors", read, change_safetensors)


# ---- parts of a bundle

MAPPER_SIZES = {"embed_dim": 16, "num_ws": 4, "w_dim": 4}
SMALL_MAPPERS = {
    "mlp": {"layers": 2, "width": 8},
    "flow": {"steps": 2, "width": 8},
    "diffusion": {"blocks": 1, "width": 8},
}


def mappers() -> Reader:
    from clip2gan.mappers import load_mapper, new_mapper, save_mapper

    def whole() -> list[bytes]:
        made = [new_mapper(kind, {**MAPPER_SIZES, **more}) for kind, more in SMALL_MAPPERS.items()]
        return [content(lambda path, each=each: save_mapper(each, path)) for each in made]

    return one_file(whole, ".safetensors", load_mapper, change_safetensors)


def gaps() -> Reader:
    from clip2gan.gap import KINDS, fit_gap, load_gap, save_gap

    def whole() -> list[bytes]:
        images, texts = torch.nn.functional.normalize(torch.randn(2, 32, 8), dim=-1)
        made = [fit_gap(kind, images, texts, 10.0) for kind in KINDS if kind != "none"]
        return [content(lambda path, each=each: save_gap(each, path)) for each in made]

    return one_file(whole, ".safetensors", load_gap, change_safetensors)


def encoders() -> Reader:
    from clip2gan.editing.encoder import EncoderConfig, LatentEncoder, load_encoder, save_encoder

    def whole() -> list[bytes]:
        made = LatentEncoder(EncoderConfig(w_dim=4, resolution=8, channel_base=32, channel_max=4))
        return [content(lambda path: save_encoder(made, path))]

    return one_file(whole, ".safetensors", load_encoder, change_safetensors)


def judges() -> Reader:
    from clip2gan.domains.avatars.judge import Judge

    return one_file(
        lambda: [content(lambda path: Judge(4).save(path))], ".safetensors", Judge.load, change_safetensors
    )


@cache
def tiny_bundle() -> Path:
    """The folder of a whole random model."""
    import conftest

    folder = Path(tempfile.mkdtemp())
    clip = conftest.make_clip(folder / "clip-alone")
    return conftest.make_bundle(folder / "bundle", clip)


@cache
def tiny_clip() -> Any:
    from clip2gan.clip import ClipEncoder

    return ClipEncoder.load(f"local-dir:{tiny_bundle() / 'clip'}")


def bundles(whole_load: bool) -> Reader:
    """A bundle whose config.json, or one of whose files, is another; `whole_load`: not its config alone."""
    from clip2gan.bundle import load_bundle, read_config
    from clip2gan.bundle.store import check_places

    def write(rng: random.Random | None, folder: Path) -> Path:
        target = folder / "bundle"
        shutil.copytree(tiny_bundle(), target)
        if rng is None:
            return target
        config_file = target / "config.json"
        config = json.loads(config_file.read_text())
        if not whole_load or rng.random() < 0.6:
            config_file.write_bytes(json_text(change_bundle(config, rng), rng))
            return target
        victim = target / rng.choice(list(config["files"]))
        if rng.random() < 0.2:
            victim.unlink()
            victim.symlink_to(rng.choice(("/etc/passwd", "/dev/zero", "../outside", victim.name)))
        elif victim.suffix == ".safetensors":
            victim.write_bytes(change_safetensors(victim.read_bytes(), rng))
        else:
            victim.write_bytes(json_text(change_json(json.loads(victim.read_bytes()), rng), rng))
        if rng.random() < 0.7:  # with its right sum
            from stylegan2.files import fingerprint

            if victim.is_file() and not victim.is_symlink():
                config["files"][victim.relative_to(target).as_posix()] = fingerprint(victim)
                config_file.write_text(json.dumps(config))
        return target

    def read(path: Path) -> None:
        check_places(path, read_config(path))
        if whole_load:
            load_bundle(str(path))

    return Reader(write, read)


def change_bundle(config: dict[str, Any], rng: random.Random) -> Any:
    if rng.random() < 0.4:  # a name that a file gives
        name = rng.choice(TEXTS)
        where = rng.choice(("gap", "generator", "encoder", "clip", "mappers", "files", "package", "judge"))
        if where == "files":
            config["files"][name] = "0" * 64
        elif where == "mappers":
            config["mappers"][rng.choice(("mlp", name))] = name
        elif where == "package":
            config["generator"] = {"package": name, "version": "1", "files": {name: "0" * 64}}
        elif where == "judge":
            config["domain"]["judge"] = name
        else:
            config[where] = name
        return config
    return change_json(config, rng)


# ---- CLIPs


def clip_folders() -> Reader:
    """A CLIP in open_clip's layout."""
    from clip2gan.clip import ClipEncoder

    def write(rng: random.Random | None, folder: Path) -> Path:
        target = folder / "clip"
        shutil.copytree(tiny_bundle() / "clip", target)
        if rng is None:
            return target
        config_file = target / "open_clip_config.json"
        config = json.loads(config_file.read_text())
        choice = rng.randrange(4)
        if choice == 0:
            weights = target / "open_clip_model.safetensors"
            weights.write_bytes(change_safetensors(weights.read_bytes(), rng))
        elif choice == 1:
            foreign_towers(config, rng)
            config_file.write_text(json.dumps(config))
            for name in ("tokenizer_config.json", "config.json"):
                auto = {
                    "AutoTokenizer": ["evil.Evil", None],
                    "AutoConfig": "evil.Evil",
                    "AutoModel": "evil.Evil",
                }
                (target / name).write_text(json.dumps({"auto_map": auto, "model_type": "evil"}))
            (target / "evil.py").write_text("open('/tmp/canary', 'w')\nclass Evil: pass\n")
        else:
            config_file.write_bytes(json_text(change_json(config, rng), rng))
        return target

    return Reader(write, lambda path: ClipEncoder.load(f"local-dir:{path}"))


def foreign_towers(config: dict[str, Any], rng: random.Random) -> None:
    """Have a config name towers and tokenizers of other packages, which read files and can run code."""
    vision, text = config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
    # None that exists: it would be fetched.
    name = rng.choice([*TEXTS, "hf-hub:../../x", "local-dir:/etc", "./clip"])
    choice = rng.randrange(4)
    if choice == 0:
        text.update(
            hf_tokenizer_name="x", tokenizer_kwargs=rng.choice(({"trust_remote_code": True}, {}, [], name))
        )
    elif choice == 1:
        vision["timm_model_name"] = name
    elif choice == 2:
        text["hf_model_name"] = name
    else:
        text["hf_tokenizer_name"] = name


def hugging_face_clips() -> Reader:
    """A CLIP in the layout of transformers."""
    from test_clip_files import write_hugging_face

    from clip2gan.clip import ClipEncoder

    @cache
    def whole() -> Path:
        return write_hugging_face(Path(tempfile.mkdtemp()) / "hf", "gelu", ".bin").parent

    def write(rng: random.Random | None, folder: Path) -> Path:
        target = folder / "clip"
        shutil.copytree(whole(), target)
        if rng is not None:
            victim = rng.choice(sorted(target.iterdir()))
            if victim.suffix == ".json":
                victim.write_bytes(json_text(change_json(json.loads(victim.read_bytes()), rng), rng))
            else:
                victim.write_bytes(fuzz_checkpoints.mutate(victim.read_bytes(), rng))
        return target

    return Reader(write, lambda path: ClipEncoder.load(f"local-dir:{path}"))


def clip_weights() -> Reader:
    """A file of weights for one of open_clip's architectures, before open_clip sees it."""
    from test_clip_files import openai_state, tiny_model, write_archive

    from clip2gan.clip_files import read_clip_file
    from tools.checkpoint_files import torch_save

    def whole() -> list[bytes]:
        state = tiny_model().state_dict()
        found = [
            torch_save(state),
            torch_save({"state_dict": state, "epoch": 3}),
            torch_save(state, legacy=True),
        ]
        return [*found, content(lambda path: write_archive(path, openai_state()))]

    return one_file(whole, ".pt", lambda path: read_clip_file(path, "ViT-B-32"), fuzz_checkpoints.mutate)


# ---- latents


def latents(suffix: str) -> Reader:
    from clip2gan.editing.latents import read_latents, write_nvidia_latents
    from tools.checkpoint_files import torch_save

    ws = torch.randn(2, generator().num_ws, 4)

    def whole() -> list[bytes]:
        if suffix == ".safetensors":
            header = {"fingerprints": ["a", "b"], "fingerprint": "0" * 64, "model": "m"}
            return [content(lambda path: save_tensors(path, {"ws": ws}, header))]
        if suffix == ".npz":
            return [content(lambda path: write_nvidia_latents(path, ws), ".npz")]
        return [torch_save(ws), torch_save(ws, legacy=True)]

    change = {".safetensors": change_safetensors, ".npz": change_npz, ".pt": fuzz_checkpoints.mutate}[suffix]
    return one_file(whole, suffix, lambda path: read_latents(path, generator(), "0" * 64), change)


def change_npz(data: bytes, rng: random.Random) -> bytes:
    def change(_: str, array: bytes) -> bytes:
        header = rng.choice(
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4, 4), }",
                "{'descr': '|O', 'fortran_order': False, 'shape': (2, 4, 4), }",
                "{'descr': '<f8', 'fortran_order': True, 'shape': (1, 4, 4), }",
                "{'descr': [('a', '<f4', (2, 4, 4))], 'fortran_order': False, 'shape': (), }",
                "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4, 4), }",
                "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4, 4), }",
                "{'descr': '<f4', 'shape': " + "(" * 3000 + ")" * 3000 + "}",
                "__import__('os').system('true')",
                "[" * 9000,
                "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (2, 4, 4), }",
                "9**9**9",
            )
        )
        text = header.encode() + b"\n"
        rest = array[-128:] if rng.random() < 0.8 else b""
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + rest

    return change_zip(data, rng, change)


# ---- pictures

FORMATS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "png": [("RGB", {}), ("RGBA", {}), ("P", {}), ("I;16", {}), ("LA", {}), ("1", {})],
    "jpeg": [("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})],
    "gif": [("P", {"save_all": True, "loop": 0}), ("L", {})],
    "tiff": [
        *(
            ("RGB", {"compression": each})
            for each in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        ),
        *(("F", {}), ("I;16", {}), ("CMYK", {}), ("LAB", {})),
        ("1", {"compression": "group4"}),
    ],
    "webp": [("RGB", {}), ("RGBA", {"lossless": True}), ("RGB", {"save_all": True})],
    "others": [],
}
OTHERS = [
    "bmp",
    "ppm",
    "tga",
    "pcx",
    "ico",
    "icns",
    "jp2",
    "avif",
    "sgi",
    "dds",
    "qoi",
    "xbm",
    "msp",
    "im",
    "spi",
    "dib",
    "pgm",
    "pfm",
    "heif",
    "blp",
    "mpo",
]


@cache
def pictures_in(kind: str) -> list[bytes]:
    from clip2gan.images.formats import picture_formats

    assert picture_formats()
    random_pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    base = Image.fromarray(random_pixels).resize((64, 48))
    found = []
    for mode, options in FORMATS.get(kind, []):
        more = dict(options)
        if more.get("save_all"):
            more["append_images"] = [base.rotate(90).convert(mode)] * 3
        file = io.BytesIO()
        image = base.convert("L").convert(mode) if mode in ("I;16", "F", "1") else to_mode(base, mode)
        image.save(file, kind, **more)
        found.append(file.getvalue())
    for suffix in OTHERS if kind == "others" else []:
        image = base.convert(
            {"xbm": "1", "msp": "1", "spi": "F", "pgm": "L", "pfm": "F", "blp": "P"}.get(suffix, "RGB")
        )
        file = io.BytesIO()
        try:
            image.save(file, Image.registered_extensions()[f".{suffix}"])
        except (KeyError, OSError, ValueError):
            continue
        found.append(file.getvalue())
    return found


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
        assert converted is not None
        return converted
    return image.convert(mode)


def pictures(kind: str) -> Reader:
    """Pictures of a format, by all that reads pictures."""
    from clip2gan.images import read_metadata
    from clip2gan.images.decoder import picture_size, read_photo

    def read(path: Path) -> None:
        read_photo(path)
        read_metadata(path)

    def pixels(path: Path) -> int:
        try:
            width, height = picture_size(path)
        except (ValueError, OSError):
            return 0
        return width * height

    change = change_png if kind == "png" else change_profile if kind == "profiles" else change_sizes
    whole = profiles if kind == "profiles" else lambda: pictures_in(kind)
    return one_file(whole, ".img", read, change, pixels)


def change_sizes(data: bytes, rng: random.Random) -> bytes:
    """Damage, mostly to the head, where sizes stand."""
    if rng.random() < 0.5:
        return damage(data, rng)
    result = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(len(result), rng.choice((32, 200))))
        size = rng.choice((1, 2, 4))
        value = rng.choice((0, 1, 2**15, 2**16 - 1, 10_000, 2**31 - 1, 2**32 - 1)) % 256**size
        result[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))
    return bytes(result)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def change_png(data: bytes, rng: random.Random) -> bytes:
    """Other sizes, texts of many megabytes, bombs; with right checksums."""
    choice = rng.randrange(4)
    if choice == 0:
        return damage(data, rng)
    depth, colours = rng.choice(((1, 0), (8, 0), (16, 0), (8, 2), (16, 6), (4, 3), (8, 3)))
    sides = (0, 1, 7, 8, 100, 4000, 9999, 10_000, 30_000, 65_535, 65_536, 10**7, 2**31 - 1)
    size = struct.pack(">II", rng.choice(sides), rng.choice(sides))
    header = chunk(b"IHDR", size + bytes([depth, colours, 0, 0, rng.randrange(2)]))
    pixels = chunk(b"IDAT", zlib.compress(bytes(rng.choice((10, 10**5, 10**7))), 9))
    text = b"clip2gan\0\0\0\0\0" + json_text(odd_value(rng), rng)
    extra = rng.choice(
        (
            chunk(b"iTXt", text),
            chunk(b"zTXt", b"clip2gan\0\0" + zlib.compress(bytes(1 << 25))),
            chunk(b"tEXt", b"clip2gan\0" + b"[" * (1 << 20)),
            chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 25))),
            chunk(b"eXIf", rng.randbytes(200)),
            chunk(b"PLTE", bytes(rng.randrange(0, 900))),
            chunk(b"tRNS", bytes(rng.randrange(0, 300))),
            chunk(b"abCd", b"") * 3000,
        )
    )
    end = chunk(b"IEND", b"")
    if choice == 1:  # a whole picture with more in it
        return data[:33] + extra + data[33:]
    return data[:8] + header + (extra if choice == 2 else b"") + pixels * rng.randrange(3) + end


@cache
def profiles() -> list[bytes]:
    """Pictures with colour profiles."""
    found = []
    for mode, profile in (
        ("RGB", rgb_profile(ADOBE_RGB, 2.2)),
        ("L", grey_profile(1.8)),
        ("CMYK", cmyk_profile()),
    ):
        file = io.BytesIO()
        Image.new(mode, (16, 16)).save(file, "JPEG", icc_profile=profile)
        found.append(file.getvalue())
    return found


def change_profile(data: bytes, rng: random.Random) -> bytes:
    """Damage within the profile."""
    start = data.find(b"ICC_PROFILE") + 14
    end = start + int.from_bytes(data[start : start + 4], "big")
    if rng.random() < 0.1:
        return damage(data, rng)
    part = bytearray(data[start:end])
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(part))
        size = rng.choice((1, 2, 4))
        part[at : at + size] = rng.choice((b"\xff", b"\x7f", b"\0", rng.randbytes(1))) * size
    return data[:start] + bytes(part[: end - start]) + data[end:]


# ---- sources of pictures


def png_bytes(seed: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def prepared_zips() -> Reader:
    """A zip of `clip2gan prepare`, with embeddings, as `train-gan` reads it."""
    from safetensors.torch import save

    def whole() -> list[bytes]:
        names = [f"00000/img{index:08d}.png" for index in range(3)]
        records = [{"file": name, "name": name, "captions": [{"text": "a red dog"}]} for name in names]
        about = {"resolution": 16, "pictures": records, "clip": tiny_clip().fingerprint()}
        unit = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for index, name in enumerate(names):
                archive.writestr(name, png_bytes(index))
            archive.writestr("dataset.json", json.dumps(about))
            archive.writestr("embeddings.safetensors", save({"images": unit.half(), "texts": unit.half()}))
        return [file.getvalue()]

    def change(data: bytes, rng: random.Random) -> bytes:
        def inside(name: str, part: bytes) -> bytes:
            if name.endswith(".json"):
                return json_text(change_json(json.loads(part), rng), rng)
            return change_safetensors(part, rng) if name.endswith(".safetensors") else change_png(part, rng)

        return change_zip(data, rng, inside)

    return one_file(whole, ".zip", read_source, change)


def read_source(path: Path) -> None:
    """As `train-gan --condition clip` reads it."""
    from clip2gan.data.captioned import open_captioned, picture_sides

    picture_sides([str(path)])
    with tempfile.TemporaryDirectory(dir=path.parent) as cache_folder:
        open_captioned([str(path)], 16, allow_missing=True).embed(tiny_clip(), Path(cache_folder))


def preparations() -> Reader:
    """Folders and zips of pictures and captions, as `prepare` reads them."""
    from clip2gan.data.prepare import Preparation, prepare

    captions = {
        "0.txt": b"a dog\nand a cat",
        "metadata.jsonl": b'{"file_name": "1.png", "text": "two"}\n',
        "captions_x.json": json.dumps(
            {
                "images": [{"id": 1, "file_name": "2.png"}],
                "annotations": [{"image_id": 1, "caption": "three"}],
            }
        ).encode(),
        "list.csv": b"image,caption\n0.png,zero\n1.png,one\n",
        "dataset_x.json": json.dumps(
            {"images": [{"filename": "1.png", "sentences": [{"raw": "k"}]}]}
        ).encode(),
    }

    def write(rng: random.Random | None, folder: Path) -> Path:
        members = {f"{index}.png": png_bytes(index) for index in range(3)} | captions
        if rng is not None:
            victim = rng.choice(list(members))
            if victim.endswith(".json") and rng.random() < 0.7:
                members[victim] = json_text(change_json(json.loads(members[victim]), rng), rng)
            elif rng.random() < 0.3:
                members[victim.replace("0", rng.choice(("0", "\u2028", "é")))] = damage(members[victim], rng)
            else:
                members[victim] = damage(members[victim], rng)
        if rng is None or rng.random() < 0.5:
            source = folder / "source"
            for name, part in members.items():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_bytes(part)
            return source
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, part in members.items():
                archive.writestr(name, part)
        (folder / "source.zip").write_bytes(change_zip(file.getvalue(), rng))
        return folder / "source.zip"

    def read(path: Path) -> None:
        prepare(path, path.parent / "out.zip", Preparation(resolution=16, allow_missing=True))

    return Reader(write, read)


def shards() -> Reader:
    """Tars as webdataset writes them, with links, devices and sizes that are lies."""

    def write(rng: random.Random | None, folder: Path) -> Path:
        file = io.BytesIO()
        form = tarfile.PAX_FORMAT if rng is None else rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for index in range(3):
                for name, part in ((f"{index}.png", png_bytes(index)), (f"{index}.txt", b"a dog")):
                    info = tarfile.TarInfo(name)
                    info.size = len(part)
                    if rng is not None and rng.random() < 0.3:
                        change_member(info, rng)
                    archive.addfile(info, io.BytesIO(part) if info.isreg() else None)
        data = bytearray(file.getvalue())
        if rng is not None and rng.random() < 0.6:
            header = rng.choice(
                [at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"]
            )
            field, size = rng.choice(
                ((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155))
            )
            values = (
                b"7" * size,
                b"\xff" * size,
                b"\x80" + b"\xff" * (size - 1),
                b"-1".ljust(size, b"\0"),
                b"L",
                b"x",
            )
            value = rng.choice(values)[:size]
            data[header + field : header + field + len(value)] = value
            block = data[header : header + 512]
            block[148:156] = b" " * 8
            data[header + 148 : header + 156] = b"%06o\0 " % sum(block)
        if rng is not None and rng.random() < 0.4:
            data = bytearray(damage(bytes(data), rng))
        if rng is not None and rng.random() < 0.05:  # headers that describe headers
            header = tarfile.TarInfo("x")
            header.type = rng.choice((b"x", b"L", b"K", b"g"))
            data[:0] = header.tobuf(tarfile.GNU_FORMAT) * 3000
        (folder / "00000.tar").write_bytes(bytes(data))
        return folder / "00000.tar"

    return Reader(write, read_source)


def change_member(info: tarfile.TarInfo, rng: random.Random) -> None:
    if rng.random() < 0.5:
        info.type = rng.choice(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
        )
        info.linkname, info.size = "/etc/passwd", 0
    else:
        info.name = f"{odd_name(rng)}{Path(info.name).suffix}"


# ---- texts, settings, run folders


def prompts() -> Reader:
    """A file of texts, and what CLIP makes of the first ones."""
    from clip2gan.data.lines import read_texts

    def change(data: bytes, rng: random.Random) -> bytes:
        choice = rng.randrange(5)
        if choice == 0:
            return "".join(
                rng.choices("abcdefghijklmnopqrstuvwxyzé", k=rng.choice((10**3, 10**5, 10**6)))
            ).encode()
        if choice == 1:
            return rng.choice((b" ", b"\n", b"&", b"a ", b"\xf0\x9f\x98\x80", b"9", b"'", b"\0")) * 10**6
        if choice == 2:
            return "\n".join(str(odd_value(rng)) for _ in range(20)).encode(errors="surrogatepass")
        return damage(data * rng.choice((1, 1000)), rng)

    def read(path: Path) -> None:
        texts = read_texts(path)
        tiny_clip().encode_texts(texts[:3])
        tiny_clip().is_cut(texts[0])

    return one_file(lambda: ["a red dog\nein grüner Hut\n".encode()], ".txt", read, change)


def settings() -> Reader:
    """Presets of trainings changed by `--set NAME=VALUE`, as the commands read it."""
    from clip2gan.settings import override, parse_assignment
    from clip2gan.training.presets import PRESETS

    names = [
        b"lr",
        b"batch",
        b"noise.level",
        b"weights.cosine",
        b"mapper_settings.width",
        b"adversary.lr",
        b"gap",
        b"x",
    ]

    def change(data: bytes, rng: random.Random) -> bytes:
        value = rng.choice((json_text(odd_value(rng), rng), rng.choice(TEXTS).encode(errors="surrogatepass")))
        return rng.choice(names) + rng.choice((b"=", b"=", b"=", b"", b"==", b".x=")) + value

    def read(path: Path) -> None:
        text = path.read_bytes().decode(errors="replace")
        try:
            override(PRESETS["small"], dict([parse_assignment(text)]))
        except ValueError as error:  # the command names the option
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error

    return one_file(lambda: [b"lr=0.1"], ".txt", read, change)


def run_folders() -> Reader:
    """A run folder as a training goes on in it."""
    from stylegan2.runs import RunFolder

    config = {"command": "x", "lr": 0.1}

    @cache
    def whole() -> Path:
        folder = Path(tempfile.mkdtemp()) / "run"
        run = RunFolder.open(folder, config)
        for step in (1, 2):
            run.log(step, loss=0.5)
            run.save(step, {"a": torch.zeros(3)}, {"config": config})
        return folder

    def write(rng: random.Random | None, folder: Path) -> Path:
        target = folder / "run"
        shutil.copytree(whole(), target)
        if rng is not None:
            files = [path for path in target.rglob("*") if path.suffix in (".json", ".jsonl", ".safetensors")]
            victim = rng.choice(files)
            data = victim.read_bytes()
            if victim.suffix == ".safetensors":
                victim.write_bytes(change_safetensors(data, rng))
            else:
                lines = data.splitlines() if victim.suffix == ".jsonl" else [data]
                index = rng.randrange(len(lines))
                lines[index] = json_text(change_json(json.loads(lines[index]), rng), rng)
                victim.write_bytes(b"\n".join(lines) + b"\n")
        return target

    def read(path: Path) -> None:
        run = RunFolder.open(path, config)
        run.latest()
        run.log(3, loss=0.1)

    return Reader(write, read)


def recognisers() -> Reader:
    """An ONNX network for `--identity`."""
    import onnx
    from test_perceptual import face_network

    from clip2gan.perceptual import identity_distance

    def change(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return damage(data, rng)
        model = onnx.load_model_from_string(data)
        node = rng.choice(model.graph.node)
        choice = rng.randrange(5)
        if choice == 0:
            node.name = rng.choice(
                ('x") or open("/tmp/canary", "w") or getattr(self, "x', "a\nb", "self", "é")
            )
        elif choice == 1:
            tensor = model.graph.initializer[0]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(("/etc/passwd", "../canary", "canary")))
        elif choice == 2:
            dimension = model.graph.input[0].type.tensor_type.shape.dim[rng.randrange(4)]
            dimension.dim_value = rng.choice((-1, 0, 1, 2**20, 2**40))
        elif choice == 3:
            del model.graph.initializer[0].dims[:]
            model.graph.initializer[0].dims.extend(rng.choice(([2**40, 2**20], [-1], [], [0])))
        else:
            node.op_type = rng.choice(("Loop", "If", "Scan", "__import__", "Identity", "Exp", "X"))
        return model.SerializeToString()

    whole = lambda: [content(face_network, ".onnx")]  # noqa: E731
    return one_file(whole, ".onnx", identity_distance, change)


READERS: dict[str, Callable[[], Reader]] = {
    **{f"generator: {kind}": lambda kind=kind: checkpoint(kind) for kind in fuzz_checkpoints.KINDS},
    "generator: header": generator_header,
    "state of a training": training_state,
    "mapper": mappers,
    "gap": gaps,
    "encoder": encoders,
    "judge": judges,
    "bundle: config": lambda: bundles(False),
    "bundle": lambda: bundles(True),
    "clip: folder": clip_folders,
    "clip: transformers": hugging_face_clips,
    "clip: weights": clip_weights,
    **{
        f"latents: {suffix}": lambda suffix=suffix: latents(suffix)
        for suffix in (".safetensors", ".npz", ".pt")
    },
    **{f"picture: {kind}": lambda kind=kind: pictures(kind) for kind in (*FORMATS, "profiles")},
    "prepared zip": prepared_zips,
    "captioned pictures": preparations,
    "tar shards": shards,
    "prompts": prompts,
    "settings": settings,
    "run folder": run_folders,
    "recogniser": recognisers,
}


def names(patterns: Iterable[str]) -> list[str]:
    """The readers whose names contain one of the patterns, all without any. Raises ValueError for none."""
    chosen = [name for name in READERS if not patterns or any(pattern in name for pattern in patterns)]
    if not chosen:
        raise ValueError(f"no such reader; there are {', '.join(READERS)}")
    return chosen
