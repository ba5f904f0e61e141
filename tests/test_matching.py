"""Captions go to the pictures that they are of, and to no others."""

import json
import time
import tracemalloc
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2gan.data.captions import read_captions
from clip2gan.data.files import open_files
from clip2gan.data.lines import read_texts, split_lines
from clip2gan.data.matching import BASE, ENDING, WHOLE, Claims, split_path

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
    "written",
    [
        *("{}", "./{}", "/home/x/data/{}", "C:\\data\\{}", "data/../{}", "images/{}", "{} "),
        *("file:///data/{}", "https://example.org/{}", "././{}", "..\\set\\{}"),
    ],
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
    on_disk, named = (unicodedata.normalize(form, "café/Zürich") for form in forms)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "m.jsonl", "list.json"])
def test_so_is_a_list_in_any_layout(name: str, tmp_path: Path) -> None:
    records = [{"file_name": f"{number}.jpg", "text": f"thing {number}"} for number in range(5)]
    lines = {
        ".csv": table(*(record["file_name"] for record in records)),
        ".tsv": table(*(record["file_name"] for record in records)).replace(",", "\t"),
        ".jsonl": "".join(f"{json.dumps(record)}\n" for record in records),
        ".json": json.dumps(records),
    }[Path(name).suffix]
    files = open_files(lay(tmp_path, ["0.jpg", "1.jpg"], {name: lines}))
    with pytest.raises(ValueError, match=f"{name}: only 2 of the 5 pictures that it names are found"):
        read_captions(files)
    assert set(read_captions(files, allow_missing=True).of) == {"0.jpg", "1.jpg"}
    lay(tmp_path, ["2.jpg"], {})  # more than half
    assert len(read_captions(open_files(tmp_path)).of) == 3


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.jsonl", '{"where": "0.jpg", "what": "a dog"}\n'),
        ("m.jsonl", '{"file_name": "0.jpg", "what": "a dog"}\n'),
        ("list.json", '[{"where": "0.jpg", "what": "a dog"}]'),
        ("map.json", '{"0.jpg": "a dog"}'),
    ],
)
def test_json_of_other_keys_is_told_which_are_known(name: str, text: str, tmp_path: Path) -> None:
    captions = read_captions(open_files(lay(tmp_path, ["0.jpg"], {name: text})))
    line = captions.summary()[-1]
    assert "files of JSON without objects of pictures (file, file_name, image" in line
    assert "captions (captions, caption, text" in line
    assert line.endswith(f": {name}")


NAMES = st.lists(st.sampled_from(["a", "b", "train", "val"]), max_size=3).map(
    lambda folders: "/".join([*folders, "0.jpg"])
)


def match(pictures: Iterable[str], named: Iterable[tuple[str, str]]) -> list[str | None]:
    """The picture of each (path, file that names it)."""
    claims = Claims(pictures)
    found = [claims.add(path, where) for path, where in named]
    claims.settle()
    return [claim and claim.picture for claim in found]


def match_list(pictures: Iterable[str], paths: Iterable[str]) -> list[str | None]:
    return match(pictures, [(path, "t.csv") for path in paths])


@given(st.sets(NAMES, min_size=1), st.lists(NAMES, min_size=1, max_size=6))
def test_a_caption_goes_to_the_picture_that_shares_most(pictures: set[str], named: list[str]) -> None:
    def shared(one: str, other: str) -> int:
        parts = [(*split_path(path)[0], split_path(path)[1]) for path in (one, other)]
        equal = [x == y for x, y in zip(parts[0][::-1], parts[1][::-1], strict=False)]
        return [*equal, False].index(False)

    for path, found in zip(named, match_list(sorted(pictures), named), strict=True):
        if path in pictures:
            assert found == path
        elif found is not None:
            most = shared(found, path)
            assert all(shared(other, path) < most for other in pictures - {found})
            for other in named:  # no other path means this picture as well, unless it is the same path
                if shared(other, found) >= most:
                    assert other.endswith(path) or path.endswith(other)


@pytest.mark.parametrize(
    ("pictures", "paths", "expected"),
    [
        (["Images/dog.jpg"], ["dog.jpg"], ["Images/dog.jpg"]),
        (["dog.jpg"], ["/kaggle/input/flickr8k/Images/dog.jpg"], ["dog.jpg"]),
        (["dog.png", "cat.v2.jpg"], ["dog.jpg", "cat.v2"], ["dog.png", "cat.v2.jpg"]),
        (["a/0.jpg", "a/0.png"], ["/x/a/0.png", "/x/a/0.jpg"], ["a/0.png", "a/0.jpg"]),
        (["a/0.jpg", "b/0.png"], ["x/a/0.png", "b/0.png"], ["a/0.jpg", "b/0.png"]),
        (["0.jpg", "a/0.png"], ["a/0.jpg", "0.png"], ["a/0.png", "0.jpg"]),
    ],
)
def test_a_moved_or_converted_picture_keeps_its_captions(
    pictures: list[str], paths: list[str], expected: list[str]
) -> None:
    assert match_list(pictures, paths) == expected


@pytest.mark.parametrize(
    ("pictures", "paths", "expected"),
    [
        # The picture that is named is not there; another of its name has a caption of its own.
        (["val/0.jpg"], ["train/0.jpg", "val/0.jpg"], [None, "val/0.jpg"]),
        (["set/val/0.jpg"], ["train/0.jpg", "val/0.jpg"], [None, "set/val/0.jpg"]),
        (["b/train/0.jpg"], ["a/train/0.jpg", "b/train/0.jpg"], [None, "b/train/0.jpg"]),
        (["train/0.jpg"], ["other/train/0.jpg", "train/0.jpg"], [None, "train/0.jpg"]),
        # Two are named, and it may be either.
        (["0.jpg"], ["train/0.jpg", "val/0.jpg"], [None, None]),
        (["images/0.jpg"], ["train/0.jpg", "val/0.jpg"], [None, None]),
        (["val/0.jpg"], ["a/val/0.jpg", "b/val/0.jpg"], [None, None]),
        # Several pictures share as much of the path.
        (["train/0.jpg", "val/0.jpg"], ["0.jpg", "test/0.jpg"], [None, None]),
        (["a.png", "a.jpg"], ["a", "a.png"], [None, "a.png"]),
        # The captions know the other picture's folder by its own name.
        (["val/0.jpg", "val/1.jpg"], ["val/0.jpg", "train/1.jpg"], ["val/0.jpg", None]),
        (["x/val/0.jpg", "x/val/1.jpg"], ["val/0.jpg", "train/1.jpg"], ["x/val/0.jpg", None]),
    ],
)
def test_a_caption_of_another_picture_is_given_to_none(
    pictures: list[str], paths: list[str], expected: list[str | None]
) -> None:
    assert match_list(pictures, paths) == expected
    assert match_list(pictures, paths[::-1]) == expected[::-1]


def test_a_list_in_a_folder_names_the_pictures_there() -> None:
    both = [("0.jpg", "train/captions.csv"), ("0.jpg", "val/captions.csv")]
    assert match(["train/0.jpg", "val/0.jpg"], both) == ["train/0.jpg", "val/0.jpg"]
    assert match(["val/0.jpg"], both) == [None, "val/0.jpg"]
    nested = ["train/images/0.jpg", "val/images/0.jpg"]
    assert match(nested, both) == nested
    mixed = [("0.jpg", "val/c.csv"), ("0.jpg", "c.csv")]
    assert match(["0.jpg", "val/0.jpg"], mixed) == ["val/0.jpg", "0.jpg"]
    # Flickr8k comes with two lists, neither of which lies beside the pictures.
    lists = [("0.jpg", "captions.txt"), ("0.jpg", "text/tokens.txt")]
    assert match(["Images/0.jpg"], lists) == ["Images/0.jpg"] * 2
    up = [("../images/0.jpg", "annotations/c.csv")]
    assert match(["images/0.jpg", "other/0.jpg"], up) == ["images/0.jpg"]


PAIRS = {
    "the longest end": (
        {"images/a/0.jpg": "a", "images/b/0.jpg": "b"},
        {"text/a/0.txt": "a", "text/b/0.txt": "b"},
    ),
    "two of one name": ({"images/0.jpg": None}, {"train/0.txt": "a car", "val/0.txt": "a boat"}),
    "whole names": ({"0.jpg": "a car", "1.jpg": "a boat"}, {"0.jpg.txt": "a car", "1.jpg.caption": "a boat"}),
    "two folders": ({"image/images/0.jpg": "a car"}, {"text/celeba-caption/0.txt": "a car"}),
    "JSON": ({"0.jpg": "a car"}, {"0.jpg.json": '{"caption": "a car"}'}),
    "a pair and a list": (
        {"val/0.jpg": "a boat"},
        {"text/train/0.txt": "a car", "captions.csv": "image,caption\nval/0.jpg,a boat\n"},
    ),
}


@pytest.mark.parametrize("pairs", PAIRS)
def test_pairs_follow_the_same_rule(pairs: str, tmp_path: Path) -> None:
    pictures, texts = PAIRS[pairs]
    expected = {name: [text] for name, text in pictures.items() if text}
    assert captions_of(tmp_path, list(pictures), texts) == expected


def test_many_pictures_of_one_base_name_take_no_longer_each() -> None:
    pictures = [f"{number}/0.jpg" for number in range(20_000)]
    wanted = [f"moved/{name}" for name in pictures]
    assert match_list(pictures, wanted) == pictures
    assert match_list(["0.jpg"], wanted) == [None] * len(wanted)


def test_cells_of_several_lines_and_raw_quotes_in_tables_of_tabs(tmp_path: Path) -> None:
    sound = 'image\tcaption\n0.jpg\t"a ""big"" dog,\nrunning"\n'
    raw = '1.jpg#0\t"No" says a sign\n2.jpg#0\ta 5" cat\n'
    captions = read_captions(
        open_files(lay(tmp_path, ["0.jpg", "1.jpg", "2.jpg"], {"t.tsv": sound, "u.token": raw}))
    )
    assert captions.of == {
        "0.jpg": ['a "big" dog, running'],
        "1.jpg": ['"No" says a sign'],
        "2.jpg": ['a 5" cat'],
    }
    assert captions.notes == []


@pytest.mark.parametrize("header", ["image,caption", "caption,image"])
def test_a_quote_that_swallows_rows_is_damaged(tmp_path: Path, header: str) -> None:
    rows = [("0.jpg", '"a dog'), ("1.jpg", "a cat"), ("2.jpg", 'a cow"')]
    text = "".join(",".join(row if header[0] == "i" else row[::-1]) + "\n" for row in rows)
    captions = read_captions(
        open_files(lay(tmp_path, [row[0] for row in rows], {"t.csv": f"{header}\n{text}"}))
    )
    assert {name: texts[0].strip('"') for name, texts in captions.of.items()} == {
        "0.jpg": "a dog",
        "1.jpg": "a cat",
        "2.jpg": "a cow",
    }
    assert len(captions.notes) == 1


def test_a_large_table_is_neither_slow_nor_held_as_a_whole(tmp_path: Path) -> None:
    rows = "".join(
        f'{number}.jpg,"a caption, of some words and number {number}"\n' for number in range(40_000)
    )
    files = open_files(lay(tmp_path, ["7.jpg"], {"t.csv": f"image,caption\n{rows}"}))
    tracemalloc.start()
    start = time.process_time()
    captions = read_captions(files, allow_missing=True)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert captions.of == {"7.jpg": ["a caption, of some words and number 7"]}
    assert captions.counts["captions of missing pictures"] == 39_999
    assert peak < 5 * len(rows)
    assert seconds < 30  # half a second, were memory not traced
