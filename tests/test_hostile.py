"""Files from strangers run no code, read nothing outside their folder, and unfold to no more than that."""

import io
import json
import random
import string
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import CLIP_CONFIG, PREPROCESSING
from onnx import TensorProto, helper
from safetensors.torch import save

from clip2gan.clip import ClipEncoder, save_local_dir
from clip2gan.clip_files import read_clip_file
from clip2gan.data.captioned import open_captioned
from clip2gan.data.files import expand, open_files
from clip2gan.data.lines import LARGEST_LIST, read_texts
from clip2gan.perceptual import identity_distance
from clip2gan.training.start import from_file
from stylegan2.files import save_tensors
from stylegan2.generator import Generator
from stylegan2.runs import pack
from tools.checkpoint_files import torch_save

# ---- code


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A CLIP with Python beside it, of which transformers can be told that it is the tokenizer."""
    import open_clip

    torch.manual_seed(0)
    folder = tmp_path / "clip"
    save_local_dir(open_clip.CLIP(**CLIP_CONFIG), CLIP_CONFIG, PREPROCESSING, folder, dtype=torch.float32)
    auto = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(auto))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Evil: pass\n")
    return folder


def change_tower(folder: Path, tower: str, **changes: object) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"][tower].update(changes)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("tower", "changes", "message"),
    [
        (
            "text_cfg",
            {"hf_tokenizer_name": "a/b", "tokenizer_kwargs": {"trust_remote_code": True}},
            "its tokenizer's setting 'trust_remote_code' is not one of clean",
        ),
        ("text_cfg", {"hf_tokenizer_name": "a/b", "tokenizer_kwargs": [1]}, "its tokenizer's setting"),
        ("text_cfg", {"hf_tokenizer_name": "/etc"}, "hf_tokenizer_name '/etc' is not the name of a publ"),
        ("text_cfg", {"hf_model_name": "../../model"}, "hf_model_name '../../model' is not the name of"),
        ("text_cfg", {"hf_model_name": "tests"}, "hf_model_name 'tests' is not the name of a published"),
        ("vision_cfg", {"timm_model_name": "local-dir:/etc"}, "timm_model_name 'local-dir:/etc' is not"),
        ("vision_cfg", {"timm_model_name": ["x"]}, "timm_model_name ['x'] is not the name of a publish"),
    ],
)
def test_a_clips_config_reaches_nothing_else(tower, changes, message, clip_folder, tmp_path):
    change_tower(clip_folder, tower, **changes)
    with pytest.raises(ValueError, match="get the model again") as caught:
        ClipEncoder.load(f"local-dir:{clip_folder}")
    assert message in str(caught.value)
    assert str(clip_folder / "open_clip_config.json") in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_tokenizers_code_is_neither_run_nor_asked_for(clip_folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    change_tower(clip_folder, "text_cfg", hf_tokenizer_name="someone/theirs")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match="cannot load CLIP"):
        ClipEncoder.load(f"local-dir:{clip_folder}")
    assert not (tmp_path / "run").exists()
    assert "Do you wish to run" not in capsys.readouterr().out


def network(path: Path, name: str = "", side: int = 8, external: str | None = None) -> Path:
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [192, 4], [0.1] * 768)
    if external is not None:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=external)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["face"], ["pixels"], name=name),
            helper.make_node("MatMul", ["pixels", "weight"], ["features"]),
        ],
        "recogniser",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)],
        [weight],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    return path


def test_names_in_a_recogniser_are_no_code(tmp_path):
    run = tmp_path / "run"
    code = f'x") if 0 else [open("{run}", "w"), getattr(self, "node_0")][1] if 1 else getattr(self, "x'
    path = network(tmp_path / "face.onnx", code.replace(".", "/"))
    identity_distance(path)
    assert not run.exists()


def test_a_recogniser_keeps_its_weights_to_itself(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(192 * 16))
    for place in ("weights", "../weights", "/etc/passwd"):
        path = network(tmp_path / "face.onnx", external=place)
        with pytest.raises(ValueError, match=r"face.onnx: not an ONNX network"):
            identity_distance(path)


def test_a_recogniser_of_enormous_faces_is_refused(tmp_path):
    with pytest.raises(ValueError, match="side of its pictures must be a whole number from 1 to 1024"):
        identity_distance(network(tmp_path / "face.onnx", side=2**20))


# ---- more than there is


def zip_of(path: Path, name: str, data: bytes, method: int, claimed: int | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data, method)
    if claimed is not None:
        path.write_bytes(path.read_bytes().replace(struct.pack("<I", len(data)), struct.pack("<I", claimed)))
    return path


@pytest.mark.parametrize(
    ("method", "claimed", "message"),
    [
        (zipfile.ZIP_BZIP2, 100, "compressed in a way that is rare in zips"),
        (zipfile.ZIP_LZMA, None, "compressed in a way that is rare in zips"),
        (zipfile.ZIP_DEFLATED, 100, "CRC"),
        (zipfile.ZIP_DEFLATED, None, "unpacks to more than 200 times its size"),
    ],
)
def test_a_zip_unpacks_no_more_than_it_may(method, claimed, message, tmp_path):
    files = open_files(zip_of(tmp_path / "a.zip", "a.txt", bytes(9 << 20), method, claimed))
    with pytest.raises(ValueError, match=message):
        files.read("a.txt")


def test_what_zips_usually_hold_is_read(tmp_path):
    text = "".join(random.Random(0).choices("a red dog in the snow", k=9 << 20)).encode()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        files = open_files(zip_of(tmp_path / "a.zip", "a.txt", text, method))
        assert files.read("a.txt") == text
        assert files.head("a.txt", 10) == text[:10]


def test_entries_of_a_checkpoint_that_overlap_are_refused(tmp_path):
    """One storage under many names."""
    data = torch_save({"a": torch.zeros(100_000)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
    start = data.find(b"PK\x01\x02")
    end = data.rfind(b"PK\x05\x06")
    end64 = data.rfind(b"PK\x06\x06", 0, end)
    directory = data[start : end64 if end64 > 0 else end]
    count = len(names) * 3
    closing = struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, count, count, 3 * len(directory), start, 0)
    (tmp_path / "w.pt").write_bytes(data[:start] + directory * 3 + closing)
    with pytest.raises(ValueError, match=r"w.pt: .*damaged zip archive"):
        read_clip_file(tmp_path / "w.pt", "ViT-B-32")


def test_tensors_of_a_clip_are_no_views_of_few_numbers(tmp_path):
    (tmp_path / "w.pt").write_bytes(torch_save({"a": torch.zeros(1).expand(2**20, 2**10)}))
    with pytest.raises(ValueError, match=r"w.pt: .*its tensors together are larger than the file"):
        read_clip_file(tmp_path / "w.pt", "ViT-B-32")


def test_a_compressed_file_of_weights_is_refused(tmp_path):
    whole = torch_save({"a": torch.zeros(1 << 20)})
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(tmp_path / "w.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"w.pt: .*compressed or encrypted zip"):
        read_clip_file(tmp_path / "w.pt", "ViT-B-32")


def test_a_clip_of_numpy_unpacks_to_little_more_than_the_file(tmp_path):
    zip_of(tmp_path / "w.npz", "a.npy", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"w.npz: not a file of weights: it unpacks to 1,048,576 bytes"):
        read_clip_file(tmp_path / "w.npz", "ViT-B-32")


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size.ljust(12, b"\0")
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 32)
    return bytes(block)


@pytest.mark.parametrize(
    "data",
    [
        header("a.png", b"0") + header("b.png", b"\xff" * 12) + bytes(1024),  # of a negative size
        header("x", b"\x80" + b"\xff" * 11, b"L") + bytes(1024),  # a name of 2^87 bytes
        header("x", b"0", b"L") * 3000 + bytes(1024),  # a name of a name of a name
    ],
    ids=["negative", "huge", "nested"],
)
def test_damaged_sizes_in_a_tar_are_one_line(data, tmp_path):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"a.tar: not a readable, uncompressed tar") as caught:
        open_files(tmp_path / "a.tar").read("b.png")
    assert "\n" not in str(caught.value)


def test_a_range_of_shards_has_an_end():
    with pytest.raises(ValueError, match="more than 100,000 shards"):
        expand("a-{0..999999999999}.tar")
    with pytest.raises(ValueError, match="more than 100,000 shards"):
        expand("{0..999}-{0..999}.tar")


def test_a_list_of_texts_has_a_limit(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\n" * (LARGEST_LIST // 2) + b"b")
    with pytest.raises(ValueError, match=r"a.txt is larger than 8 MB; give a shorter list of texts"):
        read_texts(tmp_path / "a.txt")


def test_long_words_take_no_time_and_change_no_usual_text(tiny_clip):
    word = "".join(random.Random(0).choices(string.ascii_lowercase, k=1_000_000))
    embeddings = tiny_clip.encode_texts([word, word[:5000], f"{word[:3000]} a"])
    assert tiny_clip.is_cut(word)
    torch.testing.assert_close(embeddings, embeddings[:1].expand(3, -1))
    for text in ("a hat " * 1000, " " * 5000 + "a red hat", "a\n\tred   hat", "ein Hut"):
        tokens = tiny_clip._tokenize([text], 16)
        assert torch.equal(tokens, tiny_clip._tokenizer([text], context_length=16)), text


# ---- values


@pytest.mark.parametrize(
    ("embeddings", "dataset"),
    [
        (torch.full((1, 16), torch.nan), {}),
        (torch.zeros(1, 7), {}),
        (torch.zeros(1), {}),
        (torch.zeros(1, 16), []),
        (torch.zeros(1, 16), {"clip": ["x"]}),
    ],
)
def test_odd_embeddings_of_a_prepared_zip_are_computed_again(
    embeddings, dataset, tiny_clip, tmp_path, picture
):
    about: object = dataset
    if isinstance(dataset, dict):
        records = [{"file": "0.png", "captions": [{"text": "a dog"}]}]
        about = {"resolution": 16, "pictures": records, "clip": tiny_clip.fingerprint(), **dataset}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(picture, "0.png")
        archive.writestr("dataset.json", json.dumps(about))
        archive.writestr("embeddings.safetensors", save({"images": embeddings, "texts": embeddings.clone()}))
    found = open_captioned([str(tmp_path / "a.zip")], 16).embed(tiny_clip, tmp_path / "cache")
    assert found.images.shape == (1, 16)
    assert found.images.norm().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"img_resolution": 65536, "channel_max": 65536, "channel_base": 2**31}, "weights do not fit"),
        ({"unknown": 1}, "its header does not describe a generator"),
        ([1], "its header does not tell the generator's shape"),
    ],
)
def test_a_trainings_state_is_compared_before_it_is_made(shape, message, tmp_path):
    from conftest import make_generator

    generator: Generator = make_generator()
    known = vars(generator.config)
    config = {"generator": {**known, **shape} if isinstance(shape, dict) else shape}
    save_tensors(tmp_path / "s.safetensors", pack(generator=generator), {"config": config})
    with pytest.raises(ValueError, match=f"s.safetensors: {message}"):
        from_file(tmp_path / "s.safetensors", None, 16)
