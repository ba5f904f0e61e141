"""Names of files: those that files give are plain relative names inside a folder, or they are refused."""

from pathlib import Path

LONGEST_NAME = 255  # bytes of one part, as common file systems have it
MOST_FOLDERS = 32
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}


def check_plain_name(name: object, nested: bool = False) -> str:
    """`name`, if it is that of a file inside a folder, on every system.

    Args:
        name: from a file that may be hostile.
        nested: whether it may lie in folders of its own ("clip/open_clip_model.safetensors").

    Raises ValueError for whatever else: an absolute path, "..", a drive, control characters, another type.
    """
    if isinstance(name, str) and _is_plain(name, nested):
        return name
    raise ValueError(f"{name!r:.100} is not the name of a file in this folder")


def check_utf8_path(path: str | Path) -> None:
    """Raise ValueError for a path that is not UTF-8, as Linux allows: safetensors opens no file there."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{path}: safetensors files are read only where the path is UTF-8; rename it"
        ) from None


def file_inside(folder: str | Path, name: object, nested: bool = True) -> Path:
    """The path of `name` in `folder`, which no link leads out of.

    A snapshot of the Hugging Face Hub keeps its files as links into the blobs beside it; these are inside.

    Raises ValueError, with the folder.
    """
    folder = Path(folder)
    try:
        path = folder / check_plain_name(name, nested)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    try:
        root, place = folder.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise ValueError(f"{folder}: {name!r:.100} is a link to itself; put the file itself there") from error
    is_snapshot = root.parent.name == "snapshots" and (root.parents[1] / "blobs").is_dir()
    if not place.is_relative_to(root.parents[1] if is_snapshot else root):
        raise ValueError(f"{folder}: {name!r:.100} is a link out of this folder; put the file itself there")
    return path


def _is_plain(name: str, nested: bool) -> bool:
    parts = name.split("/")
    if len(parts) > (MOST_FOLDERS if nested else 1):
        return False
    return all(_is_plain_part(part) for part in parts)


def _is_plain_part(part: str) -> bool:
    try:
        length = len(part.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return (
        0 < length <= LONGEST_NAME
        and part.strip(" .") != ""
        and not part.endswith((" ", "."))
        and not any(character in '\\:*?"<>|' or not character.isprintable() for character in part)
        and part.split(".", maxsplit=1)[0].lower() not in _RESERVED
    )
