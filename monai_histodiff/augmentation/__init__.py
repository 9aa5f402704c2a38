"""Synthetic patches in the training Dataset: the transforms, and banks that renew themselves while
a network trains.

The transforms alone are light; the live bank, which samples, is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from monai_histodiff.augmentation.dictionary import SyntheticAugmentD as SyntheticAugmentD
from monai_histodiff.augmentation.dictionary import SyntheticAugmentd as SyntheticAugmentd
from monai_histodiff.augmentation.dictionary import SyntheticAugmentDict as SyntheticAugmentDict
from monai_histodiff.augmentation.labels import even_weights as even_weights
from monai_histodiff.augmentation.transforms import SyntheticAugment as SyntheticAugment

if TYPE_CHECKING:
    from monai_histodiff.augmentation.live_bank import LiveBank as LiveBank
    from monai_histodiff.augmentation.refresher import BankRefresher as BankRefresher

LATER = {"LiveBank": "live_bank", "BankRefresher": "refresher"}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LATER[name]}"), name)
