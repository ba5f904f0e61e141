"""clip2gan.video: frames go in one by one, whole files come out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from clip2gan.editing.output import there_and_back
from clip2gan.video import check_video, write_video

pytest.importorskip("imageio_ffmpeg")


def frames(count: int, size: tuple[int, int] = (300, 256)) -> Iterator[Image.Image]:
    """A gradient that moves down."""
    gradient = Image.linear_gradient("L").resize(size).convert("RGB")
    for number in range(count):
        yield ImageChops.offset(gradient, 0, 5 * number)


@pytest.mark.parametrize("name", ["video.mp4", "video.gif", "VIDEO.GIF"])
def test_every_frame_is_in_the_video(tmp_path: Path, name: str) -> None:
    import imageio.v3 as imageio

    path = tmp_path / name
    write_video(path, frames(7), 10)
    plugin = "pillow" if path.suffix.lower() == ".gif" else "FFMPEG"
    shown = imageio.imread(path, plugin=plugin, extension=path.suffix.lower())
    assert shown.shape == (7, 256, 300, 3)
    for given, found in zip(frames(7), shown, strict=True):
        difference = ImageChops.difference(given, Image.fromarray(found))
        assert max(ImageStat.Stat(difference).mean) <= 4
    again = tmp_path / f"again{path.suffix}"
    write_video(again, frames(7), 10)
    assert again.read_bytes() == path.read_bytes()


def test_a_gif_repeats_at_its_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "video.gif", frames(3), 10)
    with Image.open(tmp_path / "video.gif") as video:
        assert video.info["loop"] == 0
        assert video.info["duration"] == 100


def test_small_and_odd_frames(tmp_path: Path) -> None:
    for size, shown in (((32, 32), (256, 256)), ((301, 7), (300, 6))):
        write_video(tmp_path / "video.gif", frames(2, size), 12)
        with Image.open(tmp_path / "video.gif") as video:
            assert video.size == shown


def test_nothing_is_left_of_a_video_that_broke_off(tmp_path: Path) -> None:
    def breaking() -> Iterator[Image.Image]:
        yield from frames(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "video.mp4", breaking(), 12)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "video.mp4", iter([]), 12)
    assert not list(tmp_path.iterdir())


def test_only_one_frame_at_a_time_is_held(tmp_path: Path) -> None:
    asked = []

    def counted() -> Iterator[Image.Image]:
        for number, frame in enumerate(frames(20, (64, 64))):
            asked.append(number)
            yield frame
            assert len(asked) == number + 1  # none was taken ahead

    write_video(tmp_path / "video.mp4", counted(), 12)
    assert len(asked) == 20


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"videos are written as \.gif or \.mp4"):
        check_video(Path("video.avi"))


def test_there_and_back() -> None:
    shown = [*there_and_back(frames(3))]
    assert len(shown) == 6
    assert [frame.tobytes() for frame in shown[3:]] == [frame.tobytes() for frame in shown[2::-1]]
