"""Captions in JSON: objects that name a picture and its captions, alone or in known collections."""

from collections.abc import Iterator, Mapping
from typing import Any

PICTURE_KEYS = (
    *("file", "file_name", "image", "path", "filepath", "filename", "img", "image_name", "image_path"),
    *("picture", "image_file", "image_id"),
)
CAPTION_KEYS = (
    *("captions", "caption", "text", "texts", "sentences", "description", "comment", "sentence", "title"),
    "prompt",
)


def plain_key(name: str) -> str:
    """A column's or key's name without case, "_", "-" and spaces: "Image Name" is "image_name"."""
    return "".join(char for char in name.lower() if char not in "_- \t")


def value_of(record: Any, keys: tuple[str, ...]) -> Any:
    """The value of the first of `keys` that an object has; None where it has none, or is no object."""
    if not isinstance(record, Mapping):
        return None
    plain = {plain_key(key): value for key, value in record.items() if isinstance(key, str)}
    return next((plain[plain_key(key)] for key in keys if plain_key(key) in plain), None)


def picture_of(record: Any) -> str | None:
    """What an object calls its picture; a number is the name without a suffix."""
    found = value_of(record, PICTURE_KEYS)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    return found if isinstance(found, str) and found.strip() else None


def texts_of(record: Any) -> list[str]:
    """The captions of an object: a string, or a list of strings or of objects with a "text"."""
    found = value_of(record, CAPTION_KEYS)
    entries = found if isinstance(found, list) else [found]
    texts = [
        value_of(entry, ("text", "raw", "caption")) if isinstance(entry, Mapping) else entry
        for entry in entries
    ]
    return [text for text in texts if isinstance(text, str)]


def collection_rows(content: Any) -> Iterator[tuple[str, str]]:
    """(picture, caption) of COCO's captions_*.json, Karpathy's dataset_*.json, or a list of objects."""
    if isinstance(content, list):
        for record in content:
            picture = picture_of(record)
            if picture is not None:
                yield from ((picture, text) for text in texts_of(record))
        return
    if not isinstance(content, Mapping) or not isinstance(content.get("images"), list):
        return
    names: dict[str, str] = {}  # by id: some tools write it as text in one place and as a number in another
    for image in content["images"]:
        if not isinstance(image, Mapping):
            continue
        name = image.get("file_name", image.get("filename"))
        if not isinstance(name, str):
            continue
        if isinstance(image.get("filepath"), str):  # Karpathy's: the folder
            name = f"{image['filepath']}/{name}"
        if isinstance(image.get("id"), (int, str)):
            names[str(image["id"])] = name
        yield from ((name, text) for text in texts_of(image))
    annotations = content.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else []:
        if isinstance(annotation, Mapping) and isinstance(annotation.get("caption"), str):
            image_id = annotation.get("image_id")
            if isinstance(image_id, (int, str)):
                yield names.get(str(image_id), str(image_id)), annotation["caption"]
