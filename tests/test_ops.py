"""The operations against tensors computed by the reference implementation."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from stylegan2.ops import bias_act, setup_filter, upfirdn2d
from stylegan2.ops.resample import blur_after_upsampling, blur_before_downsampling, downsample2d, upsample2d

REFERENCE = Path(__file__).parent / "data" / "ops.safetensors"


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with safe_open(REFERENCE, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def cases() -> dict[str, dict]:
    with safe_open(REFERENCE, framework="pt") as file:
        return json.loads(file.metadata()["cases"])


UPFIRDN_CASES = [name for name, arguments in cases().items() if isinstance(arguments, dict)]


@pytest.mark.parametrize("case", UPFIRDN_CASES)
def test_upfirdn2d_matches_reference(reference, case):
    y = upfirdn2d(reference["x"], reference[f"upfirdn2d/{case}/filter"], **cases()[case])
    torch.testing.assert_close(y, reference[f"upfirdn2d/{case}/y"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "act", ["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]
)
def test_bias_act_matches_reference(reference, act):
    y = bias_act(reference["x"], reference["b"], act=act)
    torch.testing.assert_close(y, reference[f"bias_act/{act}/y"], rtol=1e-4, atol=1e-6)


def test_bias_act_with_its_own_slope_gain_and_clamp(reference):
    y = bias_act(reference["x"] * 4, reference["b"], act="lrelu", alpha=0.3, gain=1.7, clamp=2.0)
    torch.testing.assert_close(y, reference["bias_act/lrelu_clamp/y"], rtol=1e-4, atol=1e-6)


def test_bias_act_names_the_activations():
    with pytest.raises(ValueError, match="unknown activation 'gelu'; choose one of linear, relu"):
        bias_act(torch.zeros(1, 1), act="gelu")


@pytest.mark.parametrize(
    ("fast", "arguments"),
    [
        (blur_after_upsampling, {"padding": 1, "gain": 4}),
        (blur_before_downsampling, {"padding": 2}),
        (upsample2d, {"up": 2, "padding": [2, 1, 2, 1], "gain": 4}),
        (downsample2d, {"down": 2, "padding": 1}),
    ],
)
def test_resampling_is_upfirdn2d(fast, arguments):
    x, f = torch.randn(2, 3, 10, 12), setup_filter([1, 3, 3, 1])
    torch.testing.assert_close(fast(x, f), upfirdn2d(x, f, **arguments))
