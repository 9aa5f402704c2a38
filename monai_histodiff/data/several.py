"""Several sources as one set: they lie apart, and each has a name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from monai_histodiff.data.patch_files import PatchSource

__all__ = ["refuse_one_within_another", "titles"]


def refuse_one_within_another(sources: Sequence[PatchSource]) -> None:
    """Sources of one set lie apart.

    Raises:
        ValueError: two are the same, or one lies in another.
    """
    roots = [source.root.resolve() for source in sources]
    for i, root in enumerate(roots):
        for j, other in enumerate(roots):
            if i != j and other in (root, *root.parents):
                tables = [sources[k].table for k in (i, j)]
                if all(tables) and root == other and tables[0] != tables[1]:
                    raise ValueError(
                        f"tables of one folder must be one, got '{tables[0]}' and '{tables[1]}' in"
                        f" '{sources[i].root}': put their rows into one, with a column split"
                    )
                raise ValueError(
                    "folders and zips of one set must differ, and none lie in another, got"
                    f" '{sources[i].root}' and '{sources[j].root}': leave one out"
                )


def titles(sources: Sequence[PatchSource]) -> list[str]:
    """A name for each source: the end of its path, as long as it takes to tell it from others."""
    parts = [Path(os.path.abspath(source.root)).parts for source in sources]
    for length in range(1, max(map(len, parts), default=1) + 1):
        titles = ["/".join(p.strip() for p in own[-length:]) for own in parts]
        if len(set(titles)) == len(titles):
            break
    return titles
