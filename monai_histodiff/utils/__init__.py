"""What every wing stands on: files, weights, caches, shared memory, processes."""

from monai_histodiff.utils.bfloat16 import native_bfloat16 as native_bfloat16
