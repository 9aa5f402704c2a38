"""The options of the verdict, and those of ``verdict.json``, as a part of the table of options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from monai_histodiff.evaluation.arms import ARMS
from monai_histodiff.options.config_names import (
    EVALUATE,
    FINETUNE,
    INNER,
    SAMPLING,
    SEED,
)
from monai_histodiff.options.option import (
    FLAG,
    LABELS,
    NUMBER,
    PATH,
    SECTION,
    TEXT,
    TEXTS,
    WHOLE,
    WHOLES,
    Option,
)

__all__ = ["EVALUATION", "VERDICT", "VERDICT_ARMS", "with_verdict"]

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
EVALUATION: tuple[Option, ...] = (
    Option(
        "seeds",
        WHOLES,
        "random seeds: every arm is trained once with each; fewer than three never give a verdict",
        (FINETUNE, EVALUATE),
        **SEED,
    ),
    Option(
        "seeds",
        WHOLES,
        "random seeds: one patch is sampled from each",
        SAMPLING,
        low=0,
        high=2**32 - 1,
    ),
    Option(
        "arms",
        TEXTS,
        "arms that are trained and compared, see verdict.md",
        (FINETUNE, EVALUATE),
        choices=tuple(name for name, arm in ARMS.items() if "second" not in arm.needs),
    ),
    Option(
        "classifier_steps", WHOLE, "steps of each training of a classifier", (EVALUATE,), low=1
    ),
    Option(
        "synthetic_probability",
        NUMBER,
        "probability that a real patch is replaced by a synthetic one",
        (EVALUATE,),
        **INNER,
    ),
    Option(
        "full_probability_at",
        WHOLE,
        "a class with fewer accepted patches than this is replaced proportionally less often",
        (EVALUATE,),
        low=1,
    ),
    Option(
        "generator_metrics",
        FLAG,
        "measure the accepted patches class by class, by KID, recall and others",
        (EVALUATE,),
    ),
    Option(
        "further_steps",
        WHOLE,
        "steps of a further classifier that checks the candidates' labels; 0: none",
        (EVALUATE,),
        low=0,
    ),
    Option("replace", FLAG, "remove the results that are there, and write new ones", (EVALUATE,)),
    Option("tensorboard", FLAG, "write the figures of the verdict for TensorBoard", (EVALUATE,)),
    Option(
        "mlflow_uri",
        TEXT,
        "where MLflow keeps figures and report, such as `sqlite:///mlruns.db`; empty: nowhere",
        (EVALUATE,),
    ),
    Option("train", SECTION, "options of `train.yaml`, as `--train#quota 100`", (FINETUNE,)),
    Option(
        "evaluate",
        SECTION,
        "options of `evaluate.yaml`, as `--evaluate#further_steps 400`",
        (FINETUNE,),
    ),
)
OWN = (
    Option("synthetic_dir", PATH, "synthetic pictures of any origin: a folder or zip", (VERDICT,)),
    Option(
        "encoder",
        PATH,
        "encoder whose features measure fidelity and serve arm `J`: `timm:NAME`, "
        "`hf-hub:OWNER/NAME`, or a file of our own weights",
        (VERDICT,),
    ),
    Option(
        "critic_encoder",
        PATH,
        "encoder whose features the critic is fitted on, named as in `encoder`",
        (VERDICT,),
    ),
    Option(
        "second_dir",
        PATH,
        "a second set of synthetic pictures, compared with the first; empty: none",
        (VERDICT,),
    ),
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
    Option("refuse_copies", FLAG, "refuse pictures that copy a real training patch", (VERDICT,)),
    Option(
        "arms",
        TEXTS,
        "arms that are trained and compared, see verdict.md",
        (VERDICT,),
        choices=VERDICT_ARMS,
    ),
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
