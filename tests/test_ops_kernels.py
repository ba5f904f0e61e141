"""csrc/ built by a C++ compiler, and the registered operations, against reference.py and reference data."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from stylegan2 import ops
from stylegan2.ops import build, reference, registered
from stylegan2.ops.kernels import Kernels

DATA = Path(__file__).parent / "data" / "ops.safetensors"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

dtypes = st.sampled_from(list(TOLERANCE))
small = st.integers(0, 3)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """The kernels' bodies as loops on the CPU."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    path = tmp_path_factory.mktemp("csrc") / "ops.so"
    flags = ["-x", "c++", "-std=c++17", "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", path, build.SOURCES / "ops.cu"], check=True)
    return Kernels(path)


def rough(shape: list[int], dtype: torch.dtype, how: str) -> torch.Tensor:
    """Random values: contiguous, channels_last, or with gaps in memory."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    if how == "strided":
        x = torch.stack([x, x], dim=-1)[..., 0]
    if how == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    return x.to(dtype)


formats = st.sampled_from(["contiguous", "channels_last", "strided"])
shapes = st.tuples(small, st.integers(1, 5), st.integers(1, 7), st.integers(1, 7)).map(list)


@st.composite
def resamplings(draw: st.DrawFn) -> dict:
    factors = st.tuples(st.integers(1, 3), st.integers(1, 3)).map(list)
    return {
        "up": draw(factors),
        "down": draw(factors),
        "padding": draw(st.lists(st.integers(-2, 4), min_size=4, max_size=4)),
        "flip_filter": draw(st.booleans()),
        "gain": draw(st.sampled_from([1.0, 4.0, 0.3])),
    }


def fits(x: torch.Tensor, f: torch.Tensor, settings: dict) -> bool:
    left, right, top, bottom = settings["padding"]
    height, width = x.shape[2] * settings["up"][1], x.shape[3] * settings["up"][0]
    return (
        height + top + bottom >= f.shape[0]
        and width + left + right >= f.shape[1]
        and (height + min(top, 0) + min(bottom, 0) > 0 and width + min(left, 0) + min(right, 0) > 0)
    )


@settings(max_examples=60)
@given(
    shape=shapes,
    how=formats,
    dtype=dtypes,
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    arguments=resamplings(),
)
def test_upfirdn2d_kernel_is_the_definition(kernels, shape, how, dtype, size, arguments):
    x, f = rough(shape, dtype, how), torch.randn(size)
    assume(shape[0] > 0 and fits(x, f, arguments))
    y = kernels.upfirdn2d(x, f, **arguments)
    expected = reference.upfirdn2d(x.float(), f, **arguments)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 4)


@pytest.mark.parametrize(("up", "down", "padding"), [(1, 1, 1), (1, 1, 2), (2, 1, [2, 1, 2, 1]), (1, 2, 1)])
@pytest.mark.parametrize("how", ["contiguous", "channels_last"])
def test_upfirdn2d_kernels_for_the_usual_filter(kernels, up, down, padding, how):
    x, f = rough([2, 3, 8, 10], torch.float32, how), torch.randn(4, 4)
    pads = [padding] * 4 if isinstance(padding, int) else padding
    y = kernels.upfirdn2d(x, f, [up] * 2, [down] * 2, pads, False, 4.0)
    torch.testing.assert_close(y, reference.upfirdn2d(x, f, up, down, padding, gain=4.0))
    assert y.is_contiguous(memory_format=torch.channels_last) == (how == "channels_last")


def test_upfirdn2d_kernel_matches_the_reference_tensors(kernels):
    with safe_open(DATA, framework="pt") as file:
        cases = json.loads(file.metadata()["cases"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tested = 0
    for name, arguments in cases.items():
        if not isinstance(arguments, dict) or (f := tensors[f"upfirdn2d/{name}/filter"]).ndim != 2:
            continue
        padding = arguments.get("padding", 0)
        y = kernels.upfirdn2d(
            tensors["x"],
            f,
            list(reference.pair(arguments.get("up", 1))),
            list(reference.pair(arguments.get("down", 1))),
            [padding] * 4 if isinstance(padding, int) else padding,
            arguments.get("flip_filter", False),
            arguments.get("gain", 1.0),
        )
        torch.testing.assert_close(y, tensors[f"upfirdn2d/{name}/y"], rtol=1e-4, atol=1e-6)
        tested += 1
    assert tested > 2
    y = kernels.epilogue(tensors["x"] * 4, None, None, tensors["b"], 0.3, 1.7, 2.0)
    torch.testing.assert_close(y, tensors["bias_act/lrelu_clamp/y"], rtol=1e-4, atol=1e-6)


def epilogue_arguments(shape: list[int], scaled: bool, noisy: int, biased: bool) -> tuple:
    n, c, h, w = shape
    return (
        torch.rand(n, c) + 0.5 if scaled else None,
        torch.randn(1 if noisy == 1 else n, 1, h, w) if noisy else None,
        torch.randn(c) if biased else None,
    )


@settings(max_examples=60)
@given(
    shape=shapes,
    how=formats,
    dtype=dtypes,
    scaled=st.booleans(),
    noisy=st.integers(0, 2),
    biased=st.booleans(),
    slope=st.sampled_from([0.0, 0.2, 1.0]),
    clamp=st.sampled_from([None, 0.5]),
)
def test_epilogue_kernel_is_the_definition(kernels, shape, how, dtype, scaled, noisy, biased, slope, clamp):
    x = rough(shape, dtype, how)
    scale, noise, b = epilogue_arguments(shape, scaled, noisy, biased)
    y = kernels.epilogue(x, scale, noise, b, slope, 1.5, clamp)
    expected = reference.epilogue(x.float(), scale, noise, b, slope, 1.5, clamp)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 2)

    dy = rough(shape, dtype, "contiguous")
    du = kernels.epilogue_grad(dy, y, slope, 1.5, clamp)
    torch.testing.assert_close(du, registered.epilogue_grad(dy, y, slope, 1.5, clamp))


def test_bfloat16_is_rounded_as_pytorch_does(kernels):
    x = torch.tensor([[1.00390625, 1.01171875, -1.00390625, 3.3895e38, float("nan"), 1e-40]])
    y = kernels.epilogue(x.bfloat16(), None, None, None, 1.0, 1.00390625, None)
    torch.testing.assert_close(y, (x.bfloat16().float() * 1.00390625).bfloat16(), equal_nan=True)


@settings(max_examples=10)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)).map(list),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    arguments=resamplings(),
)
def test_registered_upfirdn2d_has_the_right_derivatives(shape, size, arguments):
    x, f = torch.randn(shape, dtype=torch.float64, requires_grad=True), torch.randn(size, dtype=torch.float64)
    assume(fits(x, f, arguments))

    def function(x: torch.Tensor) -> torch.Tensor:
        return registered.upfirdn2d(x, f, *arguments.values())

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)
    assert function(x).shape == torch.empty_like(function(x.to("meta"))).shape


@pytest.mark.parametrize("clamp", [None, 1.0])
@pytest.mark.parametrize("noisy", [0, 1, 2])
def test_registered_epilogue_has_the_right_derivatives(clamp, noisy):
    torch.manual_seed(0)
    shape = [2, 3, 4, 2]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    rest = epilogue_arguments(shape, True, noisy, True)
    there = [t.double().requires_grad_(True) for t in rest if t is not None]

    def function(x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        scale, *noise, b = tensors
        return registered.epilogue(x, scale, noise[0] if noise else None, b, 0.2, 2**0.5, clamp)

    assert torch.autograd.gradcheck(function, (x, *there))
    assert torch.autograd.gradgradcheck(function, (x, *there))


def test_registered_operations_keep_their_promises():
    x, f = torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(4, 4)
    b = torch.randn(2, requires_grad=True)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    torch.library.opcheck(
        registered.upfirdn2d, (x, f, [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0), test_utils=checks
    )
    torch.library.opcheck(registered.epilogue, (x, None, None, b, 0.2, 1.4, None), test_utils=checks)


def test_setting_is_checked(monkeypatch):
    monkeypatch.setenv("STYLEGAN2_OPS", "fast")
    with pytest.raises(ValueError, match="STYLEGAN2_OPS is 'fast'; set it to one of auto, cuda, torch"):
        ops.bias_act(torch.zeros(1, 1))
    monkeypatch.setenv("STYLEGAN2_OPS", "cuda")
    with pytest.raises(ValueError, match=r"no CUDA kernels for torch\.float32 on cpu"):
        ops.bias_act(torch.zeros(1, 1))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
@pytest.mark.parametrize(
    "archs", [["75", "90"], pytest.param(["75", "80", "86", "89", "90"], marks=pytest.mark.slow)]
)
def test_csrc_compiles_for_cuda(archs, tmp_path):
    build.compile_library(build.find_compiler(), archs, tmp_path / "ops.so")
    assert (tmp_path / "ops.so").stat().st_size > 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("how", ["contiguous", "channels_last", "strided"])
def test_kernels_on_a_gpu(dtype, how, monkeypatch):
    monkeypatch.setenv("STYLEGAN2_OPS", "cuda")
    x, f = rough([2, 3, 8, 10], dtype, how).cuda(), torch.randn(4, 4)
    for up, down, padding in ((1, 1, 1), (2, 1, [2, 1, 2, 1]), (1, 2, 1), (3, 2, [0, 3, -1, 2])):
        y = ops.upfirdn2d(x, f, up, down, padding)
        expected = reference.upfirdn2d(x.cpu().float(), f, up, down, padding)
        torch.testing.assert_close(
            y.cpu().float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 4
        )
    scale, noise, b = epilogue_arguments([2, 3, 8, 10], True, 2, True)
    y = ops.epilogue(x, scale.cuda(), noise.cuda(), b.cuda(), clamp=1.0)
    expected = reference.epilogue(x.cpu().float(), scale, noise, b, clamp=1.0)
    torch.testing.assert_close(y.cpu().float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 2)


def test_the_compiler_takes_the_choice_of_kernels_as_constant_without_being_imported():
    script = "import sys, stylegan2; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    marked = torch.compiler.assume_constant_result(lambda device: True)
    assert vars(marked)
    assert vars(marked) == vars(ops._has_kernels)
