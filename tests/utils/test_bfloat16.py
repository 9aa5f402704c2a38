"""Which devices compute in bfloat16."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from monai_histodiff.utils import bfloat16, native_bfloat16
from monai_histodiff.utils.bfloat16 import warn_of_emulation


@pytest.mark.parametrize("native", [True, False])
def test_a_device_is_asked_what_it_computes_in(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gpu(including_emulation: bool = True) -> bool:
        return native or including_emulation  # every GPU emulates it

    bfloat16._native.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", gpu)
    assert native_bfloat16("cpu") is native_bfloat16(torch.device("cuda:1")) is native
    assert native_bfloat16("mps") is False
    bfloat16._native.cache_clear()


def test_emulation_is_told_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "_native", {"cpu": False, "cuda": True}.__getitem__)
    with pytest.warns(UserWarning, match="bfloat16 is True, but this cpu emulates it"):
        warn_of_emulation("cpu", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for device, enabled in (("cpu", False), ("cpu", None), ("cuda:1", True)):
            warn_of_emulation(device, enabled)


def test_this_processor() -> None:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        pytest.skip("only Linux lists what its processor can do")
    assert native_bfloat16("cpu") is ("avx512_bf16" in info.read_text())
