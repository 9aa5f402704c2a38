"""Muon on matrices and kernels, AdamW on the rest, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from monai_histodiff.utils.bfloat16 import native_bfloat16

__all__ = ["MuonAdamW"]


class _Muon(torch.optim.Muon):
    """``torch.optim.Muon``, which orthogonalises in bfloat16; on a device that emulates that, in
    float32: there a step of our UNet takes half a second of a core in place of 17.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if native_bfloat16(self.param_groups[0]["params"][0].device):
            return super().step(closure)
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for matrix in (p for p in group["params"] if p.grad is not None):
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                buffer = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                update = _orthogonal(
                    matrix.grad.lerp(buffer, momentum),
                    group["ns_coefficients"],
                    group["ns_steps"],
                    group["eps"],
                )
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.add_(update, alpha=-rate * 0.2 * max(matrix.shape) ** 0.5)
        return None


def _orthogonal(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Newton-Schulz iteration toward the nearest orthogonal matrix (Jordan et al. 2024)."""
    a, b, c = coefficients
    wide = matrix.float() if matrix.shape[0] <= matrix.shape[1] else matrix.float().T
    x = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def _fits(part: torch.optim.Optimizer, state: dict[str, Any]) -> bool:
    """Whether a state is of as many parameters of the same shapes."""
    ids, own = state["param_groups"][0]["params"], part.param_groups[0]["params"]
    shapes = {i: p.shape for i, p in zip(ids, own, strict=False)}
    return len(ids) == len(own) and all(
        key == "step" or value.shape == shapes[i]
        for i, kept in state["state"].items()
        for key, value in kept.items()
    )


class MuonAdamW(torch.optim.Optimizer):
    """``torch.optim.Muon`` (Jordan et al. 2024; scaled as AdamW's steps, Liu et al. 2025,
    arXiv:2502.16982) on matrices and on the kernels of convolutions, as matrices
    ``out x (in * height * width)``; ``torch.optim.AdamW`` on biases, norms and single rows.

    A learning-rate scheduler, a gradient scaler and what clips gradients see both groups, Muon's
    first, with the network's own parameters.

    Args:
        params: the parameters, or a network: all of its own.
        lr: learning rate of Muon.
        adamw_lr: learning rate of AdamW; ``None``: half of Muon's.
        weight_decay: of both.
        momentum: of Muon.
        betas: of AdamW.

    Raises:
        ValueError: there are no parameters, one is given twice or is none, a kernel's memory is in
            another order (``channels_last``), or one of the two optimisers refuses a number.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | nn.Module,
        lr: float = 2e-3,
        adamw_lr: float | None = None,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        given = list(params.parameters() if isinstance(params, nn.Module) else params)
        if other := [p for p in given if not isinstance(p, Tensor)]:
            raise ValueError(
                "params must be parameters, or a network, got a "
                f"{type(other[0]).__name__}: give .parameters(), without groups or names"
            )
        if len(set(given)) < len(given):
            twice = next(p for i, p in enumerate(given) if p in set(given[:i]))
            raise ValueError(
                f"each parameter must be given once, got one {tuple(twice.shape)} twice: leave "
                "one out"
            )
        trained = [p for p in given if p.requires_grad]
        self.matrices = [p for p in trained if p.ndim >= 2 and min(p.flatten(1).shape) > 1]
        chosen = {id(p) for p in self.matrices}
        others = [p for p in trained if id(p) not in chosen]
        if not trained:
            raise ValueError("an optimiser needs parameters that require a gradient, got none")
        super().__init__(trained, {})
        if odd := [p for p in self.matrices if not p.is_contiguous()]:
            rule = "the kernels of this optimiser must be contiguous in memory"
            raise ValueError(
                f"{rule}, got one {tuple(odd[0].shape)} that is not: leave out memory_format"
            )
        # Views share the memory of the kernels: what changes one changes the other.
        self.views = [nn.Parameter(p.detach().flatten(1)) for p in self.matrices]
        self.parts: list[torch.optim.Optimizer] = []
        if self.views:
            self.parts.append(
                _Muon(
                    self.views,
                    lr=lr,
                    weight_decay=weight_decay,
                    momentum=momentum,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self.parts.append(
                torch.optim.AdamW(
                    others,
                    lr=lr / 2 if adamw_lr is None else adamw_lr,
                    weight_decay=weight_decay,
                    betas=(betas[0], betas[1]),
                )
            )
        shown = [self.matrices] * bool(self.views) + [others] * bool(others)
        self.param_groups = [
            {**group, "params": parameters}
            for group, parameters in zip(self._groups(), shown, strict=True)
        ]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """All parameters are given when it is made.

        Raises:
            ValueError: it is made.
        """
        if hasattr(self, "parts"):
            raise ValueError(
                "the parameters of this optimiser must be given when it is made, got another "
                "group: make one of them all"
            )
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "this optimiser must be made of a network's own kernels, got a copy or a pickle of "
            "it: make one of the copied network, and give it this one's state_dict"
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Those of the two, in which Muon's parameters are the views."""
        return [group for part in self.parts for group in part.param_groups]

    def _pass_on(self) -> None:
        """What a scheduler has set, to the two."""
        for own, group in zip(self._groups(), self.param_groups, strict=True):
            own |= {key: value for key, value in group.items() if key != "params"}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both.

        Raises:
            ValueError: a kernel has been moved to other memory since.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kernel, view in zip(self.matrices, self.views, strict=True):
            if kernel.data_ptr() != view.data_ptr():
                rule = "the optimiser must be made after the network is moved to its device"
                raise ValueError(
                    f"{rule}, got a kernel {tuple(kernel.shape)} that was moved since"
                )
            view.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        self._pass_on()
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for kernel, view in zip(self.matrices, self.views, strict=True):
            kernel.grad = view.grad = None
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        self._pass_on()
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the states of both.

        Raises:
            ValueError: they are of other parameters, or of another optimiser; nothing is loaded
                then.
        """
        known = state_dict.get("parts", [])
        if len(known) != len(self.parts) or not all(map(_fits, self.parts, known)):
            raise ValueError(
                "the state must be one of this optimiser and these parameters, got another: load "
                "that of the same network, or begin anew"
            )
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        for own, group in zip(self._groups(), self.param_groups, strict=True):
            group |= {key: value for key, value in own.items() if key != "params"}
