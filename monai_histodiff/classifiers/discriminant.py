"""Fisher's linear discriminant with each patch a class, from two views of each patch: the last
layer of a :class:`PatchEncoder`, and how it is fitted to a target.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.classifiers.first_batch import check_finite
from monai_histodiff.classifiers.views import PatchViews
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import to_unit
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.global_state import kept_random_state
from monai_histodiff.utils.modes import evaluating
from monai_histodiff.utils.progress import patient
from monai_histodiff.utils.weights import read_state, write_state

__all__ = ["Scatter", "adapted_encoder", "view_scatter"]

logger = logging.getLogger(__name__)
SCATTER = "scatter.pt"  # beside encoder.pt
FEATURES = 256  # of an adapted encoder
LEAST_SPREAD = 1e-3
STEPS = 32767  # of a correlation in a file


@dataclass(frozen=True)
class Scatter:
    """Mean and covariance of the statistics of patches of which two views are known.

    Attributes:
        count: number of patches.
        mean: of the views, shape ``R``, float64.
        within: half the mean outer product of the difference of the views of a patch, ``R x R``.
        between: covariance of the patches' means, ``R x R``.
        encoder: whose statistics they are, see :meth:`PatchEncoder.digest`.
    """

    count: int
    mean: Tensor
    within: Tensor
    between: Tensor
    encoder: str = ""

    @classmethod
    def of(cls, first: Tensor, second: Tensor, encoder: str = "") -> Scatter:
        """Of the statistics ``N x R`` of a first and of a second view of each patch.

        Raises:
            ValueError: there are fewer than two patches, or a statistic is not finite.
        """
        n = len(first)
        if n < 2:
            raise ValueError(f"a scatter needs at least 2 patches, got {n}")
        check_finite(torch.cat([first, second]))
        a, b = first.double(), second.double()
        mean = torch.cat([a, b]).mean(0)
        centre = (a + b) / 2 - mean
        return cls(n, mean, (a - b).T @ (a - b) / (2 * n), centre.T @ centre / n, encoder)

    def __add__(self, other: Scatter) -> Scatter:
        """Of the patches of both."""
        n = self.count + other.count
        own, new = self.count / n, other.count / n
        gap = self.mean - other.mean
        return Scatter(
            n,
            own * self.mean + new * other.mean,
            own * self.within + new * other.within,
            own * self.between + new * other.between + own * new * torch.outer(gap, gap),
            self.encoder,
        )

    def discriminant(self, features: int, ridge: float = 0.01) -> nn.Linear:
        """Fisher's linear discriminant with each patch a class.

        With the statistics standardised over all views (by 0.001 where they spread less), ``W``
        the covariance within patches plus ``ridge`` times the identity, and ``B`` that between
        patches, its directions solve ``B t = lambda W t``, ``t' W t = 1``; those with the largest
        ``lambda`` come first.

        Args:
            features: the number of directions, at most ``R``.
            ridge: keeps directions out in which the patches hardly differ.

        Returns:
            The layer from statistics to ``features`` values of mean 0 over these views.

        Raises:
            ValueError: ``features`` is larger than ``R`` or below 1, or ``ridge`` is not above 0
                and finite.
        """
        r = len(self.mean)
        check_from(1, features=features)
        if features > r:
            raise ValueError(f"features must lie between 1 and the {r} statistics, got {features}")
        if not 0 < ridge < math.inf:
            raise ValueError(f"ridge must be above 0 and finite, got {ridge}")
        variance = self.between.diagonal() + self.within.diagonal() / 2
        spread = variance.sqrt().clamp(min=LEAST_SPREAD)
        scale = torch.outer(spread, spread)
        within = self.within / scale + ridge * torch.eye(r, dtype=scale.dtype, device=scale.device)
        root = torch.linalg.inv(torch.linalg.cholesky(within))
        directions = torch.linalg.eigh(root @ (self.between / scale) @ root.T).eigenvectors
        weight = directions.flip(1)[:, :features].T @ root / spread
        layer = nn.Linear(r, features, dtype=torch.float32, device=weight.device)
        layer.requires_grad_(False)
        layer.weight.copy_(weight)
        layer.bias.copy_(-weight @ self.mean)
        return layer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to one file: the correlations above the diagonal, in steps of 1 / 32,767, and
        their scale.
        """
        upper = torch.triu_indices(*self.within.shape)
        state: dict[str, Any] = {
            "count": self.count,
            "mean": self.mean.float(),
            "encoder": self.encoder,
        }
        for name in ("within", "between"):
            found = getattr(self, name)
            scale = found.diagonal().sqrt().clamp(min=1e-12)
            state[f"{name}_scale"] = scale.float()
            correlation = (found / torch.outer(scale, scale))[tuple(upper)]
            state[name] = (correlation * STEPS).round().clamp(-STEPS, STEPS).short()
        write_state(path, state)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scatter:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file cannot be read, is damaged, or holds something else.
        """
        state = read_state(path)
        keys = ("count", "mean", "within", "between", "within_scale", "between_scale", "encoder")
        size = len(mean) if isinstance(mean := state.get("mean"), Tensor) else 0
        pairs = size * (size + 1) // 2
        if (
            mean is None
            or any(k not in state for k in keys)
            or ({tuple(state[k].shape) for k in keys[2:4]} != {(pairs,)})
        ):
            raise ValueError(f"a scatter must hold {', '.join(keys)}, got others in '{path}'")
        upper = torch.triu_indices(size, size)

        def whole(name: str) -> Tensor:
            found = torch.zeros(size, size, dtype=torch.float64)
            found[tuple(upper)] = state[name].double() / STEPS
            found = torch.where(found == 0, found.T, found)
            scale = state[f"{name}_scale"].double()
            return found * torch.outer(scale, scale)

        within, between = whole("within"), whole("between")
        return cls(int(state["count"]), mean.double(), within, between, str(state["encoder"]))

    @classmethod
    def beside(cls, source: str | os.PathLike[str]) -> Scatter | None:
        """That of an encoder, ``scatter.pt`` beside its file; ``None`` where there is none.

        Args:
            source: where the encoder is from, a bundle or a file.

        Raises:
            ValueError: as :meth:`load`.
        """
        home = Path(source) / "models" if Path(source).is_dir() else Path(source).parent
        return cls.load(home / SCATTER) if (home / SCATTER).is_file() else None


@torch.no_grad()
def view_scatter(encoder: PatchEncoder, batches: Iterable[Tensor], views: PatchViews) -> Scatter:
    """The scatter of an encoder's statistics over two views of each patch.

    Args:
        encoder: it computes in evaluation mode, and is left in the mode that it was in.
        batches: patches ``N x 3 x H x H``, uint8 or in [0, 1], of one size.
        views: draws a view of each patch of a batch.
    """
    device, pairs = encoder.discriminant.weight.device, []
    with evaluating(encoder):
        for batch in batches:
            patches = to_unit(batch.to(device))
            pairs.append(torch.stack([encoder.statistics(views(patches)) for _ in range(2)]))
    first, second = torch.cat(pairs, 1).cpu()
    return Scatter.of(first, second, encoder.digest())


@kept_random_state()
def adapted_encoder(
    encoder: nn.Module,
    patches: PatchSet,
    source: str | os.PathLike[str],
    size: int = 128,
    seed: int = 0,
) -> nn.Module:
    """An encoder whose features tell the patches of a target apart, too.

    The discriminant is fitted to the pre-training pool and the target together, without labels:
    directions in which a stain jitter moves the target's patches count for less, those in which
    they differ for more. The network stays as it is.

    Args:
        encoder: a :class:`PatchEncoder`; others are returned as they are.
        patches: of the target, labelled or not; labels are not read.
        source: where the encoder is from, a bundle or a file. Where no ``scatter.pt`` lies beside
            its file, it is returned as it is.
        size: height and width of the centre crops that it is fitted to.
        seed: of the views.

    Returns:
        An encoder of 256 features that shares the network of the first.

    Raises:
        ValueError: ``scatter.pt`` is damaged, or of another encoder.
    """
    if not isinstance(encoder, PatchEncoder) or len(patches) < 2:
        return encoder
    if (pool := Scatter.beside(source)) is None:
        logger.info("no '%s' with '%s': the encoder is used as it is", SCATTER, source)
        return encoder
    if pool.encoder != encoder.digest():
        raise ValueError(
            f"'{SCATTER}' must be of the encoder beside it, got another's with '{source}': "
            "train_encoder.yaml writes both, copy both, or remove it"
        )
    torch.manual_seed(seed)
    batches = patient(patches.images(size).split(64), "adapt the encoder", unit="batch")
    target = view_scatter(encoder, batches, PatchViews(size, zoom=(1.0, 1.0)))
    layer = (pool + target).discriminant(min(FEATURES, encoder.num_features))
    return encoder.with_discriminant(layer.to(encoder.discriminant.weight.device)).eval()
