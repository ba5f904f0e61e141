"""Names that files give for files: one function decides, in every place where such a name becomes a path."""

import ast
import json
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from fuzz_inputs import Watch
from hostile_inputs import png_bytes
from safetensors.torch import save
from test_architecture import files, module_name, parse

from clip2gan.bundle import BundleConfig
from clip2gan.clip import ClipEncoder
from clip2gan.data.captioned import open_captioned
from clip2gan.data.prepare import Preparation, prepare
from clip2gan.images import slug
from stylegan2.names import check_plain_name, file_inside

REFUSED = (
    *(
        "",
        ".",
        "..",
        "../victim.txt",
        "a/../../victim.txt",
        "/etc/passwd",
        "//etc/passwd",
        "a//b",
        "a/",
        "./a",
    ),
    *(
        "C:victim.txt",
        "C:\\victim.txt",
        "..\\victim.txt",
        "\\\\host\\share",
        "~/victim.txt:x",
        "a\0b",
        "a\nb",
    ),
    *("nul", "NUL.txt", "com1.png", "aux/a.txt", "a.", "a ", "...", " ", "a*", "a?", "<a>", "a|b", "\ud800"),
    *("x" * 256, "a/" * 40 + "b", None, 3, ["a"], True),
)
ACCEPTED = (
    "a",
    "a.safetensors",
    "mapper-mlp.safetensors",
    "é.png",
    "a b.txt",
    ".hidden",
    "nullable",
    "a..b",
    "~",
)


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: f"{name!a:.30}")
def test_names_that_are_no_plain_ones(name: object) -> None:
    for nested in (False, True):
        with pytest.raises(ValueError, match="is not the name of a file in this folder"):
            check_plain_name(name, nested)


@pytest.mark.parametrize("name", ACCEPTED)
def test_plain_names(name: str, tmp_path: Path) -> None:
    assert check_plain_name(name) == name
    assert check_plain_name(f"folder/{name}", nested=True) == f"folder/{name}"
    assert file_inside(tmp_path, name) == tmp_path / name
    with pytest.raises(ValueError, match="is not the name of a file"):
        check_plain_name(f"folder/{name}")


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "victim.txt").write_text("x")
    (folder / "whole").write_text("x")
    (folder / "inside").symlink_to("whole")
    assert file_inside(folder, "inside").read_text() == "x"
    (folder / "out").symlink_to(tmp_path / "victim.txt")
    (folder / "up").symlink_to("..")
    (folder / "circle").symlink_to("circle")
    for name in ("out", "up/victim.txt", "circle"):
        with pytest.raises(ValueError, match=rf"{folder}: '{name}' is a link"):
            file_inside(folder, name)


# ---- all places where a path is joined with what is no constant of the code

FOLDER = re.compile(r"(folder|path|out|source|target|cache|root|work|samples|temporary|home|dir)s?\b", re.I)
# Where a variable's value is joined to a folder, and why that needs no check. What a file says is a name goes
# through stylegan2.names; a new entry needs as good a reason.
JOINED = {
    "clip2gan.bundle.store": {
        "folder / files[kind]": "written, by the kinds of mappers that there are",
        "folder / file.name": "a file of a constant name",
        "Path(source.removeprefix(LOCAL_DIR)) / name": "of two constants",
    },
    "clip2gan.cli._outputs": {"out / f'{path.stem}.png'": "a picture that was found in a folder"},
    "clip2gan.cli.generate": {"out / f'{number:03d}-{name}.png'": "a slug"},
    "clip2gan.cli.models": {"path / file": "a file that was checked"},
    "clip2gan.cli.sample": {"out / f'seed{cell.seed:04d}{style}{kind}.png'": "numbers and constants"},
    "clip2gan.clip_loading": {"folder / name": "of constants"},
    "clip2gan.data.captioned": {
        "cache / f'pictures-{number}'": "a number",
        "cache / f'texts-{number}'": "a number",
    },
    "clip2gan.data.files": {
        "self.folder / name": "as the folder lists it (`_walk`)",
        "folder / name": "as the folder lists it (`_walk`)",
    },
    "clip2gan.data.prepare": {
        "work / f'{_digest(names[0])[:16]}.zip'": "a sum",
    },
    "clip2gan.editing.kind": {
        "cache_folder().with_name('clip2gan') / 'usual' / name": "a sum and a kind of mapper"
    },
    "clip2gan.editing.references": {
        "cache_folder().with_name('clip2gan') / 'samples' / model.bundle.fingerprint[:16]": "a sum"
    },
    "clip2gan.evaluation.judge": {"resources.files('clip2gan.domains') / name": "a judge that there is"},
    "clip2gan.packaged": {
        "cache_folder() / f'{source.package}-{source.version}-{key[:16]}.safetensors'": "of packages that "
        "are known; checked in locate_packaged"
    },
    "clip2gan.training.mapper": {"cache / f'pictures-{index}'": "a number"},
    "stylegan2.atomic": {  # temporary files and folders, beside what the user asked for
        "temporary / 'new' / path.name": "of an output",
        "temporary / 'old' / path.name": "of an output",
        "temporary / 'new' / old.name": "as the folder lists it",
        "temporary.parent / old.name": "as the folder lists it",
        "path.parent / name": "as the folder lists it",
    },
    "stylegan2.locks": {"Path(os.path.realpath(path.parent)) / f'.{name}{LOCK}'": "beside an output"},
    "stylegan2.checkpoints.download": {
        "folder / f'{key}.lock'": "a sum",
        "folder / f'{key}-{name}.part'": "a name of which odd characters were replaced",
        "folder / f'{key}-{total}-{name}'": "the same",
    },
    "stylegan2.checkpoints.openvino": {"folder / name": "of constants"},
    "stylegan2.names": {"folder / check_plain_name(name, nested)": "the function itself"},
    "stylegan2.ops.build": {"cache_folder() / f'sm{arch}-{digest.hexdigest()[:16]}'": "a sum"},
    "stylegan2.runs": {"path / folder": "of constants"},
}


def leftmost(node: ast.expr) -> ast.expr:
    return leftmost(node.left) if isinstance(node, ast.BinOp) else node


def is_constant(node: ast.expr) -> bool:
    """Strings of the code, constants by their names, and numbers in strings."""
    if isinstance(node, ast.JoinedStr):
        specs = [part.format_spec for part in node.values if isinstance(part, ast.FormattedValue)]
        return all(spec is not None and ast.unparse(spec).rstrip("'").endswith("d") for spec in specs)
    return isinstance(node, ast.Constant) or ast.unparse(node).rpartition(".")[2].isupper()


def joins(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and not is_constant(node.right):
            left = leftmost(node.left)
            is_path = isinstance(left, ast.Call) and ast.unparse(left.func) == "Path"
            if is_path or FOLDER.search(ast.unparse(left)):
                found.add(ast.unparse(node))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("joinpath", "path.join")):
            found.add(ast.unparse(node))
    return found


def test_a_path_is_made_of_a_variable_in_these_places_alone() -> None:
    found = {module_name(path): joins(parse(path)) for path in files("clip2gan", "stylegan2")}
    unknown = {
        module: more for module, each in found.items() if (more := each - JOINED.get(module, {}).keys())
    }
    assert unknown == {}, "let stylegan2.names.file_inside make it, or say here why it needs no check"
    gone = {module: left for module, each in JOINED.items() if (left := each.keys() - found[module])}
    assert gone == {}


def test_nothing_is_unpacked() -> None:
    """zipfile and tarfile could write where a member's name says."""
    for path in files("clip2gan", "stylegan2"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in ("extract", "extractall", "unpack_archive"), path


# ---- hostile names through every reader of them


@pytest.fixture(scope="module")
def watch() -> Watch:
    """An audit hook, which cannot be taken back; it is off but where a test turns it on."""
    found = Watch(Path("/nowhere"))
    sys.addaudithook(found)
    return found


NAMES = [name for name in REFUSED if isinstance(name, str) and name and len(name) < 100 and name != "\ud800"]


def zipped(name: str, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("0.png", png_bytes())
        archive.writestr(f"{name}.png", png_bytes(1))
        archive.writestr(f"{name}.txt", "a dog")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, name)
        records = [{"file": name, "name": name, "captions": [{"text": "a dog"}]}]
        archive.writestr("dataset.json", json.dumps({"resolution": 16, "pictures": records}))
        archive.writestr("embeddings.safetensors", save({name.replace("\0", "") or "x": torch.zeros(1)}))
    return folder / "a.zip"


def tarred(name: str, folder: Path) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for member, kind in (("0.png", b"0"), (f"{name}.png", b"0"), ("l.png", b"2"), ("h.png", b"1")):
            info = tarfile.TarInfo(member)
            info.type, info.linkname = kind, name
            data = png_bytes() if kind == b"0" else b""
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
        for kind in (b"3", b"4", b"6"):
            info = tarfile.TarInfo(f"{name}.png")
            info.type = kind
            archive.addfile(info)
    return folder / "a.tar"


def tables(name: str, folder: Path) -> Path:
    source = folder / "source"
    source.mkdir()
    (source / "0.png").write_bytes(png_bytes())
    (source / "list.csv").write_text(f'image,caption\n"{name}.png",a dog\n0.png,a cat\n', newline="")
    (source / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a dog"}) + "\n")
    images = [{"id": 1, "file_name": name, "filename": name, "filepath": name, "sentences": [{"raw": "x"}]}]
    annotations = [{"image_id": 1, "caption": "a dog"}, {"image_id": name, "caption": "a dog"}]
    (source / "captions_x.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return source


@pytest.mark.parametrize("write", [zipped, tarred, tables])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name!a:.30}")
def test_sources_of_pictures_touch_nothing_else(
    write: Callable[[str, Path], Path], name: str, watch: Watch, tmp_path: Path, tiny_clip: ClipEncoder
) -> None:
    (tmp_path / "victim.txt").write_text("as it was")
    folder = tmp_path / "in"
    folder.mkdir()
    source = write(name, folder)
    watch.folder, watch.on = folder.resolve(), True
    watch.seen.clear()
    try:
        prepare(source, folder / "out.zip", Preparation(resolution=16, allow_missing=True))
        open_captioned([str(source)], 16, allow_missing=True).embed(tiny_clip, folder / "cache")
    finally:
        watch.on = False
    assert watch.seen == []
    with zipfile.ZipFile(folder / "out.zip") as archive:  # what is written has names of its own
        assert all(re.fullmatch(r"\d{5}/img\d{8}\.png|dataset\.json", each) for each in archive.namelist())
    assert (tmp_path / "victim.txt").read_text() == "as it was"


@pytest.mark.parametrize("field", ["generator", "gap", "encoder", "mappers", "files", "package"])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name!a:.30}")
def test_every_name_in_a_bundle_is_checked(field: str, name: str) -> None:
    plain = {
        "generator": "g",
        "clip": "clip",
        "mappers": {"mlp": "m"},
        "gap": "gap",
        "files": {"g": "0" * 64},
    }
    changes: dict[str, object] = {
        "mappers": {"mlp": name},
        "files": {name: "0" * 64},
        "package": {"package": "p", "version": "1", "files": {name: "0" * 64}},
    }
    plain["generator" if field == "package" else field] = changes.get(field, name)  # type: ignore[assignment]
    from clip2gan.settings import from_plain

    with pytest.raises(ValueError, match="is not the name of a file in this folder"):
        from_plain(BundleConfig, plain)


@pytest.mark.parametrize(
    "text", [*NAMES, "x" * 1000, "\ud800", "é" * 300, "CON", "-rf"], ids=lambda t: f"{t!a:.30}"
)
def test_texts_become_plain_names(text: str) -> None:
    name = f"000-{slug(text.replace(chr(0xD800), ''))}-seed0.png"
    assert check_plain_name(name) == name
    assert os.path.basename(name) == name
