"""The options of ``verdict.json``, as a part of the table of options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from monai_histodiff.evaluation.arms import ARMS
from monai_histodiff.options.option import FLAG, LABELS, NUMBER, PATH, TEXTS, Option

__all__ = ["VERDICT", "VERDICT_ARMS", "with_verdict"]

VERDICT = "verdict"
VERDICT_ARMS = tuple(a for a in ARMS if "published" not in ARMS[a].needs)  # of a run of ours
# options of other configs that it has too, by the config
SHARED = {
    "train": (
        "unlabelled_patches",
        "critic_views",
        "critic_folds",
        "target_precision",
        "trusted_share",
    ),
    "evaluate": (
        *("bundle_root", "ldm_dir", "output_dir", "dataset_dir", "device", "num_workers"),
        *("bfloat16", "batch_size", "draw", "test_fraction", "um_per_px", "patch_size"),
        *("seeds", "classifier_steps", "synthetic_probability", "full_probability_at", "replace"),
        *("tensorboard", "mlflow_uri"),
    ),
}
OWN = (
    Option("synthetic_dir", PATH, "synthetic pictures of any origin: a folder or zip", (VERDICT,)),
    Option(
        "encoder",
        PATH,
        "what gives the features of fidelity and of arm `J`: `timm:NAME`, `hf-hub:OWNER/NAME`, or "
        "a file of our own weights",
        (VERDICT,),
    ),
    Option(
        "critic_encoder",
        PATH,
        "what gives the features that the critic is fitted on: as `encoder`",
        (VERDICT,),
    ),
    Option("second_dir", PATH, "a second set, to be set beside it; empty: none", (VERDICT,)),
    Option(
        "synthetic_um_per_px",
        NUMBER,
        "micrometres per pixel of synthetic pictures whose manifest tells none; None: as the real "
        "patches' files",
        (VERDICT,),
        low=0,
        above=True,
        null=True,
    ),
    Option(
        "labels_per_class",
        LABELS,
        "labelled training patches of each class that critic and arms have, a share such as `5%`, "
        "or `all`",
        (VERDICT,),
    ),
    Option("refuse_copies", FLAG, "refuse what copies a real training patch", (VERDICT,)),
    Option("arms", TEXTS, "what is compared, see verdict.md", (VERDICT,), choices=VERDICT_ARMS),
)


def with_verdict(table: Sequence[Option]) -> tuple[Option, ...]:
    """The table with the options of ``verdict.json``: those that it shares, and its own."""
    shared = {(config, name) for config, names in SHARED.items() for name in names}
    return (
        *(
            replace(option, configs=(*option.configs, VERDICT))
            if any((config, option.name) in shared for config in option.configs)
            else option
            for option in table
        ),
        *OWN,
    )
