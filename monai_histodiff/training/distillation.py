"""Distillation of a diffusion model into one that needs few steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from monai.utils import CommonKeys
from torch import Tensor

from monai_histodiff.diffusion.guidance import condition_guide
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.schedules import log_snr_grid
from monai_histodiff.diffusion.settings import check_guidance
from monai_histodiff.diffusion.solvers import Denoiser, dpmpp_2m
from monai_histodiff.training.steps import batch_tensor, bfloat16_autocast
from monai_histodiff.utils.bfloat16 import check_bfloat16
from monai_histodiff.utils.counts import check_from

__all__ = ["DistillationPrepareBatch"]


class DistillationPrepareBatch:
    r"""``prepare_batch`` for a student that does in one DDIM step what its teacher does in many.

    The times from 1 to 0 are cut into ``steps`` equal parts. A batch is noised to the beginning
    :math:`t` of one of them, the teacher solves on to its end :math:`s`, and the student learns
    the estimate :math:`\hat z_0` with which one step of DDIM leads there (progressive
    distillation, Salimans & Ho 2022, arXiv:2202.00512, in one go):

    .. math:: \hat z_0 = \frac{z_s - (\sigma_s / \sigma_t) z_t}{\alpha_s - (\sigma_s / \sigma_t)
       \alpha_t}

    The teacher is guided by exemplars (Meng et al. 2023, arXiv:2210.03142), so that the student
    needs one evaluation for the teacher's two. It is sampled by DDIM at equally spaced times:
    ``GuidedSampler(student, solver="ddim", steps=steps, exemplar_scale=1)``.

    Args:
        student: gives the noise schedule and what is predicted.
        teacher: a model of the same latents and schedule, which is not trained; ``None``: a copy
            of the student as it is now.
        steps: of the student, from pure noise.
        scale: ``exemplar_scale`` of the teacher.
        spacing: the teacher steps at most so far in log-SNR.
        stop: log-SNR from which the teacher takes its estimate of the clean latent.
        interval: log-SNR in which the teacher is guided.
        null_share: probability that a batch is one without exemplars, in [0, 1).
        bfloat16: the teacher computes under bfloat16 autocast; ``None``: on a GPU that computes
            in it.

    Raises:
        ValueError: a number is out of range, the teacher shares the student's UNet or is of
            another schedule or other latents, or the items have no descriptors.
    """

    def __init__(
        self,
        student: LatentDiffusion,
        teacher: LatentDiffusion | None = None,
        steps: int = 4,
        scale: float = 1.5,
        spacing: float = 1.25,
        stop: float = 4.0,
        interval: tuple[float, float] = (-6.0, 6.0),
        null_share: float = 0.1,
        bfloat16: bool | None = None,
    ) -> None:
        check_guidance(interval=interval, exemplar_scale=scale)
        check_from(1, steps=steps)
        check_bfloat16(bfloat16)
        if not 0 < spacing < math.inf:
            raise ValueError(f"spacing must be positive and finite, got {spacing}")
        if not 0 <= null_share < 1:
            raise ValueError(f"null_share must lie in [0, 1), got {null_share}")
        if teacher is not None:
            _check_teacher(student, teacher)
        self.student, taught_by = student, copy.deepcopy(student) if teacher is None else teacher
        self.teacher = taught_by.eval().requires_grad_(False)
        self.scale, self.interval = scale, interval
        self.null_share, self.bfloat16 = null_share, bfloat16
        schedule = student.schedule
        table = schedule.log_snr_table
        bounds = torch.linspace(1, 0, steps + 1, dtype=table.dtype, device=table.device)
        self.grids = []
        for i, (t, s) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            first, last = (float(schedule.log_snr(table.new_tensor(v))) for v in (t, s))
            last = stop if i == steps - 1 else last
            if not first < last:
                rule = f"stop must lie beyond the {first:.2f} where the last step begins"
                raise ValueError(f"{rule}, got {stop}")
            count = math.ceil((last - first) / spacing)
            self.grids.append(log_snr_grid(schedule, count, t, last))
        self.bounds = bounds

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: Any = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...], dict[str, Any]]:
        if "descriptor" not in batchdata:
            rule = "a student of exemplars is trained on latents with descriptors"
            raise ValueError(f"{rule}, got none: encode them with describe=")
        z0, descriptors = (
            batch_tensor(batchdata, key, device, non_blocking).float()
            for key in (CommonKeys.IMAGE, "descriptor")
        )
        null = torch.rand((), dtype=torch.float32) < self.null_share
        given = () if null else (descriptors,)
        step = int(torch.randint(len(self.grids), (), dtype=torch.long))
        t = self.bounds[step].expand(len(z0))
        noisy, _target = self.student.target(z0, torch.randn_like(z0), t)
        with torch.no_grad(), bfloat16_autocast(noisy, self.bfloat16):
            clean = self._taught(noisy, step, given)
        alpha, sigma = self.student.schedule.alpha_sigma(self.bounds[step])
        noise = (noisy - alpha * clean) / sigma
        return noisy, self.student.target(clean, noise, t)[1], (t * 1000, *given), {}

    def _taught(self, z: Tensor, step: int, given: tuple[Tensor, ...]) -> Tensor:
        """The estimate of the clean latent with which DDIM gets where the teacher gets; in the
        last step the teacher's own.
        """

        def plain(*condition: Tensor) -> Denoiser:
            return lambda z, t: self.teacher.denoise(z, t, *condition).float()

        schedule, denoise = self.teacher.schedule, plain(*given)
        if given:
            denoise = condition_guide(denoise, plain(), self.scale, schedule, self.interval)
        grid = self.grids[step]
        end = dpmpp_2m(denoise, z, schedule, grid)
        if step == len(self.grids) - 1:
            return denoise(end, grid[-1].expand(len(end)))
        alpha, sigma = schedule.alpha_sigma(self.bounds[step : step + 2])
        ratio = sigma[1] / sigma[0]
        return (end - ratio * z) / (alpha[1] - ratio * alpha[0])


def _check_teacher(student: LatentDiffusion, teacher: LatentDiffusion) -> None:
    if {*student.unet.parameters()} & {*teacher.unet.parameters()}:
        raise ValueError(
            "teacher must have a UNet of its own, which is not trained, got the student's: leave "
            "it out (a copy of the student), or give another model"
        )
    own, known = student.state_dict(), teacher.state_dict()
    for name in ("schedule.log_snr_table", "schedule.is_flow", "latent_mean", "latent_std"):
        if not torch.equal(own[name].cpu(), known[name].cpu()):
            raise ValueError(
                f"teacher must have the student's latents and schedule, got another {name}: "
                "make both of one model, as by load_weights"
            )
