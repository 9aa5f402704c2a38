"""Once a patch is replaced, nothing in its item goes on telling of the real one."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    DeleteItemsd,
    Flipd,
    Invertd,
    LoadImaged,
    RandFlipd,
)
from PIL import Image

from monai_histodiff import PatchSet, SyntheticAugment, SyntheticAugmentd, SyntheticBank

SIDE = 8


class Part(str, enum.Enum):
    train = "train"
    a = "a"


@pytest.fixture
def bank() -> SyntheticBank:
    images = {k: torch.full((1, 3, SIDE, SIDE), k, dtype=torch.uint8) for k in range(2)}
    return SyntheticBank(images, {k: torch.tensor([0.75]) for k in range(2)}, classes=["a", "b"])


def transform(bank: SyntheticBank, prob: float = 1.0, **options: Any) -> SyntheticAugmentd:
    return SyntheticAugmentd("image", bank, prob=prob, full_prob_at=1, **options)


def real(**more: Any) -> dict[str, Any]:
    return {"image": torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8), "label": 0, **more}


def test_texts_beside_a_patch_tell_that_it_is_synthetic(bank: SyntheticBank) -> None:
    item = real(path="a/1.png", group="patient 1", label_name="a", file=Path("1.png"))
    out = transform(bank)(item)
    assert [out[k] for k in ("path", "group", "label_name")] == ["synthetic", "synthetic", "a"]
    assert out["file"] == Path("synthetic") and item["path"] == "a/1.png"
    other = transform(bank, balance=[0, 1])(item)
    assert other["label"] == 1 and other["label_name"] == "b", "the class that it is of now"
    kept = transform(bank, prob=0.0)(item)
    assert all(kept[k] is v for k, v in item.items())
    chosen = transform(bank, keep_keys=("group",))(item)
    assert chosen["group"] == "patient 1" and chosen["path"] == "synthetic"


@pytest.mark.parametrize("prob", [0.0, 1.0])
@pytest.mark.parametrize(
    "value", [torch.zeros(1, SIDE, SIDE), np.zeros(3), 1.0, 7, None, ["x"], {"filename": "x"}]
)
def test_what_else_belongs_to_the_real_patch_is_refused(
    bank: SyntheticBank, value: Any, prob: float
) -> None:
    """At the first item, whether it is replaced or not."""
    item = real(mask=value, path="x")
    with pytest.raises(
        ValueError, match=r"the keys \['mask'\] belong to the real patch .*DeleteItemsd.*keep_keys"
    ):
        transform(bank, prob)(item)
    assert transform(bank, prob, keep_keys="mask")(item)["mask"] is value
    assert "mask" not in Compose([DeleteItemsd("mask"), transform(bank, prob)])(item)


def test_members_of_an_enum_become_plain_text(bank: SyntheticBank) -> None:
    item = transform(bank, balance=[0, 1])(real(label=Part.a, split=Part.train, name=Part.a))
    assert (item["label"], item["split"], item["name"]) == ("b", "synthetic", "b")
    kept = transform(bank)(real(label=Part.a))
    assert kept["label"] is Part.a


@pytest.mark.parametrize("key", ["synthetic", "synthetic_confidence", "synthetic_seed", "w", "s"])
def test_no_key_of_yours_is_overwritten(bank: SyntheticBank, key: str) -> None:
    made = transform(bank, weight_key="w", soft_label_key="s", keep_keys=key)
    with pytest.raises(ValueError, match=rf"the keys \['{key}'\] tell .* rename yours"):
        made(real(**{key: "mine"}))
    out = transform(bank, keep_keys=["seed", "confidence"])(real(seed=5, confidence=0.1))
    assert (out["seed"], out["confidence"]) == (5, 0.1) and out["synthetic_seed"] == -1


SAME: list[tuple[dict[str, str], str]] = [
    ({"weight_key": "w", "soft_label_key": "w"}, "'w' for weight_key and for soft_label_key"),
    ({"weight_key": "synthetic"}, "'synthetic' for the record and for weight_key"),
    ({"soft_label_key": "label"}, "'label' for label_key and for soft_label_key"),
    ({"label_key": "image"}, "'image' for keys and for label_key"),
    ({"label_key": "synthetic_seed"}, "'synthetic_seed' for the record and for label_key"),
]


@pytest.mark.parametrize(("options", "message"), SAME)
def test_no_two_things_have_one_key(
    bank: SyntheticBank, options: dict[str, str], message: str
) -> None:
    rule = "the keys of an item must be distinct, got "
    with pytest.raises(ValueError, match=f"{rule}{message}: rename one"):
        transform(bank, **options)  # type: ignore[arg-type]


def test_a_second_transform_is_refused(bank: SyntheticBank) -> None:
    with pytest.raises(ValueError, match="use one SyntheticAugmentd in a pipeline"):
        transform(bank)(transform(bank)(real()))


def test_metadata_keep_the_grid_and_lose_the_file(bank: SyntheticBank) -> None:
    affine = torch.diag(torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64))
    meta = {"filename_or_obj": "a.png", "affine": affine, "space": "RAS", "location": (3, 4)}
    img = MetaTensor(torch.zeros(3, SIDE, SIDE), meta=meta, applied_operations=[{"class": "Flip"}])
    out: Any = SyntheticAugment(bank, 1.0, full_prob_at=1)(img, 0)[0]
    assert out.meta["filename_or_obj"] == "synthetic" and out.meta["space"] == "RAS"
    assert torch.equal(out.affine, affine) and "location" not in out.meta
    assert [op["class"] for op in out.applied_operations] == ["SyntheticAugment"]
    assert img.meta["filename_or_obj"] == "a.png" and img.meta["location"] == (3, 4)
    kept: Any = SyntheticAugment(bank, 0.0)(img, 0)[0]
    assert kept is img


@pytest.mark.parametrize("balance", [[1, 0], [0, 1]])
def test_label_and_kept_values_lose_the_file_too(bank: SyntheticBank, balance: list[int]) -> None:
    meta = {"filename_or_obj": "a.png", "location": (3, 4)}

    def told(value: Any) -> MetaTensor:
        return MetaTensor(torch.tensor(value), meta=meta, applied_operations=[{"class": "Flip"}])

    item = real(stain=told([0.5, 0.25]), label=told(0))
    out = transform(bank, balance=balance, keep_keys="stain")(item)
    assert int(out["label"]) == balance.index(1) and out["stain"].tolist() == [0.5, 0.25]
    for key in ("label", "stain"):
        assert isinstance(out[key], MetaTensor) and out[key].dtype == item[key].dtype
        assert out[key].meta["filename_or_obj"] == "synthetic" and "location" not in out[key].meta
        assert not out[key].applied_operations and "affine" in out[key].meta
        assert item[key].meta["filename_or_obj"] == "a.png" and item[key].applied_operations
    left = transform(bank, 0.0, keep_keys="stain")(item)
    assert left["label"] is item["label"] and left["stain"] is item["stain"]


def test_a_patch_set_is_replaced_in_a_loader(bank: SyntheticBank, tmp_path: Path) -> None:
    """Its items bear label name, group and path; batches of both kinds collate."""
    for k, name in enumerate("ab"):
        for i in range(8):
            file = tmp_path / name / f"{i}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((SIDE, SIDE, 3), 100 + k, np.uint8)).save(file)
    data = Dataset(PatchSet.open(tmp_path), transform(bank, 0.5).set_random_state(0))
    (batch,) = DataLoader(data, batch_size=16)
    assert 0 < int(batch["synthetic"].sum()) < 16
    rows = zip(batch["synthetic"], batch["path"], batch["group"], batch["label_name"], strict=True)
    for i, (made, path, group, name) in enumerate(rows):
        assert (path == "synthetic") == (group == "synthetic") == bool(made)
        assert name == "ab"[int(batch["label"][i])]
        assert int(batch["image"][i].max()) == int(batch["label"][i]) + (0 if made else 100)


def test_files_loaded_by_monai_collate_with_synthetic_ones(
    bank: SyntheticBank, tmp_path: Path
) -> None:
    files = [tmp_path / f"{i}.png" for i in range(16)]
    for file in files:
        Image.fromarray(np.full((SIDE, SIDE, 3), 100, np.uint8)).save(file)
    load = LoadImaged("image", ensure_channel_first=True, dtype=np.uint8)
    steps = Compose([load, transform(bank, 0.5), RandFlipd("image", 0.5)]).set_random_state(1)
    data = Dataset([{"image": str(f), "label": i % 2} for i, f in enumerate(files)], steps)
    (batch,) = DataLoader(data, batch_size=16)
    assert 0 < int(batch["synthetic"].sum()) < 16
    names = batch["image"].meta["filename_or_obj"]
    expected = [
        "synthetic" if made else str(f) for made, f in zip(batch["synthetic"], files, strict=True)
    ]
    assert [str(name) for name in names] == expected


def steps_of(bank: SyntheticBank, prob: float) -> Compose:
    return Compose(
        [
            CenterSpatialCropd("image", SIDE),
            transform(bank, prob),
            Flipd("image", spatial_axis=1),
        ]
    )


def test_inverting_a_replacement_says_that_there_is_no_original(bank: SyntheticBank) -> None:
    image = MetaTensor(torch.arange(300, dtype=torch.uint8).remainder(250).view(3, 10, 10))
    for prob in (0.0, 1.0):
        steps = steps_of(bank, prob)
        out = steps({"image": image, "label": 0})
        if prob == 0:
            back = steps.inverse(out)["image"]
            assert back.shape == image.shape and torch.equal(back[:, 1:9, 1:9], image[:, 1:9, 1:9])
        else:
            with pytest.raises(RuntimeError) as caught:
                steps.inverse(out)
            told = f"{caught.value} {caught.value.__cause__}"
            assert "a replacement cannot be inverted" in told and "prob=0" in told
            made = transform(bank, 1.0)
            alone = {"image": made({"image": image[:, :SIDE, :SIDE], "label": 0})["image"]}
            with pytest.raises(RuntimeError, match="a replacement cannot be inverted"):
                made.inverse(alone)  # its trace alone tells


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
def test_neither_is_a_replacement_without_metadata_inverted(
    bank: SyntheticBank, kind: Any
) -> None:
    image = kind(np.full((3, SIDE, SIDE), 9, np.uint8))
    made = transform(bank, 1.0)
    with pytest.raises(RuntimeError, match="a replacement cannot be inverted"):
        made.inverse(made({"image": image, "label": 0}))
    left = transform(bank, 0.0)
    assert left.inverse(left({"image": image, "label": 0}))["image"] is image


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_a_text_that_names_another_class_is_refused(bank: SyntheticBank, prob: float) -> None:
    """As of a set with other classes than the bank's, whose indices are its own."""
    item = real(label_name="b")
    with pytest.raises(
        ValueError, match=r"label is 0, .*'a', but 'label_name' is 'b': pass classe"
    ):
        transform(bank, prob)(item)
    assert transform(bank, prob, classes=["b", "a"])(item)["label_name"] == "b"
    assert transform(bank, prob, keep_keys="label_name")(item)["label_name"] == "b"
    with pytest.raises(ValueError, match="label is 0, which stands for 'a', but 'organ' is 'b'"):
        transform(bank, prob, classes=["a"])(real(organ="b"))
    numbered = SyntheticBank(bank.images, classes=["0", "1"])
    assert transform(numbered, prob)(real(group="1"))["label"] == 0


def test_predictions_of_real_patches_are_inverted(bank: SyntheticBank) -> None:
    image = MetaTensor(torch.arange(300, dtype=torch.float32).view(3, 10, 10) / 300)
    steps = steps_of(bank, 0.0)
    out = steps({"image": image, "label": 0})
    out["pred"] = out["image"].clone()
    back = Invertd("pred", steps, "image", nearest_interp=False)(out)["pred"]
    assert torch.allclose(back[:, 1:9, 1:9], image[:, 1:9, 1:9])
