"""Pictures that do not fit in memory are decoded ahead of each step, and the result is the same."""

from pathlib import Path

import pytest
import torch
from trainings import TRAININGS, write_pictures

from clip2gan.data import pictures as reading
from clip2gan.data.captioned import open_captioned
from clip2gan.data.pictures import Indices, ReadAhead, open_pictures
from clip2gan.training import mapper, validation
from stylegan2.files import load_tensors

LAST = "checkpoints/00000020.safetensors"


@pytest.mark.parametrize(
    "training", [pytest.param("mapper", marks=pytest.mark.slow), "encoder", "gan", "captioned"]
)
def test_a_training_reads_its_pictures_ahead(
    training: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "pictures")
    monkeypatch.setattr(mapper, "PREVIEWS", 2)
    monkeypatch.setattr(validation, "PREVIEW_PROMPTS", 2)
    TRAININGS[training](tmp_path, tmp_path / "in-memory", 1e9)

    known: list[bool] = []
    batch = ReadAhead.batch

    def watched(ahead: ReadAhead, indices: Indices) -> torch.Tensor:
        known.append(bool(ahead._announced) and ahead._announced[0] == torch.as_tensor(indices).tolist())
        return batch(ahead, indices)

    monkeypatch.setattr(ReadAhead, "batch", watched)
    monkeypatch.setattr(open_pictures, "__defaults__", (0,))  # nothing fits in memory
    monkeypatch.setattr(open_captioned, "__defaults__", (0, False))
    monkeypatch.setattr(reading, "WORKERS", 1)
    TRAININGS[training](tmp_path, tmp_path / "ahead", 1e9)
    assert len(known) >= 12
    assert all(known)
    one, other = (load_tensors(tmp_path / name / LAST)[0] for name in ("in-memory", "ahead"))
    assert all(torch.equal(other[name], value) for name, value in one.items())
