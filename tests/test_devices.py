"""At which precision a training runs where nothing is said."""

import pytest
import torch

from clip2gan.devices import pictures_at_once, resolve_precision

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


def test_a_gpu_is_given_as_many_pictures_as_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    for memory, expected in ((8, 2), (80, 20)):
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda device, free=memory: (free * 2**30, 96 * 2**30)
        )
        assert pictures_at_once(1024, torch.device("cuda")) == expected
    assert [pictures_at_once(size, CPU) for size in (64, 512, 1024)] == [64, 1, 1]
    assert pictures_at_once(64, CPU, learning=True) == 16
