"""Videos (MP4, GIF) written frame by frame; needs the extra `video`."""

import os
from collections.abc import Generator, Iterable
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from clip2gan.images.xmp import GENERATED, make_packet
from stylegan2.faults import WriteError
from stylegan2.files import atomic_path

VIDEO_SUFFIXES = (".gif", ".mp4")
XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # the UUID of an MP4's XMP
LEAST_FRAME = 256  # pixels of the longer side
# A palette of its own for each frame; one for all would need all of them first.
_GIF_FILTER = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"


def check_video(path: Path) -> None:
    """Raise ValueError, before anything is computed, for a video that could not be written."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path}: videos are written as {' or '.join(VIDEO_SUFFIXES)}")
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise ValueError("videos need imageio: pip install 'clip2gan[video]'") from error


def write_video(
    path: Path,
    frames: Iterable[Image.Image],
    frames_per_second: int,
    *,
    source_type: str = GENERATED,
) -> None:
    """Write RGB frames of one size as MP4 (H.264) or as a GIF that repeats, by the suffix of `path`.

    Its XMP gives the `source_type` (see `images.xmp`). Small frames are enlarged. One frame at a time is in
    memory; the file appears whole or not at all. Raises ValueError as `check_video` does, and where there are
    no frames.
    """
    check_video(path)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path}: a video needs at least one frame")
    scale = max(1, -(-LEAST_FRAME // max(first.size)))
    # H.264 wants even sides.
    width, height = (side * scale // 2 * 2 for side in first.size)
    with atomic_path(path) as temporary:
        writer, count = _open_writer(temporary, (width, height), frames_per_second), 0
        writer.send(None)
        try:
            for frame in chain([first], frames):
                resized = frame.resize((width, height), Image.Resampling.NEAREST)
                _send(writer, np.ascontiguousarray(resized), path)
                count += 1
        finally:
            writer.close()
        _check_whole(temporary, count, path)
        _add_packet(temporary, make_packet(source_type))


def _add_packet(path: Path, packet: bytes) -> None:
    """Put an XMP packet where its specification (part 3) has it: a box of its own, or an extension block."""
    with path.open("r+b") as file:
        if path.suffix.lower() == ".gif":
            file.seek(-1, os.SEEK_END)  # the trailer, which is written again
            # The packet is no chain of blocks; a reader of blocks that falls into it lands on the zeros.
            landing = bytes([1, *range(255, -1, -1), 0])
            file.write(b"\x21\xff\x0bXMP DataXMP" + packet + landing + b";")
        else:
            file.seek(0, os.SEEK_END)
            file.write((24 + len(packet)).to_bytes(4, "big") + b"uuid" + XMP_BOX + packet)


def _send(writer: Generator[None, np.ndarray | None, None], frame: np.ndarray, path: Path) -> None:
    """Give ffmpeg a frame. Raises OSError, with the file, where it has ended, as on a full disk."""
    try:
        writer.send(frame)
    except OSError as error:
        raise _video_error(path) from error


def _check_whole(written: Path, count: int, path: Path) -> None:
    """Raise OSError if a video has fewer frames than it was given: ffmpeg does not tell how it ended."""
    from imageio_ffmpeg import count_frames_and_secs

    try:
        found, _ = count_frames_and_secs(str(written))
    except (RuntimeError, OSError) as error:
        raise _video_error(path) from error
    if (found or 0) < count:
        raise _video_error(path)


def _video_error(path: Path) -> OSError:
    return WriteError(
        f"{path}: cannot be written (ffmpeg stopped too early); free some space, or write to another disk"
    )


def _open_writer(
    path: Path, size: tuple[int, int], frames_per_second: int
) -> Generator[None, np.ndarray | None, None]:
    from imageio_ffmpeg import write_frames

    is_gif = path.suffix.lower() == ".gif"
    return write_frames(
        str(path),
        size,
        fps=frames_per_second,
        codec="gif" if is_gif else "libx264",
        pix_fmt_out="pal8" if is_gif else "yuv420p",
        quality=7,
        macro_block_size=1,
        output_params=["-filter_complex", _GIF_FILTER, "-loop", "0"] if is_gif else [],
    )
