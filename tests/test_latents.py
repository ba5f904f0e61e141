"""Latents of other tools are read as data, and written as they read them."""

import io
import zipfile

import numpy as np
import pytest
import torch

from clip2gan.editing.latents import read_other_latents, write_nvidia_latents

WS = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(0))


def test_nvidias_and_e4es(tmp_path):
    write_nvidia_latents(tmp_path / "projected_w.npz", WS)
    assert np.array_equal(np.load(tmp_path / "projected_w.npz")["w"], WS.numpy())
    np.savez_compressed(tmp_path / "double.npz", w=WS.double().numpy())
    torch.save(WS, tmp_path / "latents.pt")
    torch.save(WS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Parameter(WS), tmp_path / "parameter.pt")
    for name in ("projected_w.npz", "double.npz", "latents.pt", "old.pt", "parameter.pt"):
        assert torch.equal(read_other_latents(tmp_path / name, 10, 8), WS), name


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save(WS, path), r"latents of \[3, 10, 8\], but this model's are \[N, 12, 8\]"),
        (lambda path: torch.save(WS[0], path), r"latents of \[10, 8\]"),
        (lambda path: torch.save({"w": WS}, path), "expected a tensor, found dict"),
        (lambda path: torch.save(WS * torch.nan, path), "is not finite"),
        (lambda path: torch.save(torch.full((1, 12, 8), 1e30), path), "numbers as large as 1e\\+30"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"cos\nsystem\n"), "no latents that are read here"),
    ],
)
def test_other_files_are_refused(write, message, tmp_path):
    write(tmp_path / "l.pt")
    with pytest.raises(ValueError, match=rf"l.pt: .*{message}") as caught:
        read_other_latents(tmp_path / "l.pt", 12, 8)
    assert "\n" not in str(caught.value)


def test_npz_files_that_are_none(tmp_path):
    path = tmp_path / "l.npz"
    np.savez(path, v=WS.numpy())
    with pytest.raises(ValueError, match=r"l.npz: .*no array 'w' in it, but 'v.npy'"):
        read_other_latents(path, 10, 8)
    np.savez(path, w=np.array([object()]))  # a pickle
    with pytest.raises(ValueError, match=r"l.npz: holds no latents"):
        read_other_latents(path, 10, 8)
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"l.npz: holds no latents"):
        read_other_latents(path, 10, 8)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 18, 512)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(ValueError, match="does not fit the file"):
        read_other_latents(path, 18, 512)
    with pytest.raises(FileNotFoundError):
        read_other_latents(tmp_path / "none.pt", 18, 512)
