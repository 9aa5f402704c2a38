"""The settings of a sampler, and the rules that they obey."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_histodiff.diffusion.solvers import SAME_TIME, SOLVERS

__all__ = ["MODES", "TAUGHT", "SamplingSettings", "check_guidance", "check_taught"]

# of the student, models/few_steps.pt
TAUGHT: dict[str, Any] = {
    **{"solver": "ddim", "eta": 0.0, "steps": 4, "stop": None},
    "exemplar_scale": 1.0,
}
MANY: dict[str, Any] = {"steps": 14, "stop": 4.0, "exemplar_scale": 1.5}
MODES = ("noisy", "x0", "clean")
SIZES = (1, 4096)  # pixels


def check_guidance(
    scale: float = 1.0,
    interval: tuple[float, float] = (-math.inf, math.inf),
    cap: float = math.inf,
    temperature: float = 1.0,
    mode: str = "noisy",
    exemplar_scale: float = 1.0,
    class_scale: float = 1.0,
) -> None:
    """Check the settings of the functions of :mod:`monai_histodiff.diffusion.guidance`.

    Raises:
        ValueError: a scale is negative or not finite, the cap is not positive, the interval is
            empty, the temperature is not positive and finite, or the mode is unknown. NaN is never
            in range.
    """
    if not 0 <= scale < math.inf:
        raise ValueError(f"guidance scale must be at least 0 and finite, got {scale}")
    if not 0 <= exemplar_scale < math.inf:
        raise ValueError(f"exemplar_scale must be at least 0 and finite, got {exemplar_scale}")
    if not 0 <= class_scale < math.inf:
        raise ValueError(f"class_scale must be at least 0 and finite, got {class_scale}")
    if not cap > 0:
        raise ValueError(f"guidance cap must be positive, got {cap}")
    if not interval[0] <= interval[1]:
        raise ValueError(f"guidance interval must rise, got {tuple(interval)}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got '{mode}'")


def check_taught(chosen: Mapping[str, Any], taught: Mapping[str, Any]) -> None:
    """Refuse settings of a model that was taught to sample by others.

    Raises:
        ValueError: one that was taught has another value, and the message tells all; or a
            variation starts at a time that was not taught.
    """
    wrong = {k: chosen[k] for k, v in taught.items() if k in chosen and chosen[k] != v}
    if wrong:
        known, given = (", ".join(f"{k} {v}" for k, v in d.items()) for d in (taught, wrong))
        raise ValueError(
            f"few steps must be those that the student was taught ({known}), got {given}: set "
            "few_steps to False (the model of LatentDiffusion.from_bundle takes all), or leave "
            "these as they were taught (SamplingSettings.pretrained)"
        )
    strength, steps = chosen["strength"], taught.get("steps", 0)
    if abs((left := strength * steps) - round(left)) > SAME_TIME:
        near = [n / steps for n in (math.floor(left), math.ceil(left)) if n]
        raise ValueError(
            f"strength must leave whole steps of the {steps} that the student was taught, got "
            f"{strength}: set it to {' or '.join(map(str, near))}, or few_steps to False"
        )


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """All that a patch depends on besides the networks, the sources, its class and its seed.

    Args:
        steps: solver steps from pure noise, one evaluation of the UNet each. A variation takes as
            many of them as are left at its ``strength``.
        solver: ``"dpmpp_2m"`` (times equally spaced in log-SNR) or ``"ddim"`` (equally spaced),
            see :mod:`monai_histodiff.diffusion.solvers`.
        eta: stochasticity of ``"ddim"``, in [0, 1]; ``"dpmpp_2m"`` is deterministic and has none.
        stop: log-SNR at which the solver stops and the model's estimate of the clean latent is
            taken, as the last of the ``steps``; ``None`` solves to the end. Beyond 4 or so a step
            changes little but noise that the decoder bears.
        scale: guidance scale.
        mode: ``"noisy"``, ``"x0"`` or ``"clean"``, see :mod:`monai_histodiff.diffusion.guidance`.
        interval: log-SNR range in which the guide, and scales other than 1, act.
        cap: largest change of the predicted noise by the guide, as a fraction of its norm.
        temperature: divides the guide's logits.
        strength: time in (0, 1] to start from: 1 is pure noise; less starts from a source of the
            class, drawn by the seed and noised to that time, and makes a variation of it (SDEdit,
            Meng et al. 2022, arXiv:2108.01073).
        exemplar_scale: scale of the guidance by exemplars, see
            :func:`monai_histodiff.diffusion.guidance.condition_guide`; where there are exemplars,
            0 leaves them aside, 1 draws what they show, and others evaluate the UNet twice.
        exemplar_mix: largest share, in [0, 1], of a second exemplar of the same class in the
            descriptor; it is uniform between 0 and that from patch to patch. It mixes what the
            seeds draw, not exemplars that are given to a call.
        exemplar_noise: standard deviation of noise on the descriptor, in standard deviations of
            those of the pre-training.
        class_scale: the same for the classes of a model that draws classes by itself, see
            :attr:`LatentDiffusion.num_classes`; it works beside ``scale``, that of the guide.
        size: height and width of the patches, in pixels; ``None`` is the size that the model was
            trained on. Other sizes are of the same magnification: they show more or less tissue.
        bfloat16: compute under bfloat16 autocast; ``None``: on a GPU that computes in it. On a CPU
            it about doubles the speed where the processor has AVX-512 BF16 or AMX, and a patch
            then depends on its batch by rounding.

    Raises:
        ValueError: a setting is out of range.
    """

    steps: int = 20
    solver: str = "dpmpp_2m"
    eta: float = 0.0
    stop: float | None = None
    scale: float = 3.0
    mode: str = "noisy"
    interval: tuple[float, float] = (-6.0, 6.0)
    cap: float = 0.5
    temperature: float = 1.0
    strength: float = 1.0
    exemplar_scale: float = 1.0
    exemplar_mix: float = 0.0
    exemplar_noise: float = 0.0
    class_scale: float = 1.0
    size: int | None = None
    bfloat16: bool | None = None

    @classmethod
    def pretrained(cls, few_steps: bool = True, **changes: Any) -> SamplingSettings:
        """The settings of the shipped model, or of its student.

        Args:
            few_steps: those of the student, ``models/few_steps.pt``: four steps of DDIM, which
                hold the guidance by exemplars. Otherwise those of its teacher,
                ``models/model.pt``: 14 steps of DPM-Solver++, and twice as many evaluations.
            changes: others, by name; ``None`` changes nothing, nor does it take the model's
                ``stop`` away: ``GuidedSampler.replace(stop=None)`` does.

        Raises:
            TypeError: there is no setting of that name.
            ValueError: a setting is out of range, or not as the student was taught it.
        """
        own = TAUGHT if few_steps else MANY
        chosen = {name: value for name, value in changes.items() if value is not None}
        made = cls(**{**own, **chosen})
        check_taught(vars(made), TAUGHT if few_steps else {})
        return made

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("size", self.size)):
            odd = isinstance(value, bool) or not isinstance(value, (int, np.integer))
            if value is not None and odd:
                raise ValueError(f"{name} must be a whole number, got {value!r}: round it")
        if self.steps < (least := 1 if self.stop is None else 2):
            rule = "1" if least == 1 else "2 with a stop, the last of which is the estimate"
            raise ValueError(f"steps must be at least {rule}, got {self.steps}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {tuple(SOLVERS)}, got '{self.solver}'")
        if not 0 <= self.eta <= 1 or (self.eta > 0 and not SOLVERS[self.solver].stochastic):
            rule = "eta must lie in [0, 1], and be 0 for a deterministic solver"
            raise ValueError(f"{rule}, got {self.eta} for '{self.solver}'")
        if len(self.interval) != 2:
            raise ValueError(f"guidance interval must be two log-SNRs, got {tuple(self.interval)}")
        low, high = (float(v) for v in self.interval)
        object.__setattr__(self, "interval", (low, high))  # a config's list would not be frozen
        check_guidance(
            self.scale,
            self.interval,
            self.cap,
            self.temperature,
            self.mode,
            self.exemplar_scale,
            self.class_scale,
        )
        if not 0 <= self.exemplar_mix <= 1:
            raise ValueError(f"exemplar_mix must lie in [0, 1], got {self.exemplar_mix}")
        if not 0 <= self.exemplar_noise < math.inf:
            rule = "exemplar_noise must be at least 0 and finite"
            raise ValueError(f"{rule}, got {self.exemplar_noise}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {self.strength}")
        if self.size is not None and not SIZES[0] <= self.size <= SIZES[1]:
            raise ValueError(
                f"size must lie from {SIZES[0]} to {SIZES[1]} pixels, got {self.size}"
            )
        if self.bfloat16 is not None and not isinstance(self.bfloat16, bool):
            raise ValueError(f"bfloat16 must be True, False or None, got {self.bfloat16!r}")
