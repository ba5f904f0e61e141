"""At which precision a training runs where nothing is said."""

import pytest
import torch

from clip2gan.devices import resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({}, "fp32"), ({"avx512_bf16": False}, "fp32"), ({"amx_bf16": True}, "bf16")],
)
def test_a_cpu_computes_in_16_bit_only_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("bf16", CPU) == "bf16"


def test_a_pytorch_that_cannot_say_what_a_cpu_has_is_taken_at_32_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_precision("auto", CPU) == "fp32"
