"""Damaged captions, tables, PNGs and tars are read or refused, and no caption goes to another picture."""

import logging

import pytest
from fuzz_data import KINDS, failures


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_data_is_read_or_refused(kind: str) -> None:
    assert list(failures(kind, range(300))) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_much_damaged_data_is_read_or_refused(kind: str) -> None:
    assert list(failures(kind, range(300, 20_000))) == []
