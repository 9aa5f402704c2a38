"""The selection of the published method, kept for comparison: the nearest class centroid, no calibration, no copy gate."""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import CenterSpatialCrop
from torch import Tensor
from torch.nn.functional import normalize

from monai_histodiff.critics import Critic
from monai_histodiff.distances import copy_distances, thumbnails, to_unit
from monai_histodiff.selection import ACCEPTED, Selection

__all__ = ["CentroidSelector"]


class CentroidSelector:
    """Keeps a candidate if, of all class centroids of the labelled patches, that of its own class is nearest.

    The rule of HistoDiffusion (Ye et al. 2023, arXiv:2308.04020), whose code takes L2-normalised features of a classifier
    fitted on the labelled patches; here those of the critic's members, one after another. Where the published code sorts
    what is left by distance and keeps a fixed number, :func:`~monai_histodiff.sample_candidates` keeps the first ones.
    Nothing is calibrated, and near copies are not refused. In ``bundles/histopathology_guidance/configs/published.json``.

    Args:
        critic: its members must be :class:`~monai_histodiff.PatchClassifier`.
        images: labelled patches, ``M x 3 x H x W``, uint8 or in [0, 1].
        labels: their classes, every class at least once.
        size: height and width of the centre crop from which the centroids are made: that of the candidates.

    Raises:
        ValueError: a class has no patch.
    """

    def __init__(self, critic: Critic, images: Tensor, labels: Tensor, size: int = 128) -> None:
        counts = torch.bincount(labels, minlength=critic.num_classes)
        if bool((counts == 0).any()):
            raise ValueError(f"a centroid needs at least one patch of its class, got none of class {int(counts.argmin())}")
        self.critic, self.real = critic, thumbnails(images)
        crop = CenterSpatialCrop(size)
        features = self._features(torch.stack([torch.as_tensor(crop(image)) for image in images]))
        self.centroids = normalize(torch.stack([features[labels == k].mean(0) for k in range(critic.num_classes)]))

    def __call__(self, patches: Tensor, labels: Any, origins: Tensor | None = None) -> Selection:
        """Judge candidate patches, ``N x 3 x H x W``, of the intended classes; the confidence is (1 + cosine) / 2. The published
        method makes no variations: ``origins`` are not read.
        """
        wanted = torch.as_tensor(labels, dtype=torch.long)
        cosine = self._features(patches) @ self.centroids.T
        distance, nearest = copy_distances(patches, self.real)
        keep = cosine.argmax(1) == wanted
        confidence = (1 + cosine.gather(1, wanted[:, None])[:, 0]) / 2
        return Selection(keep, confidence, distance, nearest, [ACCEPTED if k else "another centroid is nearer" for k in keep.tolist()])

    @property
    def settings(self) -> dict[str, Any]:
        """The rule in force."""
        return {"rule": "nearest centroid"}

    @torch.no_grad()
    def _features(self, patches: Tensor, batch_size: int = 64) -> Tensor:
        found: list[Tensor] = []
        heads = [member.get_submodule("resnet.fc") for member in self.critic.members]
        hooks = [head.register_forward_pre_hook(lambda _, inputs: found.append(normalize(inputs[0].float()).cpu())) for head in heads]
        try:
            parts = []
            for part in patches.split(batch_size):
                self.critic(to_unit(part).to(self.critic.temperature.device))
                parts.append(torch.cat(found, 1))
                found.clear()
        finally:
            for hook in hooks:
                hook.remove()
        return normalize(torch.cat(parts))
