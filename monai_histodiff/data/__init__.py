"""Patches: sets of them on disk, their pixels and stains, and banks of synthetic ones."""

from monai_histodiff.data.bank import Bank as Bank
from monai_histodiff.data.bank import BankPatch as BankPatch
from monai_histodiff.data.bank import SyntheticBank as SyntheticBank
from monai_histodiff.data.leaks import Leaks as Leaks
from monai_histodiff.data.leaks import find_leaks as find_leaks
from monai_histodiff.data.patch_files import PatchRecord as PatchRecord
from monai_histodiff.data.patch_files import write_patches as write_patches
from monai_histodiff.data.patch_set import PatchSet as PatchSet
from monai_histodiff.data.pictures import Limits as Limits
from monai_histodiff.data.reading import patch_hash as patch_hash
from monai_histodiff.data.sizes import PretrainingPool as PretrainingPool
from monai_histodiff.data.sizes import crop_size as crop_size
from monai_histodiff.data.sizes import open_part as open_part
from monai_histodiff.data.sizes import open_pool as open_pool
from monai_histodiff.data.sizes import size_note as size_note
from monai_histodiff.data.stain import RandHEJitter as RandHEJitter
from monai_histodiff.data.stain import RandHEJitterD as RandHEJitterD
from monai_histodiff.data.stain import RandHEJitterd as RandHEJitterd
from monai_histodiff.data.stain import RandHEJitterDict as RandHEJitterDict
