"""Run folders: resuming, refusing other settings, exact state."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stylegan2.runs import RunFolder, pack, step_generator, unpack


def test_latest_is_the_newest_whole_checkpoint(tmp_path):
    run = RunFolder.open(tmp_path / "run", {"lr": 0.1})
    assert run.latest() is None
    for step in (10, 20, 30):
        run.save(step, {"x": torch.tensor([float(step)])}, {"note": step})
    files = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [file.name for file in files] == ["00000020.safetensors", "00000030.safetensors"]
    found = run.latest()
    assert found is not None
    assert found[0] == 30
    assert found[1]["x"].item() == 30
    assert found[2] == {"note": 30}
    files[-1].write_bytes(b"cut short")
    found = run.latest()
    assert found is not None
    assert found[0] == 20


def test_damaged_checkpoints_do_not_crowd_out_whole_ones(tmp_path, caplog):
    run = RunFolder.open(tmp_path / "run", {})
    for step in (10, 20):
        run.save(step, {}, {})
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.write_bytes(b"cut short")
    assert run.latest() is None
    assert "00000010.safetensors: not a readable" in caplog.text
    run.save(1, {}, {})
    found = run.latest()
    assert found is not None
    assert found[0] == 1


def test_a_checkpoint_that_cannot_be_read_just_now_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    run = RunFolder.open(tmp_path / "run", {})
    run.log(1, loss=1.0)
    run.save(1, {}, {})

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("stylegan2.runs.load_tensors", fail)
    with pytest.raises(OSError, match="Input/output error"):
        run.latest()
    assert '"step": 1' in (tmp_path / "run" / "log.jsonl").read_text()


def test_a_checkpoint_that_a_kill_kept_is_dropped(tmp_path):
    run = RunFolder.open(tmp_path / "run", {})
    for step in (1, 2):
        run.save(step, {}, {})
    old = run.checkpoint(1).read_bytes()
    run.save(3, {}, {})
    run.checkpoint(1).write_bytes(old)
    assert run.latest() is not None
    assert [path.name[:8] for path in sorted(run.checkpoint(1).parent.iterdir())] == ["00000002", "00000003"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_reach_no_checkpoint(bad, tmp_path):
    run = RunFolder.open(tmp_path / "run", {})
    run.save(1, {"x": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match="step 2: x is not finite, so there is no checkpoint of it"):
        run.save(2, {"x": torch.tensor([0.0, bad])}, {})
    found = run.latest()
    assert found is not None
    assert found[0] == 1


def test_log_lines_after_the_checkpoint_are_dropped(tmp_path):
    run = RunFolder.open(tmp_path, {})
    run.log(1, loss=3.0)
    run.save(1, {}, {})
    run.log(2, loss=2.0)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # what a kill leaves
    again = RunFolder.open(tmp_path, {})
    again.latest()
    again.log(2, loss=2.5)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 3.0), (2, 2.5)]
    assert lines[1]["seconds"] >= lines[0]["seconds"]


def test_other_settings_are_refused_by_name(tmp_path):
    RunFolder.open(tmp_path / "run", {"lr": 0.1, "betas": (0.0, 0.99)})
    RunFolder.open(tmp_path / "run", {"lr": 0.1, "betas": (0.0, 0.99)})
    with pytest.raises(ValueError, match=r"begun with other settings \(lr: 0.1 -> 0.2\)"):
        RunFolder.open(tmp_path / "run", {"lr": 0.2, "betas": (0.0, 0.99)})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="not empty and not a training's folder"):
        RunFolder.open(tmp_path / "other", {})
    with pytest.raises(ValueError, match="is a file; --out must name a folder"):
        RunFolder.open(tmp_path / "other" / "thesis.tex", {})


def test_pack_and_unpack_restore_modules_and_optimizers():
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters())

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model, optimizer = make()
    step(model, optimizer)
    state = {name: tensor.clone() for name, tensor in pack(m=model, o=optimizer).items()}
    other, other_optimizer = make()
    unpack(state, m=other, o=other_optimizer)
    step(model, optimizer)
    step(other, other_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**7))
def test_step_generators_repeat_and_differ(seed, step):
    def draw(seed: int, step: int) -> list[float]:
        return torch.rand(4, generator=step_generator(seed, step)).tolist()

    assert draw(seed, step) == draw(seed, step)
    assert draw(seed, step) != draw(seed, step + 1)
    assert draw(seed, step) != draw(seed + 1, step)


def test_a_run_of_another_version_is_refused_in_one_line(tmp_path):
    RunFolder.open(tmp_path / "run", {"lr": 0.1})
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps({"lr": 0.1}))  # as the first versions wrote it
    with pytest.raises(
        ValueError, match=r"begun by another version of clip2gan \(run format 1, this one has 2"
    ):
        RunFolder.open(tmp_path / "run", {"lr": 0.1})
