"""Where `clip2gan edit` writes: planned and checked before anything is computed."""

from collections.abc import Sequence
from pathlib import Path

import click

from clip2gan.cli._common import blame, claim_outputs, is_file_name

TABLE = "figures.csv"


class EditFiles:
    """Where edits go: nothing is written twice, and nothing over a file that is there without `force`.

    Attributes:
        has_sheets: whether each picture has a sheet.
        table: the table of a folder's figures, or None.
        video: a film of the edit, or None.
    """

    def __init__(
        self, paths: Sequence[Path], out: Path, *, folder: bool, sheet: bool, video: Path | None, force: bool
    ):
        """Plan and check them before anything is computed.

        Args:
            paths: pictures to edit.
            out: `--out`: FILE.png for one picture, or a folder.
            folder: whether a folder of pictures was given.
            sheet: whether each picture has a sheet.
            video: `--video`.
            force: `--force`.

        Raises click.BadParameter or click.ClickException where a file cannot be written.
        """
        self._pictures, self._force, self.has_sheets = _plan(paths, out, folder), force, sheet
        self._taken: dict[Path, str] = {}  # what is written -> what it is
        self.table, self.video = out / TABLE if folder else None, video
        with blame("--image"):
            for path in paths:
                self._claim(self.picture(path), path.name)
                if sheet:
                    self._claim(self.sheet(path), f"the sheet of {path.name}")
        extra = [place for place in (self.table, video) if place is not None]
        self._folder = None if out in self._taken else out
        claim_outputs([*self._taken, *extra], force, self._folder)
        if video is not None:
            _check_video(video, paths)

    def picture(self, path: Path, face: int = 0) -> Path:
        """The file of a picture's face, from 0 on; the first has the picture's own name."""
        place = self._pictures[path]
        return place if face == 0 else _beside(place, f"-face{face + 1}")

    def sheet(self, path: Path, face: int = 0) -> Path:
        """The file of its sheet."""
        place = _beside(self._pictures[path], "-sheet")
        return place if face == 0 else _beside(place, f"-face{face + 1}")

    def claim_faces(self, path: Path, count: int) -> None:
        """Claim and check the files of all faces of a picture but the first.

        Raises ValueError or click.ClickException where one is taken, or is there already.
        """
        of_faces = [self.picture, self.sheet] if self.has_sheets else [self.picture]
        more = [place(path, face) for place in of_faces for face in range(1, count)]
        for file in more:
            self._claim(file, f"a face of {path.name}")
        claim_outputs(more, self._force, self._folder)

    def _claim(self, file: Path, what: str) -> None:
        if file in self._taken:
            raise ValueError(f"{self._taken[file]} and {what} would both become {file}; rename one")
        self._taken[file] = what


def _plan(paths: Sequence[Path], out: Path, folder: bool) -> dict[Path, Path]:
    """Where each picture's edit goes: FILE.png itself for one file, else OUT/STEM.png."""
    if is_file_name(out):
        if folder:
            raise click.BadParameter(f"{out}: a folder of pictures needs a folder", param_hint="'--out'")
        return {paths[0]: out}
    return {path: out / f"{path.stem}.png" for path in paths}


def _check_video(video: Path, paths: Sequence[Path]) -> None:
    if len(paths) > 1:
        raise click.BadParameter("a video is of one picture; give a file", param_hint="'--image'")
    from clip2gan.video import check_video

    with blame("--video"):
        check_video(video)


def _beside(place: Path, ending: str) -> Path:
    return place.with_name(f"{place.stem}{ending}.png")
