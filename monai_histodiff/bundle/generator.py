"""Whether the generator of a bundle, ours or of another make, can do what a run asks of it."""

from __future__ import annotations

import os
from pathlib import Path

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.utils.files import read_json

__all__ = ["check_generator"]


def check_generator(
    generator: LatentDiffusion,
    ldm_dir: str | os.PathLike[str],
    patches: PatchSet,
    class_scale: float = 1.0,
    exemplar_scale: float = 1.0,
) -> None:
    """Refuse settings that a generator cannot follow, and classes that it does not draw, before
    anything is trained.

    A generator that draws classes by itself knows them as rows of a table. Which these are its
    bundle says: ``classes`` in ``configs/metadata.json``, in the order of the rows.

    Args:
        generator: of the bundle.
        ldm_dir: the bundle.
        patches: of the run, whose classes are drawn.
        class_scale: 0 leaves the generator's own classes aside.
        exemplar_scale: 0 leaves exemplars aside.

    Raises:
        ValueError: the generator takes no exemplars, draws no classes, cannot do without them, or
            draws others than the run's.
    """
    if exemplar_scale > 0 and generator.exemplar is None:
        raise ValueError(
            f"exemplar_scale must be 0 for a generator that takes no exemplars, such as that of "
            f"'{ldm_dir}', got {exemplar_scale}: give --exemplar_scale 0"
        )
    if class_scale != 1 and generator.null_class is None:
        raise ValueError(
            "class_scale must be 1 for a generator that does not draw classes, and also none, "
            f"such as that of '{ldm_dir}', got {class_scale}: leave it out"
        )
    if not generator.num_classes or not class_scale:
        return
    path = Path(ldm_dir) / "configs" / "metadata.json"
    drawn = read_json(path).get("classes")
    aside = "give --class_scale 0, which leaves its own classes aside"
    if generator.null_class is None:
        aside = "take another, for this one cannot leave its classes aside"
    if not isinstance(drawn, list) or len(drawn) != generator.num_classes:
        raise ValueError(
            f"'{path}' must name the {generator.num_classes} classes that its generator draws, in "
            f'the order of its rows, got {drawn!r}: add "classes": ["...", "..."], or {aside}'
        )
    if drawn != list(patches.classes):
        raise ValueError(
            f"the generator must draw the classes of the patches, in their order, "
            f"{', '.join(patches.classes)}, got {', '.join(map(str, drawn))} in '{path}': {aside}"
        )
