"""The options of pre-training and of its evaluation, as a part of the table of options."""

from __future__ import annotations

from monai_histodiff.data.sizes import LARGEST, SMALLEST
from monai_histodiff.options.config_names import (
    DECODER,
    DIFFUSION,
    ENCODER,
    FEW_STEPS,
    GENERATORS,
    INNER,
    LDM_EVALUATE,
    LDM_TRAIN,
    LESS,
    PRETRAINED,
    SEED,
    SHARE,
    UNETS,
)
from monai_histodiff.options.option import (
    FLAG,
    NUMBER,
    NUMBERS,
    PATH,
    TEXT,
    TEXTS,
    WHOLE,
    WHOLES,
    Option,
)

__all__ = ["PRETRAINING"]

PRETRAINING: tuple[Option, ...] = (
    Option("encoder_dir", PATH, "folder of the bundle whose encoder describes exemplars", UNETS),
    Option("encoder_dir", PATH, "folder of the bundle whose encoder compares patches", (DECODER,)),
    Option("initial_weights", PATH, "file of the model whose decoder is sharpened", (DECODER,)),
    Option(
        "feature_weight",
        NUMBER,
        "weight of the distance between the encoder's maps in the loss",
        (DECODER,),
        low=0,
    ),
    Option(
        "adversarial_weight",
        NUMBER,
        "weight of the adversarial loss in the loss",
        (DECODER,),
        low=0,
    ),
    Option(
        "discriminator_learning_rate",
        NUMBER,
        "highest learning rate of the discriminator",
        (DECODER,),
        low=0,
    ),
    Option(
        "initial_weights", PATH, "file of the model to go on from; empty: a new UNet", (DIFFUSION,)
    ),
    Option(
        "initial_weights",
        PATH,
        "file of the teacher, from whose weights the student starts",
        (FEW_STEPS,),
    ),
    Option("student_steps", WHOLE, "steps of the student from pure noise", (FEW_STEPS,), low=1),
    Option("teacher_scale", NUMBER, "`exemplar_scale` of the teacher", (FEW_STEPS,), low=0),
    Option(
        "teacher_spacing",
        NUMBER,
        "log-SNR between two steps of the teacher",
        (FEW_STEPS,),
        low=0,
        above=True,
    ),
    Option("null_share", NUMBER, "share of the batches without exemplars", (FEW_STEPS,), **LESS),
    Option(
        "stored_exemplars", WHOLE, "number of patches whose descriptors are kept", UNETS, low=1
    ),
    Option(
        "autoencoder_weights", PATH, "file of the model whose autoencoder is taken", (DIFFUSION,)
    ),
    Option("sources", TEXTS, "names of the patch sets in `dataset_dir`", PRETRAINED),
    Option(
        "held_out", NUMBER, "share of the groups that is never trained on", GENERATORS, **INNER
    ),
    Option(
        "held_out",
        NUMBER,
        "share of the groups that is never trained on; 0: none",
        (ENCODER,),
        **LESS,
    ),
    Option(
        "labelled", TEXT, "name of the labelled patch set for the linear probe", (LDM_EVALUATE,)
    ),
    Option(
        "exemplar_set",
        TEXT,
        "name of a labelled patch set of exemplars; empty: none",
        (LDM_EVALUATE,),
    ),
    Option(
        "two_sample_steps", WHOLE, "training steps of the two-sample test", (LDM_EVALUATE,), low=1
    ),
    Option("seed", WHOLE, "seed of all random numbers", LDM_TRAIN, **SEED),
    Option("steps", WHOLE, "length of the training, in batches", LDM_TRAIN, low=1),
    Option("learning_rate", NUMBER, "highest learning rate", LDM_TRAIN, low=0),
    Option(
        "adamw_learning_rate",
        NUMBER,
        "highest learning rate of the parameters that are no matrices or kernels",
        UNETS,
        low=0,
    ),
    Option("epoch_length", WHOLE, "number of steps between two checkpoints", LDM_TRAIN, low=1),
    Option(
        "accumulation_steps",
        WHOLE,
        "number of batches for each step of the optimiser",
        LDM_TRAIN,
        low=1,
    ),
    Option("tensorboard", FLAG, "write curves and grids for TensorBoard", LDM_TRAIN),
    Option("weight_decay", NUMBER, "weight decay of AdamW", LDM_TRAIN, low=0),
    Option(
        "betas", NUMBERS, "the two decay rates of AdamW's averages", LDM_TRAIN, **LESS, length=2
    ),
    Option("ema_decay", NUMBER, "decay of the averaged weights for each step", LDM_TRAIN, **LESS),
    Option("save_interval", WHOLE, "number of epochs between saved weights", LDM_TRAIN, low=1),
    Option("log_every", WHOLE, "number of steps between logged losses", LDM_TRAIN, low=1),
    Option("view_size", WHOLE, "height and width of a view in pixels", (ENCODER,), low=8),
    Option(
        "views_per_patch", WHOLE, "number of views of each patch in a batch", (ENCODER,), low=2
    ),
    Option(
        "zoom",
        NUMBERS,
        "smallest and largest magnification of a view, relative to the patch",
        (ENCODER,),
        low=0,
        above=True,
        length=2,
    ),
    Option(
        "gain", NUMBER, "half-width of the factor of each stain in a view", (ENCODER,), **SHARE
    ),
    Option(
        "offset",
        NUMBER,
        "half-width of the offset of each stain in a view, in optical density",
        (ENCODER,),
        low=0,
    ),
    Option(
        "max_norm",
        NUMBER,
        "largest norm of the gradient: larger ones are scaled down to it",
        (ENCODER,),
        low=0,
        above=True,
    ),
    Option(
        "temperature", NUMBER, "temperature of the contrastive loss", (ENCODER,), low=0, above=True
    ),
    Option("num_samples", WHOLE, "number of samples that are evaluated", (LDM_EVALUATE,), low=1),
    Option(
        "read_at",
        NUMBER,
        "micrometres per pixel to which patches are resampled as they are read; None: they are "
        "taken as their files are, and those recorded at less than 0.56 or more than 1.8 refused",
        PRETRAINED,
        low=0,
        above=True,
        null=True,
    ),
    Option(
        "patch_size",
        WHOLE,
        "height and width in pixels; of larger patches a crop is taken, smaller ones are refused",
        LDM_TRAIN,
        low=32,
        high=LARGEST,
    ),
    Option(
        "patch_size",
        WHOLE,
        "height and width in pixels; the generator was trained on 128",
        (LDM_EVALUATE,),
        low=SMALLEST,
        high=LARGEST,
    ),
    Option(
        "sizes",
        WHOLES,
        "sizes of samples that are compared with real patches besides; None: none",
        (LDM_EVALUATE,),
        low=SMALLEST,
        high=LARGEST,
        null=True,
    ),
)
