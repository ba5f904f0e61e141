"""Videos (MP4, GIF) written frame by frame; needs the extra `video`."""

from collections.abc import Generator, Iterable
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from stylegan2.faults import WriteError
from stylegan2.files import atomic_path

VIDEO_SUFFIXES = (".gif", ".mp4")
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


def write_video(path: Path, frames: Iterable[Image.Image], frames_per_second: int) -> None:
    """Write RGB frames of one size as MP4 (H.264) or as a GIF that repeats, by the suffix of `path`.

    Small frames are enlarged. One frame at a time is in memory; the file appears whole or not at all. Raises
    ValueError as `check_video` does, and where there are no frames.
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
