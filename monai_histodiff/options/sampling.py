"""The options of sampling, as a part of the table of options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monai_histodiff.diffusion.settings import MODES
from monai_histodiff.diffusion.solvers import SOLVERS
from monai_histodiff.options.config_names import (
    FINETUNE,
    GUIDANCE,
    INFERENCE,
    INNER,
    LDM_EVALUATE,
    LDM_INFERENCE,
    SHARE,
    TRAIN,
)
from monai_histodiff.options.option import FLAG, NUMBER, NUMBERS, PATH, TEXT, WHOLE, Option

__all__ = ["AS_MADE", "SAMPLING_OPTIONS"]

STEPS: dict[str, Any] = {"low": 1, "high": 1000}
PRETRAINED = (LDM_INFERENCE, LDM_EVALUATE)
OF_STUDENT = "None: as `few_steps` wants it"
AS_MADE = "None: as for the run that made the weights"
OPTIONS: tuple[Option, ...] = (
    Option("solver", TEXT, "solver of the diffusion", (INFERENCE,), choices=tuple(SOLVERS)),
    Option(
        "eta",
        NUMBER,
        "noise that the solver `ddim` adds, 0 none and 1 ancestral",
        (INFERENCE,),
        **SHARE,
    ),
    Option(
        "solver_steps",
        WHOLE,
        "steps of the solver from pure noise; variations take those left at their `strength`",
        GUIDANCE,
        **STEPS,
    ),
    Option(
        "solver_steps", WHOLE, f"steps of the solver; {OF_STUDENT}", PRETRAINED, **STEPS, null=True
    ),
    Option("solver_stop", NUMBER, "log-SNR at which the solver stops", GUIDANCE, null=True),
    Option(
        "few_steps",
        FLAG,
        "sample the student, in 4 steps; False: the model that taught it, in 14",
        PRETRAINED,
    ),
    Option(
        "guidance_scales",
        NUMBERS,
        "scales of guidance that are tried, of which the lowest that fills the quotas is taken",
        (TRAIN,),
        low=0,
    ),
    Option(
        "scale_trials",
        WHOLE,
        "number of candidates of each class by which a scale of guidance is tried",
        (TRAIN,),
        low=1,
    ),
    Option(
        "guidance_scale",
        NUMBER,
        "strength of the guide: the exponent of its class probability; 0: the guide is not used",
        GUIDANCE,
        low=0,
    ),
    Option(
        "guidance_interval",
        NUMBERS,
        "lowest and highest log-SNR at which the guide acts",
        GUIDANCE,
        length=2,
    ),
    Option(
        "guidance_cap",
        NUMBER,
        "largest change by the guide, as a fraction of the predicted noise",
        GUIDANCE,
        low=0,
        above=True,
    ),
    Option(
        "guidance_mode",
        TEXT,
        "latent that the guide reads: the noisy one, the estimate of the clean one (`x0`), or the "
        "noisy one as if it were clean (`clean`)",
        GUIDANCE,
        choices=MODES,
    ),
    Option(
        "strength",
        NUMBER,
        "candidates are variations of real patches, noised to this time in (0, 1] and drawn "
        "anew; 1 draws them from pure noise",
        (FINETUNE, *GUIDANCE),
        **INNER,
    ),
    Option(
        "pseudo_labels",
        FLAG,
        "take unlabelled patches of which the critic is sure as sources, too",
        (TRAIN,),
    ),
    Option(
        "max_sources",
        WHOLE,
        "largest number of sources (encodings of patches) of each class",
        (TRAIN,),
        low=1,
    ),
    Option(
        "exemplar_scale",
        NUMBER,
        "weight of exemplars: 0 none, 1 as trained, more exaggerates them, at twice the cost",
        GUIDANCE,
        low=0,
    ),
    Option(
        "exemplar_scale",
        NUMBER,
        f"weight of exemplars: 1 as trained, more exaggerates them; {OF_STUDENT}",
        PRETRAINED,
        low=0,
        null=True,
    ),
    Option(
        "class_scale",
        NUMBER,
        "classifier-free guidance of a generator that draws classes by itself: 0 leaves its "
        "classes aside, 1 draws them as learned, more exaggerates them, at twice the cost",
        GUIDANCE,
        low=0,
    ),
    Option(
        "dataset_dir",
        PATH,
        "your patches, after one of which each sample is made; empty: after a stored exemplar",
        (LDM_INFERENCE,),
    ),
    Option(
        "stored_exemplars",
        PATH,
        "file of descriptors, after one of which each sample is made; empty: no exemplars",
        PRETRAINED,
    ),
    Option(
        "exemplar_mix",
        NUMBER,
        "largest share of a second exemplar of the class that is mixed into the first",
        GUIDANCE,
        **SHARE,
    ),
    Option(
        "exemplar_noise",
        NUMBER,
        "noise on the descriptor of an exemplar, in standard deviations",
        GUIDANCE,
        low=0,
    ),
)


def _as_made(option: Option) -> tuple[Option, ...]:
    """An option of sampling, which inference takes from the run where it is not given."""
    if INFERENCE not in option.configs or option.null:
        return (option,)
    rest = tuple(config for config in option.configs if config != INFERENCE)
    own = replace(option, configs=(INFERENCE,), null=True, help=f"{option.help}; {AS_MADE}")
    return (replace(option, configs=rest), own)


SAMPLING_OPTIONS = tuple(part for option in OPTIONS for part in _as_made(option))
