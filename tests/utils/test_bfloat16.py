"""Which devices compute in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_histodiff.utils import bfloat16, native_bfloat16


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


def test_this_processor() -> None:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        pytest.skip("only Linux lists what its processor can do")
    assert native_bfloat16("cpu") is ("avx512_bf16" in info.read_text())
