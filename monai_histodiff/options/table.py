"""Every option of the bundles' configs, in one table: what it may be, and what it means.

The checks, their messages and ``docs/options.md`` are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_histodiff.data.sizes import LARGEST, SMALLEST
from monai_histodiff.options.config_names import (
    EVALUATE,
    EVERY,
    FINETUNE,
    GUIDANCE,
    INFERENCE,
    INNER,
    LDM_EVALUATE,
    LDM_INFERENCE,
    LDM_TRAIN,
    PRETRAINED,
    SAMPLING,
    SEED,
    STAGES,
    TRAIN,
    UNETS,
)
from monai_histodiff.options.option import (
    DEVICE,
    FLAG,
    LABELS,
    NUMBER,
    PATH,
    TEXT,
    WHOLE,
    Option,
)
from monai_histodiff.options.pretraining import PRETRAINING
from monai_histodiff.options.sampling import AS_MADE, SAMPLING_OPTIONS
from monai_histodiff.options.verdict import EVALUATION, with_verdict

__all__ = ["OPTIONS", "check_values", "options_of"]

PATCHES = "your patches: a folder, a zip or a table"
SOURCES = "folder that holds the patch sets that `sources` names"
OPTIONS: tuple[Option, ...] = (
    # ------------------------------------------------------------------------- places
    Option(
        "bundle_root",
        PATH,
        "folder of the bundle; of `finetune.json` and `verdict.json`: folder of both bundles",
        EVERY,
    ),
    Option(
        "output_dir", PATH, "folder that results are written to; made if it is not there", EVERY
    ),
    Option("dataset_dir", PATH, PATCHES, STAGES),
    Option("dataset_dir", PATH, SOURCES, PRETRAINED),
    Option(
        "dataset_dir",
        PATH,
        "not used; here because the Model Zoo expects the key",
        (INFERENCE,),
    ),
    Option("ldm_dir", PATH, "folder of the bundle `histopathology_ldm`", (*STAGES, INFERENCE)),
    Option("guidance_dir", PATH, "folder of the bundle `histopathology_guidance`", (FINETUNE,)),
    Option(
        "published_dir", PATH, "folder of a run of the published method, for arm `G0`", (EVALUATE,)
    ),
    Option("weights_dir", PATH, "folder `models` of a run, or of the bundle", (INFERENCE,)),
    Option(
        "weights", PATH, "file of another model to evaluate; empty: the bundle's", (LDM_EVALUATE,)
    ),
    # ------------------------------------------------------------------------- machine
    Option("device", DEVICE, "where it computes: `cpu`, `cuda` or `cuda:1`", EVERY),
    Option(
        "bfloat16",
        FLAG,
        "compute in bfloat16: twice as fast on GPUs from Ampere on and on a CPU with AVX-512 BF16 "
        "or AMX, slower on others; None: True on a GPU that computes in bfloat16, else False",
        (TRAIN, EVALUATE, *SAMPLING, *PRETRAINED),
        null=True,
    ),
    Option(
        "num_workers",
        WHOLE,
        "number of processes that load patches; 0: the main process loads them",
        (TRAIN, EVALUATE, *LDM_TRAIN),
        low=0,
        high=256,
    ),
    Option(
        "batch_size",
        WHOLE,
        "number of patches that are computed at once",
        (*GUIDANCE, LDM_INFERENCE, EVALUATE, *PRETRAINED),
        low=1,
    ),
    # ------------------------------------------------------------------------- data
    Option(
        "labels_per_class",
        LABELS,
        "labelled training patches of each class, a share of each class such as `5%`, or `all`",
        STAGES,
    ),
    Option(
        "draw",
        WHOLE,
        "which labelled patches are drawn; and which groups are for testing, where your data "
        "records no split",
        STAGES,
        **SEED,
    ),
    Option(
        "test_fraction",
        NUMBER,
        "share of the labelled patches of each class, in whole groups, that is held out for "
        "testing, where no split is recorded",
        STAGES[1:],
        **INNER,
    ),
    Option(
        "um_per_px",
        NUMBER,
        "micrometres per pixel of your patches whose manifest tells none; None: the model's",
        STAGES,
        low=0.02,
        high=16,
        null=True,
    ),
    Option(
        "um_per_px",
        NUMBER,
        "micrometres per pixel of the patches that are written; None: the model's",
        (INFERENCE,),
        low=0,
        above=True,
        null=True,
    ),
    Option(
        "patch_size",
        WHOLE,
        "height and width in pixels at the model's scale; None: what all your patches have there, "
        "at most the 128 that the generator was trained on",
        STAGES,
        low=SMALLEST,
        high=LARGEST,
        null=True,
    ),
    Option(
        "patch_size",
        WHOLE,
        f"height and width in pixels at the model's scale; {AS_MADE}",
        (INFERENCE,),
        low=SMALLEST,
        high=LARGEST,
        null=True,
    ),
    Option(
        "unlabelled_patches",
        WHOLE,
        "how many of the other training patches, at the most, are used without their labels",
        STAGES[:2],
        low=0,
    ),
    # ------------------------------------------------------------------------- trainings
    *PRETRAINING,
    Option(
        "adaptation_steps",
        WHOLE,
        "steps that adapt the generator to your patches; 0: it is not adapted",
        (TRAIN,),
        low=0,
    ),
    Option(
        "adaptation_learning_rate",
        NUMBER,
        "highest learning rate while the generator is adapted",
        (TRAIN,),
        low=0,
        above=True,
    ),
    Option("guide_steps", WHOLE, "training steps of the guide", (TRAIN,), low=1),
    Option(
        "critic_views",
        WHOLE,
        "augmented views of each patch that the critic is fitted on",
        (TRAIN,),
        low=1,
    ),
    Option(
        "critic_folds",
        WHOLE,
        "members of the critic, each fitted without one fold of the groups",
        (TRAIN,),
        low=2,
    ),
    Option(
        "encodings",
        WHOLE,
        "number of augmented encodings (latents) of each patch that the guide is trained on",
        (TRAIN,),
        low=1,
    ),
    Option(
        "encodings",
        WHOLE,
        "number of augmented encodings (latents) of each patch that the UNet is trained on",
        UNETS,
        low=1,
    ),
    Option(
        "adaptation_encodings",
        WHOLE,
        "augmented encodings (latents) of each patch that the generator is adapted to",
        (TRAIN,),
        low=1,
    ),
    # ------------------------------------------------------------------------- sampling
    *SAMPLING_OPTIONS,
    # ------------------------------------------------------------------------- selection
    Option("quota", WHOLE, "number of accepted patches wanted of each class", (TRAIN,), low=1),
    Option("max_candidates", WHOLE, "largest number of candidates of each class", (TRAIN,), low=1),
    Option(
        "surplus",
        NUMBER,
        "multiple of the quota that is collected, of which the most diverse patches are kept",
        (TRAIN,),
        low=1,
    ),
    Option(
        "target_precision",
        NUMBER,
        "precision on held-out real patches that the critic's threshold aims at",
        (TRAIN,),
        **INNER,
    ),
    Option(
        "trusted_share",
        NUMBER,
        "smallest share of the unlabelled patches that reach the critic's threshold: it is "
        "lowered until they do; 0: it stays as it is",
        (TRAIN,),
        low=0,
        high=1,
    ),
    Option("class", TEXT, "name of the class to sample; None: the first", (INFERENCE,), null=True),
    Option("accepted_only", FLAG, "write only patches that the critic accepts", (INFERENCE,)),
    # ------------------------------------------------------------------------- verdict
    *EVALUATION,
)
OPTIONS = with_verdict(OPTIONS)


def options_of(config: str) -> dict[str, Option]:
    """The options of a config, by name."""
    return {option.name: option for option in OPTIONS if config in option.configs}


def check_values(config: str, values: Mapping[str, Any]) -> None:
    """Refuse values that the options of a config may not have.

    Args:
        config: its name in the table.
        values: of some of its options, by name; other keys are not looked at.

    Raises:
        ValueError: with rule, value and remedy.
    """
    known = options_of(config)
    for name, value in values.items():
        if name in known:
            known[name].check(value)
    arms = values.get("arms")
    if arms is not None and "C" not in arms:
        raise ValueError(f"arms must include 'C', what all are compared with, got {list(arms)}")
    if arms is not None and len(arms) < 2 and not values.get("second_dir"):
        raise ValueError(f"arms must be two or more to compare, got {list(arms)}: add 'G'")
    share, steps = values.get("synthetic_probability", 0.0), values.get("classifier_steps", 1)
    if "A" in (arms or ()) and round((1 - share) * steps) < 1:
        raise ValueError(
            f"synthetic_probability must leave arm A, which shows real patches as G does, "
            f"one of the {steps} classifier_steps, got {share}: give less, or leave A out"
        )
    wanted = values.get("quota", 1) * values.get("surplus", 1)
    if (most := values.get("max_candidates", wanted)) < wanted:
        raise ValueError(
            f"max_candidates must be at least quota times surplus, {wanted:g}, or it is never "
            f"filled, got {most}: give more, or a smaller quota or surplus"
        )
    low, high = values.get("guidance_interval") or (0, 1)
    if not low <= high:
        raise ValueError(f"guidance_interval must rise, got [{low}, {high}]: exchange them")
