"""Files of weights: what flipped on the way is noticed, with or without a hash."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from monai_histodiff.utils.weights import (
    check_intact,
    load_weights,
    read_state,
    save_weights,
    write_state,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_state(tmp_path / "a.pt", {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)})
    return tmp_path / "a.pt"


def places(path: Path) -> dict[str, int]:
    """Where the bytes of each part of the file begin."""
    content, found = path.read_bytes(), {}
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            data = archive.read(part)
            if data:
                found[part.filename] = content.index(data, part.header_offset)
    return found


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(bytes(content))


def test_one_flipped_bit_in_a_tensor_is_noticed(path: Path) -> None:
    """``torch.load`` reads another number, and says nothing."""
    (name,) = [n for n in places(path) if n.endswith("data/0")]
    flip(path, places(path)[name] + 9)
    assert not torch.equal(torch.load(path)["weight"], torch.arange(6.0).view(2, 3))
    with pytest.raises(ValueError, match=f"bytes of '{name}' are not those that were saved"):
        load_weights(nn.Linear(3, 2), path)


def test_no_flipped_bit_gives_other_weights(path: Path) -> None:
    """Anywhere in the file: refused, or harmless."""
    whole, before = path.read_bytes(), read_state(path)
    refused = 0
    for place in range(0, len(whole), 7):
        flip(path, place)
        try:
            state = read_state(path)
        except ValueError:
            refused += 1
        else:
            assert all(torch.equal(state[k], before[k]) for k in before), place
        path.write_bytes(whole)
    assert refused > 20


@pytest.mark.parametrize("value", [1e5, 1e-8, 3e-6])
def test_numbers_beyond_float16_keep_their_precision(value: float, tmp_path: Path) -> None:
    wide, plain = torch.tensor([[value, 0.0]]), torch.tensor([[0.1, 1e-9]])
    save_weights(tmp_path / "a.pt", {"wide": wide, "plain": plain, "zero": torch.zeros(2, 2)})
    found = read_state(tmp_path / "a.pt")
    assert torch.equal(found["wide"], wide)
    assert found["plain"].dtype == found["zero"].dtype == torch.float16


def test_a_matrix_and_its_transpose_are_two(tmp_path: Path) -> None:
    a = torch.arange(9.0).view(3, 3)
    state = {"a": a, "same": a, "turned": a.T, "bits": a.view(torch.int32)}
    save_weights(tmp_path / "a.pt", state)
    found = read_state(tmp_path / "a.pt")
    assert all(torch.equal(found[k].to(v.dtype), v) for k, v in state.items())
    assert found["a"].data_ptr() == found["same"].data_ptr(), "stored once"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(value: float, tmp_path: Path) -> None:
    state = {"good": torch.ones(2), "bad": torch.tensor([1.0, value, 1.0])}
    with pytest.raises(ValueError, match="weights must be finite, got 1 of 3 .* in 'bad': keep"):
        save_weights(tmp_path / "a.pt", state)
    assert not (tmp_path / "a.pt").exists()


def test_an_intact_file_is_intact(path: Path) -> None:
    check_intact(path)
    path.write_text("no zip")
    with pytest.raises(ValueError, match="readable state_dict, got '.*a.pt' .BadZipFile."):
        check_intact(path)
