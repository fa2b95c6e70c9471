"""AdamW, readable and fast, and the mix of optimisers that a run uses.

Paper: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2 (decoupled weight decay).

    m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²
    m̂ = m / (1 − β₁ᵗ);  v̂ = v / (1 − β₂ᵗ)                     the seed document uses m̂ and v̂ without defining them
    θ ← θ − lr · m̂ / (√v̂ + ε) − lr · λ · θ

`AdamWReference` is that text as code and the oracle; runs use torch's fused one. Muon (Jordan et al. 2024;
torch.optim.Muon) may take the matrices inside the blocks; everything else stays with AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class AdamWReference:
    """One parameter update by the equations above. Equal to torch.optim.AdamW to 1e-7."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay, self.t = lr, betas, eps, weight_decay, 0
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        beta1, beta2 = self.betas
        for parameter, m, v in zip(self.parameters, self.m, self.v, strict=True):
            gradient = parameter.grad
            if gradient is None:
                continue
            m.copy_(beta1 * m + (1 - beta1) * gradient)
            v.copy_(beta2 * v + (1 - beta2) * gradient**2)
            m_hat, v_hat = m / (1 - beta1**self.t), v / (1 - beta2**self.t)
            parameter -= self.lr * self.weight_decay * parameter
            parameter -= self.lr * m_hat / (v_hat.sqrt() + self.eps)


class Replaced(NamedTuple):
    """A parameter in the place of another: each of its rows was the one that `rows` says, −1 for a new one."""

    old: Tensor
    new: Tensor
    rows: Tensor  # (rows of `new`,) int64


def _in_rows(value: Any, old: Tensor, rows: Tensor) -> Any:
    """Of a moment, its rows in their new places, zeros for new ones; a count of steps stays as it is."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    moved = value[rows.clamp(min=0)]
    moved[rows < 0] = 0
    return moved


class Optimizer:
    """The torch optimisers of one run behind one step, one learning rate and one state."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.rates = [group["lr"] for group in self.groups]

    @property
    def groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def set_lr(self, lr: float, peak: float) -> None:
        """Each group's own learning rate, scaled as the schedule scales `peak` to `lr`."""
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = lr * (rate / peak)

    def parameters(self) -> list[Tensor]:
        return [parameter for group in self.groups for parameter in group["params"]]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def follow(self, replaced: Iterable[Replaced]) -> None:
        """Goes on with parameters that took the place of others; what it knows of a row goes where the row went."""
        for old, new, rows in replaced:
            for part in self.parts:
                for group in part.param_groups:
                    group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
                if old in part.state:
                    known = part.state.pop(old)
                    part.state[new] = {name: _in_rows(value, old, rows) for name, value in known.items()}

    def state_tensors(self) -> dict[str, Tensor]:
        """Flat, so that it fits a safetensors file: part/parameter/name → tensor."""
        return {
            f"{i}/{number}/{name}": value if isinstance(value, Tensor) else torch.tensor(value)
            for i, part in enumerate(self.parts)
            for number, state in part.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        for i, part in enumerate(self.parts):
            state: dict[int, dict[str, Any]] = {}
            for key, value in tensors.items():
                owner, number, name = key.split("/")
                if int(owner) == i:
                    state.setdefault(int(number), {})[name] = value
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


class Turn(NamedTuple):
    """One update within a step: these parameters follow this loss. Most runs have one turn, adversaries one each."""

    optimizer: Optimizer
    loss: Callable[[nn.Module, Any], Tensor]  # (model, batch) → mean loss
    name: str = ""  # "discriminator": the curve then shows its loss apart


def clip_gradients(parameters: Iterable[Tensor], largest: float) -> float:
    """`torch.nn.utils.clip_grad_norm_`, the same bits, without a pass over gradients that are short enough.

    Returns the norm before clipping.
    """
    parameters = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not largest / (norm + 1e-6) >= 1:  # NaN as well: it must not be hidden
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return float(norm)


def make_optimizer(
    model: nn.Module, *, kind: str, lr: float, betas: tuple[float, float], weight_decay: float
) -> Optimizer:
    """Decays matrices, not gains and biases. `kind` = "adamw", or "muon" for the matrices inside the blocks."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if p.dim() == 2 and name.startswith("blocks.")] if kind == "muon" else []
    taken = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    parts: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)
    ]
    if hidden:  # scaled so that AdamW's learning rate and decay fit it too (Liu et al. 2025, arXiv:2502.16982)
        parts.append(torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return Optimizer(parts)
