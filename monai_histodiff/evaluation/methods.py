"""Which method results are of, and in what the methods of several results differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

__all__ = ["compare_methods", "differing"]

# "critic_losses" is in results of 0.17 and before
OF_A_DRAW = (
    "labels_per_class",
    *("draw", "critic_losses", "pseudo_labelled", "unlabelled_patches"),
)
# what data sets decide, or a run because of them
OF_DATA = ("um_per_px", "synthetic_um_per_px", "patch_size", "test_fraction")
# what version 0.18 and before record of the sampling, but for what a draw decides
OF_SAMPLING = (
    *("steps", "solver", "eta", "stop", "mode", "interval", "cap", "temperature", "autoguidance"),
    *("strength", "exemplar_scale", "exemplar_mix", "exemplar_noise", "class_scale"),
)
PARTS = "parts"  # a hash of all of a config that is no option
NO_OPTION = ("backbone", "synthetic sets")  # recorded, and told by no option
Run = Mapping[str, Any]


def compare_methods(one: Run, two: Run) -> Iterator[tuple[str, str, str]]:
    """In what the methods of two results differ: key, and both values in words.

    Options are compared key by key, and one that is not recorded differs from any value; of two
    versions of the program, those that both have, without the hash of the rest of a config.
    Results of version 0.18 and before have no options: what both record of settings and sampling
    is compared.
    """
    known = [_recorded(run) for run in (one, two)]
    for key in (key for key in known[0] if key in known[1]):
        if known[0][key] != known[1][key]:
            yield key, repr(known[0][key]), repr(known[1][key])
    told = [dict(run.get("options", {})) for run in (one, two)]
    if not all(told):
        return
    versions = [run.get("versions", {}).get("monai-histodiff") for run in (one, two)]
    keys = dict.fromkeys((*told[0], *told[1]))
    if versions[0] != versions[1]:
        keys = {k: None for k in keys if k in told[0] and k in told[1] and k[-6:] != f"#{PARTS}"}
    for key in keys:
        if not (key in told[0] and key in told[1] and told[0][key] == told[1][key]):
            first, second = (repr(own[key]) if key in own else "none" for own in told)
            yield key, first, second


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What of the method is not the same in all results, of whatever data set and label count:
    key, and its values in words. What the data decide is left out, and so is what an option tells.
    """
    found: dict[str, dict[str, None]] = {}
    for one, two in combinations(runs, 2):
        pairs = {
            key: values
            for key, *values in compare_methods(one, two)
            if key.rpartition("#")[2] not in OF_DATA
        }
        by_option = any("#" in key for key in pairs)
        for key, values in pairs.items():
            if "#" in key or not by_option or key in NO_OPTION:
                found.setdefault(key, {}).update(dict.fromkeys(values))
    return {key: [*values] for key, values in found.items()}


def _recorded(run: Run) -> dict[str, Any]:
    """What results of any version record of their method."""
    settings = {key: value for key, value in run["settings"].items() if key not in OF_A_DRAW}
    sampled = run.get("sampling", {})
    chosen = run.get("selection", {})
    return {
        **settings,
        **{key: sampled[key] for key in OF_SAMPLING if key in sampled},
        **{key: chosen[key] for key in ("target_precision",) if key in chosen},
        "synthetic sets": len(run.get("foreign", {}).get("sets", ())),
    }
