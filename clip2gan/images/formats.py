"""Which files are pictures: by suffix where it is known, by their first bytes where it is not."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

HEAD = 256  # bytes that tell what a file is
HEIC_REMEDY = "pip install 'clip2gan[heic]' reads them, or export them as JPEG"
HEIC_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
TEXT_SUFFIXES = frozenset({".txt", ".json", ".jsonl", ".csv", ".tsv", ".token", ".caption"})
HIDDEN_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})

# Pillow opens these by another program (Ghostscript), by packages of their own, or without a limit of memory.
_NOT_OPENED = frozenset(
    {"BUFR", "EPS", "FITS", "FPX", "GRIB", "HDF5", "IPTC", "MCIDAS", "MIC", "MPEG", "WMF"}
)

# First bytes of pictures that nothing else begins with.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"8BPS\x00\x01", "PSD"),
    (b"qoif", "QOI"),
)
# Suffixes of formats all of whose files begin so.
_TOLD_BY_MAGIC = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

# First bytes of what is often saved under a picture's name by mistake.
_NOT_PICTURES = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing; export it as PNG first"),
    (b"<?xml", "an XML file"),
    (b"%!ps", "a PostScript drawing; export it as PNG first"),
    (b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the file itself"),
    (b"%pdf", "a PDF"),
    (b"pk\x03\x04", "a zip archive"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"{", "JSON"),
)


@cache
def picture_formats() -> tuple[str, ...]:
    """The names of the formats that are read, as Pillow calls them, in the order it looks for them.

    HEIC and HEIF are among them where pillow-heif (the extra `heic`) is installed.
    """
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found]
    except ImportError:
        pass
    else:
        register_heif_opener()
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_OPENED)


@cache
def picture_suffixes() -> frozenset[str]:
    """The suffixes (".png", ...) of the formats that are read, from Pillow's own list."""
    formats = {*picture_formats(), "MPO"}  # MPO, several JPEGs in one file, is opened as JPEG
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def is_hidden(name: str) -> bool:
    """Whether a relative path names a hidden file, or lies in a folder that a system or program keeps.

    >>> is_hidden(".ipynb_checkpoints/a.png"), is_hidden("@eaDir/a.png"), is_hidden("./a.png")
    (True, True, False)
    """
    parts = PurePosixPath(name).parts
    return any(part in HIDDEN_FOLDERS or (part.startswith(".") and part not in (".", "..")) for part in parts)


def suffix_of(name: str) -> str:
    """The suffix of a name in lower case, with its dot; "" where it has none."""
    return PurePosixPath(name).suffix.lower()


def format_of(head: bytes) -> str | None:
    """The format of the picture that begins with these bytes, where they leave no doubt.

    "HEIF" may be one that Pillow alone does not read.
    """
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in (8, *range(16, len(head) - 3, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        return "HEIF" if head[8:12] in _HEIC_BRANDS else None
    if (
        head[:2] == b"BM"
        and len(head) >= 26
        and head[14:18] in (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
    ):
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456fF" and head[2:3] in b"\n\r\t " and head[3:4].isdigit():
        return "PPM"
    return None


def is_picture(name: str, read_head: Callable[[], bytes]) -> bool:
    """Whether a file is a picture to be read: by its suffix, or by its first bytes where that tells nothing.

    Args:
        name: of the file.
        read_head: gives its first `HEAD` bytes.
    """
    suffix = suffix_of(name)
    if suffix in picture_suffixes():
        return True
    if suffix in TEXT_SUFFIXES or suffix in HEIC_SUFFIXES:
        return False
    return format_of(read_head()) in picture_formats()


def picture_files(folder: str | Path) -> list[Path]:
    """The picture files directly in `folder`, by name, without hidden ones (such as macOS's `._a.png`).

    Raises ValueError when there are none.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.is_file() and not is_hidden(path.name))
    found = [path for path in files if is_picture(path.name, lambda path=path: _head(path))]
    if not found:
        others = f"; it has {summarise_left_out(path.name for path in files)}" if files else ""
        raise ValueError(f"{folder}: no pictures in this folder{others}; give another folder")
    return found


def why_not_picture(name: str, head: bytes) -> str | None:
    """Why a file of this name that begins with `head` cannot be a picture; None where it may be one."""
    if not head:
        return "an empty file, not a picture"
    found = format_of(head)
    begins_so = suffix_of(name) in _TOLD_BY_MAGIC
    if (found is None and begins_so) or (found is not None and found not in picture_formats()):
        return f"not a picture: {describe_not_picture(head)}"
    return None


def describe_not_picture(head: bytes) -> str:
    """In words, what begins with these bytes and is no picture that can be read."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for prefix, name in _NOT_PICTURES:
        if start.startswith(prefix):
            return f"it looks like {name}"
    found = format_of(head)
    if found == "HEIF":
        return f"it looks like HEIC; {HEIC_REMEDY}"
    if found == "TIFF":
        return "a TIFF of a kind that is not read (colours of 32 bits or float, say); save it with 8 bits"
    if found is not None:
        return f"it looks like {found}, of a kind that cannot be read"
    if head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"RIFF")):
        return "it looks like a video; take a frame of it"
    try:
        head[:200].decode("ascii")
    except UnicodeDecodeError:
        return "no format that Pillow knows"
    return "it looks like text"


def summarise_left_out(names: Iterable[str], examples: int = 0) -> str:
    """How many files of each suffix, with the remedy where there is one: "2 .heic (...), 1 .mp4".

    With `examples` it names up to so many of them.
    """
    by_suffix: dict[str, list[str]] = {}
    for name in names:
        by_suffix.setdefault(suffix_of(name), []).append(name)
    parts = []
    for suffix, found in sorted(by_suffix.items(), key=lambda item: (-len(item[1]), item[0])):
        remedies = [_shown(found, examples)] if examples else []
        remedies += [HEIC_REMEDY] if suffix in HEIC_SUFFIXES else []
        more = f" ({'; '.join(remedies)})" if remedies else ""
        parts.append(f"{len(found)} {suffix or 'without a suffix'}{more}")
    return ", ".join(parts)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:  # one that cannot be read is no picture to us
        return b""


def _shown(names: Sequence[str], examples: int) -> str:
    return ", ".join(names[:examples]) + (", ..." if len(names) > examples else "")
