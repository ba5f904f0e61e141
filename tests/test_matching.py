"""Captions go to the pictures that they are of, and to no others."""

import json
import unicodedata
from pathlib import Path

import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2gan.data.captions import read_captions
from clip2gan.data.files import open_files
from clip2gan.data.lines import read_texts, split_lines
from clip2gan.data.matching import BASE, ENDING, WHOLE, PictureNames, parts_of

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"  # that end no line


def lay(folder: Path, pictures: list[str], texts: dict[str, str]) -> Path:
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


Found = dict[str, list[str]]


def captions_of(folder: Path, pictures: list[str], texts: dict[str, str]) -> Found:
    return read_captions(open_files(lay(folder, pictures, texts)), allow_missing=True).of


def table(*names: str) -> str:
    return "file_name,caption\n" + "".join(f"{name},this is {name}\n" for name in names)


def test_a_caption_of_another_folder_is_no_caption_of_the_only_picture_of_that_name(tmp_path: Path) -> None:
    assert captions_of(tmp_path / "a", ["val/0.jpg"], {"t.csv": table("train/0.jpg", "val/0.jpg")}) == {
        "val/0.jpg": ["this is val/0.jpg"]
    }
    texts = {"text/train/0.txt": "a red car", "val/0.txt": "a blue boat"}
    assert captions_of(tmp_path / "b", ["val/0.jpg"], texts) == {"val/0.jpg": ["a blue boat"]}
    texts = {"text/train/0.jpg.txt": "a red car", "text/val/0.txt": "a blue boat"}
    assert captions_of(tmp_path / "c", ["val/0.jpg"], texts) == {"val/0.jpg": ["a blue boat"]}
    texts = {"text/train/0.txt": "a red car", "t.csv": table("val/0.jpg")}  # all caption files together
    assert captions_of(tmp_path / "d", ["x/0.jpg"], texts) == {}


@pytest.mark.parametrize(
    "written", ["{}", "./{}", "/home/x/data/{}", "C:\\data\\{}", "data/../{}", "images/{}", "{} "]
)
def test_names_are_found_however_their_path_is_written(tmp_path: Path, written: str) -> None:
    pictures = [f"{part}/{number}.jpg" for part in ("train", "val") for number in range(2)]
    rows = "".join(f"{written.format(name)},of {name}\n" for name in pictures)
    assert captions_of(tmp_path, pictures, {"t.csv": f"image,caption\n{rows}"}) == {
        name: [f"of {name}"] for name in pictures
    }


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
@pytest.mark.parametrize("layout", ["table", "pair", "jsonl"])
def test_letters_composed_or_not_are_the_same(tmp_path: Path, forms: tuple[str, str], layout: str) -> None:
    on_disk, named = (unicodedata.normalize(form, "café/Zürich") for form in forms)
    texts = {
        "table": {"t.csv": table(f"{named}.jpg")},
        "pair": {f"{named}.txt": f"this is {named}.jpg"},
        "jsonl": {"m.jsonl": json.dumps({"file_name": f"{named}.jpg", "text": f"this is {named}.jpg"})},
    }[layout]
    assert captions_of(tmp_path, [f"{on_disk}.jpg"], texts) == {f"{on_disk}.jpg": [f"this is {named}.jpg"]}


def test_how_pictures_were_found_is_told(tmp_path: Path, run: Run) -> None:
    names = ["a/0.jpg", "a/1.jpg", "b/2.jpg"]
    lay(tmp_path / "set", names, {"t.csv": table("a/0.jpg", "there/a/1.jpg", "elsewhere/2.jpg")})
    captions = read_captions(open_files(tmp_path / "set"))
    assert captions.matched == {WHOLE: 1, ENDING: 1, BASE: 1}
    code, _, err = run("prepare", tmp_path / "set", tmp_path / "out.zip", "--resolution", 8)
    assert code == 0
    assert (
        "captions matched with pictures: 1 by their path, 1 by the end of their path, "
        "1 by their file name alone\n" in err
    )


def test_a_table_of_pictures_that_are_mostly_not_there_is_refused(tmp_path: Path, run: Run) -> None:
    rows = table("0.jpg", "there/5.jpg", "there/6.jpg")
    folder = lay(tmp_path / "set", ["0.jpg"], {"t.csv": rows})
    arguments = ["prepare", folder, tmp_path / "out.zip", "--resolution", 8]
    code, _, err = run(*arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert "t.csv: only 1 of the 3 pictures that it names are found (there/5.jpg is not)" in err
    assert "--allow-missing" in err
    assert not (tmp_path / "out.zip").exists()
    code, out, _ = run(*arguments, "--allow-missing")
    assert code == 0
    assert "1 captions" in out
    clip = ["--condition", "clip", "--clip", "avatars", "--dry-run", "--out", tmp_path / "run"]
    code, _, err = run("train-gan", "--data", folder, *clip)
    assert (code, "--allow-missing" in err) == (2, True)


def test_annotations_of_a_collection_may_name_more_than_is_there(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number:03d}.jpg"} for number in range(9)]
    annotations = [{"id": 100 + n, "image_id": n % 9, "caption": f"thing {n}"} for n in range(18)]
    coco = {"images": images, "annotations": annotations}
    split = [
        {"filepath": "val", "filename": f"{number}.jpg", "sentences": [{"raw": f"a {number}"}, {"raw": "b"}]}
        for number in range(9)
    ]
    texts = {"captions_val.json": json.dumps(coco), "dataset_coco.json": json.dumps({"images": split})}
    captions = read_captions(open_files(lay(tmp_path, ["x/001.jpg", "val/3.jpg"], texts)))
    assert captions.of == {"x/001.jpg": ["thing 1", "thing 10"], "val/3.jpg": ["a 3", "b"]}
    assert len(captions.skipped["captions of missing pictures"]) == 16 + 16


@pytest.mark.parametrize("mark", SEPARATORS)
def test_a_line_ends_where_editors_end_it(tmp_path: Path, mark: str) -> None:
    caption = f"a dog{mark}in the snow"
    record = json.dumps({"file_name": "0.jpg", "text": caption}, ensure_ascii=False)
    texts = {
        "m.jsonl": record + "\n",
        "1.txt": f"{caption}\r\n",
        "t.csv": f"image,caption\r2.jpg,{caption}\r",
    }
    found = captions_of(tmp_path, ["0.jpg", "1.jpg", "2.jpg"], texts)
    assert found == {f"{number}.jpg": ["a dog in the snow"] for number in range(3)}
    (tmp_path / "prompts.txt").write_text(f"\ufeff{caption}\n\na cat\n", encoding="utf-8")
    assert read_texts(tmp_path / "prompts.txt") == [caption, "a cat"]


LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))


@given(st.lists(LINE), st.sampled_from(["\n", "\r\n", "\r"]))
def test_lines_come_back(lines: list[str], end: str) -> None:
    assert split_lines("".join(line + end for line in lines)) == lines


def test_a_quoted_caption_may_have_several_lines(tmp_path: Path) -> None:
    text = 'image,caption\n0.jpg,"a dog,\nrunning"\n1.jpg,"a ""big"" cat"\n'
    captions = read_captions(open_files(lay(tmp_path, ["0.jpg", "1.jpg"], {"t.csv": text})))
    assert captions.of == {"0.jpg": ["a dog, running"], "1.jpg": ['a "big" cat']}
    assert captions.notes == []


@pytest.mark.parametrize("opened", ['"a dog', 'a "dog'])
def test_a_damaged_quote_costs_no_row_and_is_said(tmp_path: Path, opened: str) -> None:
    text = f'image,caption\n0.jpg,{opened}\n1.jpg,"a cat"\n2.jpg,a cow\n'
    captions = read_captions(open_files(lay(tmp_path, ["0.jpg", "1.jpg", "2.jpg"], {"t.csv": text})))
    assert {name: caption[0].replace('"', "") for name, caption in captions.of.items()} == {
        "0.jpg": "a dog",
        "1.jpg": "a cat",
        "2.jpg": "a cow",
    }
    if opened.startswith('"'):
        assert captions.notes == ["t.csv: a quote is damaged, so each line was read by itself"]


@pytest.mark.parametrize(
    "header",
    ["Image Name\tCaption", "filepath\ttitle", "image_id\tprompt", "IMAGE-PATH\tText"],
)
def test_columns_are_known_by_many_names(tmp_path: Path, header: str) -> None:
    assert captions_of(tmp_path, ["0.jpg"], {"t.tsv": f"{header}\n0\ta dog\n"}) == {"0.jpg": ["a dog"]}


def test_a_table_of_other_columns_is_told_which_are_known(tmp_path: Path) -> None:
    captions = read_captions(open_files(lay(tmp_path, ["0.jpg"], {"t.csv": "where,what\n0,a dog\n"})))
    (line,) = captions.summary()
    assert "tables without columns of pictures (file, file_name, image" in line
    assert "filepath" in line
    assert line.endswith(": t.csv")


NAMES = st.lists(st.sampled_from(["a", "b", "train", "val"]), max_size=3).map(
    lambda folders: "/".join([*folders, "0.jpg"])
)


@given(st.sets(NAMES, min_size=1), st.lists(NAMES, min_size=1, max_size=6))
def test_a_caption_goes_to_the_picture_that_shares_most(pictures: set[str], named: list[str]) -> None:
    names = PictureNames(sorted(pictures))
    for path in named:
        names.add(path, "t.csv")

    def shared(one: str, other: str) -> int:
        equal = [x == y for x, y in zip(parts_of(one)[::-1], parts_of(other)[::-1], strict=False)]
        return [*equal, False].index(False)

    for path in named:
        found = names.find(path, "t.csv")
        if path in pictures:
            assert found == path
        elif found is not None:
            most = shared(found, path)
            assert all(shared(other, path) < most for other in pictures - {found})
            for other in named:  # no other path means this picture as well, unless it is the same path
                if shared(other, found) >= most:
                    assert other.endswith(path) or path.endswith(other)


def test_many_pictures_of_one_base_name_take_no_longer_each() -> None:
    pictures = [f"{number}/0.jpg" for number in range(20_000)]
    names = PictureNames(pictures)
    for name in pictures:
        names.add(f"moved/{name}", "t.csv")
    assert [names.find(f"moved/{name}", "t.csv") for name in pictures] == pictures
    assert names.matched == {ENDING: 20_000}
