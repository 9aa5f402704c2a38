"""Which class an item is of: indices and names, the bank's and yours, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_histodiff import SyntheticAugment, SyntheticAugmentd, SyntheticBank
from monai_histodiff.augmentation.labels import Labels, soft_label

SIDE = 4
PATCH = torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8)


def bank_of(*names: str, count: int | None = None) -> SyntheticBank:
    """Patches of class k are of the constant k."""
    n = count or len(names)
    images = {k: torch.full((1, 3, SIDE, SIDE), k, dtype=torch.uint8) for k in range(n)}
    return SyntheticBank(images, classes=names)


def drawn(bank: SyntheticBank, label: Any, **options: Any) -> tuple[int, Any]:
    transform = SyntheticAugment(bank, prob=1.0, full_prob_at=1, **options)
    image, new = transform(PATCH, label)
    return int(image[0, 0, 0]), new


def test_numbers_that_are_no_indices_need_classes() -> None:
    """Twelve classes "0" to "11", sorted as text: is label 2 the class "2", or index 2, "10"?"""
    as_text = bank_of(*sorted(str(k) for k in range(12)))
    with pytest.raises(
        ValueError, match=r"named by numbers, of which '10' has the index 2: pass classes="
    ):
        SyntheticAugment(as_text)
    natural = [str(k) for k in range(12)]
    for label in range(12):
        theirs = as_text.classes.index(str(label))
        assert drawn(as_text, label, classes=natural) == (theirs, label)
        assert drawn(as_text, label, classes=as_text.classes) == (label, label)
        assert drawn(as_text, str(label), classes=natural) == (theirs, str(label))
        assert drawn(bank_of(*natural), label) == (label, label), "their own indices"


@pytest.mark.parametrize("names", [("1", "2", "3"), ("00", "01"), ("2", "7")])
def test_numbers_from_one_need_classes(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"of which '{names[0]}' has the index 0: pass classes="):
        SyntheticAugment(bank_of(*names))
    assert drawn(bank_of(*names), 1, classes=names) == (1, 1)


def test_names_of_which_some_are_numbers_are_names() -> None:
    assert drawn(bank_of("a", "0"), 1) == (1, 1) and drawn(bank_of("a", "0"), "0") == (1, "0")


def test_your_order_of_the_names_is_taken() -> None:
    bank, mine = bank_of("acc", "norm", "scc"), ["scc", "acc", "norm"]
    assert [drawn(bank, k, classes=mine) for k in range(3)] == [(2, 0), (0, 1), (1, 2)]
    assert [drawn(bank, name, classes=mine)[0] for name in mine] == [2, 0, 1]
    # a weight belongs to your index, and so does the soft label
    transform = SyntheticAugmentd(
        "image", bank, "label", 1.0, [0, 0, 1], 1, mine, soft_label_key="soft"
    )
    item = transform({"image": PATCH, "label": 0})
    assert (
        item["label"] == 2 and int(item["image"].max()) == 1 and item["soft"].tolist() == [0, 0, 1]
    )


def test_you_may_have_some_of_the_classes() -> None:
    bank, mine = bank_of("acc", "norm", "scc"), ["scc", "acc"]
    assert [drawn(bank, k, classes=mine) for k in range(2)] == [(2, 0), (0, 1)]
    every = [drawn(bank, 0, classes=mine, balance=[1, 1])[1] for _ in range(30)]
    assert {*every} == {0, 1}
    with pytest.raises(ValueError, match="from 0 to 1, or one of the names .*, got 2"):
        drawn(bank, 2, classes=mine)


@pytest.mark.parametrize(
    "classes", [["acc", "acc"], ["acc", "norm", "SCC"], ["acc", "norm", "scc", "acc"], []]
)
def test_other_names_are_refused(classes: list[str]) -> None:
    rule = r"classes must be names of the bank's, \['acc', 'norm', 'scc'\]"
    with pytest.raises(ValueError, match=rule):
        SyntheticAugment(bank_of("acc", "norm", "scc"), classes=classes)
    with pytest.raises(ValueError, match=r"classes must be names of the bank's, \[\]"):
        SyntheticAugment(bank_of(count=2), classes=["a", "b"])


@pytest.mark.parametrize("classes", [{"a", "b"}, {"b": 0, "a": 1}, "ab", {"a": 0}.keys()])
def test_names_in_no_order_are_refused(classes: Any) -> None:
    """Those of a set come in another order in each run; of a mapping the values would count."""
    rule = f"must be a list, in the order of the class indices, got {type(classes).__name__} "
    with pytest.raises(ValueError, match=rule):
        SyntheticAugment(bank_of("a", "b"), classes=classes)
    images = bank_of("a", "b").images
    with pytest.raises(ValueError, match=rule):
        SyntheticBank(images, classes=classes)


@pytest.mark.parametrize("name", ["b", np.str_("b")])
def test_a_name_is_a_label_and_comes_back_as_a_name(name: str) -> None:
    bank = bank_of("a", "b")
    assert drawn(bank, name) == (1, "b")
    value, new = drawn(bank, name, balance=[1, 0])
    assert (value, new) == (0, "a") and type(new) is type(name)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_name_in_an_array_is_a_label_and_comes_back_in_one(shape: tuple[int, ...]) -> None:
    bank = bank_of("a", "longer")
    for balance, name in (([1, 0], "a"), ([0, 1], "longer")):
        value, new = drawn(bank, np.full(shape, "a"), balance=balance)
        assert (
            value == ["a", "longer"].index(name) and new.tolist() == np.full(shape, name).tolist()
        )
        assert type(new) is np.ndarray and new.shape == shape


REFUSED: list[tuple[Any, str]] = [
    (7, "got 7: pass classes="),
    (3, "got 3: if your indices start at 1, subtract 1 from each"),
    (-1, "got -1: -1 stands for items without a label: leave them out"),
    (-2, "got -2: "),
    (np.int64(3), "got 3: if your indices start at 1"),
    (torch.tensor(3), "got 3: if your indices start at 1"),
    (1.5, r"got 1.5 \(float64\): an index is a whole number"),
    (1.0, r"got 1.0 \(float64\): an index is a whole number"),
    (np.float32(1), r"got 1.0 \(float32\)"),
    (torch.tensor(1.0, dtype=torch.bfloat16), "got 1.0 .*: an index is a whole number"),
    (float("nan"), "got nan"),
    (True, r"got True \(bool\)"),
    ("d", "got 'd': this is none of the bank's classes"),
    ("1", "got '1': this is none of the bank's classes"),
    (np.array("d"), "got 'd': this is none of the bank's classes"),
    (np.array(b"a"), r"got b'a' \(\|S1\): a name is text, an index a whole number"),
    (None, "got None: give each item its class"),
    ([1], "got a list: give each item its class"),
    ({"class": 1}, "got a dict"),
    (torch.tensor([0, 1, 0]), r"got shape \(3,\): of a one-hot label take the argmax"),
    (np.array([0.0, 1.0, 0.0]), r"got shape \(3,\): of a one-hot label take the argmax"),
    (torch.tensor([1, 1, 0]), r"got shape \(3,\): an item of several classes"),
    (torch.tensor([0, 1, 2, 1]), r"got shape \(4,\): apply the transform to each item"),
    (torch.tensor([0, 1, 2]), r"got shape \(3,\): apply the transform to each item"),
    (torch.tensor([0, 0, 2]), r"got shape \(3,\): apply the transform to each item"),
    (torch.zeros(8, 3), r"got shape \(8, 3\): apply the transform to each item"),
    (torch.zeros(0, dtype=torch.long), r"got shape \(0,\): apply the transform to each item"),
]


@pytest.mark.parametrize(("label", "message"), REFUSED, ids=[m for _, m in REFUSED])
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_what_is_no_class_of_the_bank_is_refused(label: Any, message: str, prob: float) -> None:
    """At the first item, also where it would not be replaced."""
    transform = SyntheticAugmentd("image", bank_of("a", "b", "c"), label_key="kind", prob=prob)
    rule = r"the label under 'kind' must be a class index from 0 to 2, or one of the names \['a', "
    with pytest.raises(ValueError, match=rf"{rule}.*{message}"):
        transform({"image": PATCH, "kind": label})


def test_a_boolean_is_an_index_of_two_classes() -> None:
    assert drawn(bank_of("no", "yes"), True) == (1, True)
    assert drawn(bank_of("no", "yes"), torch.tensor(True), balance=[1, 0])[1].item() is False


def test_without_names_only_indices_are_known() -> None:
    assert drawn(bank_of(count=3), 2) == (2, 2)
    with pytest.raises(ValueError, match="a class index from 0 to 2, got 'a': this is none"):
        drawn(bank_of(count=3), "a")


def test_labels_come_back_as_they_came() -> None:
    labels = Labels(bank_of("a", "b", "c"))
    for label in (1, np.int8(1), np.array([1]), np.array(1), torch.tensor([1]), torch.tensor(1)):
        assert labels.read(label) == 1
        back = labels.like(label, 2)
        assert type(back) is type(label) and labels.read(back) == 2 and labels.read(label) == 1
        assert getattr(back, "dtype", None) == getattr(label, "dtype", None)
        assert getattr(back, "shape", None) == getattr(label, "shape", None)
    assert len(labels) == 3 and labels.names == ["a", "b", "c"]


def test_soft_labels_sum_to_one() -> None:
    for n in (2, 3, 7):
        soft = soft_label(1, 0.7, n)
        assert soft.dtype == torch.float32 and soft.device.type == "cpu"
        assert float(soft.sum()) == pytest.approx(1) and float(soft[1]) == pytest.approx(0.7)
        assert float(soft[0]) == pytest.approx(0.3 / (n - 1))
    assert soft_label(0, 1.0, 1).tolist() == [1.0]
