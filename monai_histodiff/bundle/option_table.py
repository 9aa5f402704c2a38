"""Every option of the bundles' configs, in one table: what it may be, and what it means.

The checks, their messages and ``docs/options.md`` are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_histodiff.bundle.options import (
    DEVICE,
    FLAG,
    LABELS,
    NUMBER,
    NUMBERS,
    PATH,
    SECTION,
    TEXT,
    TEXTS,
    WHOLE,
    WHOLES,
    Option,
)
from monai_histodiff.bundle.verdict_options import with_verdict
from monai_histodiff.diffusion.settings import MODES
from monai_histodiff.diffusion.solvers import SOLVERS
from monai_histodiff.evaluation.arms import ARMS

__all__ = ["OPTIONS", "check_values", "options_of"]

FINETUNE, TRAIN, EVALUATE, INFERENCE = "finetune", "train", "evaluate", "inference"
LDM_INFERENCE, LDM_EVALUATE = "ldm inference", "ldm evaluate"
LDM_TRAIN = ("ldm train_autoencoder", "ldm train_diffusion", "ldm train_encoder")
DEMO = "make_demo"
STAGES = (FINETUNE, TRAIN, EVALUATE)
SAMPLING = (INFERENCE, LDM_INFERENCE)
GUIDANCE = (TRAIN, INFERENCE)
PRETRAINED = (*LDM_TRAIN, LDM_EVALUATE)
GENERATORS = (*LDM_TRAIN[:2], LDM_EVALUATE)
EVERY = (*STAGES, *SAMPLING, *PRETRAINED, DEMO)

SEED: dict[str, Any] = {"low": 0, "high": 2**32 - 1}
SHARE: dict[str, Any] = {"low": 0, "high": 1}
INNER: dict[str, Any] = {"low": 0, "high": 1, "above": True}

OPTIONS: tuple[Option, ...] = (
    # ------------------------------------------------------------------------- places
    Option("bundle_root", PATH, "folder of the bundle (of finetune: of the bundles)", EVERY),
    Option("output_dir", PATH, "where results go; made if need be", EVERY),
    Option(
        "dataset_dir", PATH, "your patches: a folder or a zip; `DATA` of the LDM bundle", EVERY
    ),
    Option("ldm_dir", PATH, "the bundle `histopathology_ldm`", (*STAGES, INFERENCE)),
    Option("guidance_dir", PATH, "the bundle `histopathology_guidance`", (FINETUNE,)),
    Option("published_dir", PATH, "a run of the published method, for arm `G0`", (EVALUATE,)),
    Option("weights_dir", PATH, "`models` of a run, or of the bundle", (INFERENCE,)),
    Option("demo_file", PATH, "the zip to write", (DEMO,)),
    Option("weights", PATH, "the model to evaluate", (LDM_EVALUATE,)),
    Option("autoencoder_weights", PATH, "model whose autoencoder is taken", LDM_TRAIN[1:2]),
    Option("initial_weights", PATH, "model to go on from; empty: a new UNet", LDM_TRAIN[1:2]),
    # ------------------------------------------------------------------------- machine
    Option("device", DEVICE, "`cpu`, `cuda` or `cuda:1`", EVERY),
    Option(
        "bfloat16",
        FLAG,
        "compute in bfloat16; on a CPU with AVX-512 BF16 or AMX twice as fast",
        (TRAIN, *SAMPLING, *PRETRAINED),
        null=True,
    ),
    Option(
        "num_workers",
        WHOLE,
        "processes that load patches; 0: the main process does",
        (TRAIN, EVALUATE, *LDM_TRAIN),
        low=0,
    ),
    Option(
        "batch_size",
        WHOLE,
        "patches at once",
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
        "held out for testing, where no split is recorded",
        STAGES[1:],
        **INNER,
    ),
    Option(
        "patch_size",
        WHOLE,
        "height and width in pixels, a multiple of 32; the generator was trained on 128",
        (TRAIN, EVALUATE, LDM_EVALUATE),
        low=96,
        high=512,
    ),
    Option(
        "unlabelled_patches",
        WHOLE,
        "how many of the other training patches, at the most, the generator is adapted to, "
        "without their labels",
        STAGES[:2],
        low=0,
    ),
    Option("sources", TEXTS, "patch sets in `dataset_dir`", PRETRAINED),
    Option(
        "held_out", NUMBER, "share of the groups that is never trained on", GENERATORS, **INNER
    ),
    Option(
        "held_out",
        NUMBER,
        "share of the groups that is never trained on; 0: none",
        LDM_TRAIN[2:],
        **SHARE,
    ),
    Option("labelled", TEXT, "labelled patch set for the linear probe", (LDM_EVALUATE,)),
    # ------------------------------------------------------------------------- trainings
    Option("seed", WHOLE, "of all random numbers", LDM_TRAIN, **SEED),
    Option("steps", WHOLE, "of the training, in batches", LDM_TRAIN, low=1),
    Option("learning_rate", NUMBER, "its peak", LDM_TRAIN, low=0),
    Option("epoch_length", WHOLE, "steps between checkpoints", LDM_TRAIN, low=1),
    Option(
        "accumulation_steps", WHOLE, "batches for each step of the optimiser", LDM_TRAIN, low=1
    ),
    Option("tensorboard", FLAG, "write curves and grids for TensorBoard", LDM_TRAIN),
    Option("weight_decay", NUMBER, "of AdamW", LDM_TRAIN, low=0),
    Option("betas", NUMBERS, "of AdamW", LDM_TRAIN, low=0, high=1, length=2),
    Option("ema_decay", NUMBER, "of the averaged weights, for each step", LDM_TRAIN, **SHARE),
    Option("save_interval", WHOLE, "epochs between saved weights", LDM_TRAIN, low=1),
    Option("log_every", WHOLE, "steps between logged losses", LDM_TRAIN, low=1),
    Option("view_size", WHOLE, "height and width of a view", LDM_TRAIN[2:], low=8),
    Option("views_per_patch", WHOLE, "views of each patch in a batch", LDM_TRAIN[2:], low=2),
    Option(
        "zoom",
        NUMBERS,
        "smallest and largest magnification of a view, relative to the patch",
        LDM_TRAIN[2:],
        low=0,
        above=True,
        length=2,
    ),
    Option(
        "gain", NUMBER, "half-width of the factor of each stain in a view", LDM_TRAIN[2:], **SHARE
    ),
    Option(
        "offset",
        NUMBER,
        "half-width of the offset of each stain, optical density",
        LDM_TRAIN[2:],
        low=0,
    ),
    Option(
        "max_norm",
        NUMBER,
        "larger gradients are scaled down to it",
        LDM_TRAIN[2:],
        low=0,
        above=True,
    ),
    Option("temperature", NUMBER, "of the contrastive loss", LDM_TRAIN[2:], low=0, above=True),
    Option(
        "adaptation_steps", WHOLE, "of the generator on your patches; 0: none", (TRAIN,), low=0
    ),
    Option("adaptation_learning_rate", NUMBER, "its peak", (TRAIN,), low=0),
    Option("guide_steps", WHOLE, "of the guide", (TRAIN,), low=1),
    Option("critic_steps", WHOLE, "of each member of the critic", (TRAIN,), low=1),
    Option("critic_folds", WHOLE, "members of the critic", (TRAIN, EVALUATE, INFERENCE), low=2),
    Option("encodings", WHOLE, "augmented encodings of each patch", (TRAIN, LDM_TRAIN[1]), low=1),
    Option("adaptation_encodings", WHOLE, "the same, for the adaptation", (TRAIN,), low=1),
    # ------------------------------------------------------------------------- sampling
    Option("solver", TEXT, "how the diffusion is solved", (INFERENCE,), choices=tuple(SOLVERS)),
    Option("eta", NUMBER, "noise of `ddim`", (INFERENCE,), **SHARE),
    Option(
        "solver_steps", WHOLE, "of the solver", (*GUIDANCE, LDM_INFERENCE, LDM_EVALUATE), low=1
    ),
    Option("solver_stop", NUMBER, "log-SNR at which the solver stops", GUIDANCE, null=True),
    Option("guidance_scales", NUMBERS, "scales that are tried", (TRAIN,), low=0),
    Option("scale_trials", WHOLE, "candidates of each class at each scale tried", (TRAIN,), low=1),
    Option("guidance_scale", NUMBER, "exponent of the class probability", GUIDANCE, low=0),
    Option(
        "guidance_interval",
        NUMBERS,
        "log-SNR between which guide and weak model act",
        GUIDANCE,
        length=2,
    ),
    Option(
        "guidance_cap",
        NUMBER,
        "largest change by the guide, of the predicted noise",
        GUIDANCE,
        low=0,
        above=True,
    ),
    Option("guidance_mode", TEXT, "what the guide reads", GUIDANCE, choices=MODES),
    Option(
        "autoguidance",
        NUMBER,
        "away from the weak model; 1: none",
        (*GUIDANCE, LDM_INFERENCE, LDM_EVALUATE),
        low=1,
    ),
    Option(
        "strength",
        NUMBER,
        "candidates are variations of labelled patches, noised to this time in (0, 1] and drawn "
        "anew; 1 draws them from pure noise",
        (FINETUNE, *GUIDANCE),
        **INNER,
    ),
    # ------------------------------------------------------------------------- selection
    Option("quota", WHOLE, "accepted patches wanted of each class", (TRAIN,), low=1),
    Option("max_candidates", WHOLE, "candidates of each class, at the most", (TRAIN,), low=1),
    Option(
        "surplus",
        NUMBER,
        "multiple of the quota from which the most diverse are kept",
        (TRAIN,),
        low=1,
    ),
    Option("target_precision", NUMBER, "that the critic's threshold aims at", (TRAIN,), **INNER),
    Option("class", TEXT, "name of the class to sample", (INFERENCE,)),
    Option("accepted_only", FLAG, "keep only what the critic accepts", (INFERENCE,)),
    # ------------------------------------------------------------------------- verdict
    Option(
        "seeds",
        WHOLES,
        "of finetune and evaluate: one training of every arm for each, fewer than three never "
        "give a verdict; of inference: one patch for each",
        (FINETUNE, EVALUATE, *SAMPLING),
        low=0,
    ),
    Option(
        "arms",
        TEXTS,
        "what is compared, see verdict.md",
        (FINETUNE, EVALUATE),
        choices=tuple(arm for arm in ARMS if arm != "G2"),  # of verdict.json alone
    ),
    Option("classifier_steps", WHOLE, "of each training of a classifier", (EVALUATE,), low=1),
    Option(
        "synthetic_probability",
        NUMBER,
        "of a synthetic patch in place of a real one",
        (EVALUATE,),
        **SHARE,
    ),
    Option(
        "full_probability_at",
        WHOLE,
        "accepted patches of a class from which on it holds",
        (EVALUATE,),
        low=1,
    ),
    Option("generator_metrics", FLAG, "measure the generator, class by class", (EVALUATE,)),
    Option(
        "further_steps",
        WHOLE,
        "of a further classifier that checks labels; 0: none",
        (EVALUATE,),
        low=0,
    ),
    Option("replace", FLAG, "write results anew", (EVALUATE,)),
    Option("num_samples", WHOLE, "samples to evaluate", (LDM_EVALUATE,), low=1),
    Option("classes", TEXTS, "class names", (DEMO,)),
    Option("train_per_class", WHOLE, "training patches of each class", (DEMO,), low=1),
    Option("test_per_class", WHOLE, "test patches of each class", (DEMO,), low=1),
    Option("train", SECTION, "options of the training stage, as `--train#quota 100`", (FINETUNE,)),
    Option(
        "evaluate",
        SECTION,
        "options of the evaluation, as `--evaluate#further_steps 400`",
        (FINETUNE,),
    ),
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
    if "C" not in (arms := values.get("arms", ("C",))):
        raise ValueError(f"arms must include 'C', what all are compared with, got {list(arms)}")
    low, high = values.get("guidance_interval", (0, 1))
    if not low <= high:
        raise ValueError(f"guidance_interval must rise, got [{low}, {high}]: exchange them")
    if rest := (size := values.get("patch_size", 0)) % 32:
        raise ValueError(f"patch_size must be a multiple of 32, got {size}: give {size - rest}")
    if values.get("solver_stop") is not None and values.get("solver_steps", 2) < 2:
        raise ValueError("solver_steps must be at least 2 with a solver_stop, got 1: give more")
