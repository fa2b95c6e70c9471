"""Mixture of experts: a router sends every token to a few of many feed-forward networks and mixes what they answer.

Papers: Switch, Fedus et al. 2021, arXiv:2101.03961 (top-1, eq. 1–6); Mixtral, Jiang et al. 2024, arXiv:2401.04088;
router z-loss: Zoph et al. 2022, arXiv:2202.08906 (eq. 5).

    p(x) = softmax(W_r x + b_r)                          over the E experts; the published models have no b_r
    y = Σ_{i ∈ top-k(p)} g_i(x) · E_i(x)                 g = p (Switch), or p divided by its sum over the k (Mixtral)
    balance = E · Σ_i f_i P_i                            f_i share of the assignments, P_i mean probability; 1 when even
    z = mean (log Σ_i exp logit_i)²

The sum runs over the k *largest* p: the seed document writes i = 1 … k, which would always ask the same experts.

Shapes: x (…, D) → (…, D); logits and probabilities (N, E); weights and experts (N, k). N tokens, E experts.
Mask: boolean (…), True = a real token; the others weigh nothing in losses and loads. All tokens are computed.
Complexity: O(N·k) expert calls' worth of work, in E matrix products a layer; no token is dropped (no capacity).
Checked against: transformers MixtralSparseMoeBlock and SwitchTransformersSparseMLP, 1e-5; a loop over tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Routing(NamedTuple):
    """Where each token goes. `logits`, `probabilities` (N, E); `weights`, `experts` (N, k)."""

    logits: Tensor
    probabilities: Tensor
    weights: Tensor
    experts: Tensor


class Router(nn.Module):
    """Top-k of a softmax over linear scores. `renormalise`: the k weights sum to 1 (Mixtral), else raw p (Switch)."""

    def __init__(
        self, d_model: int, n_experts: int, top_k: int, *, renormalise: bool = True, bias: bool = False
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise ValueError(f"top_k = {top_k} does not fit n_experts = {n_experts}. Use 1 to {n_experts}.")
        self.top_k, self.renormalise = top_k, renormalise
        self.score = nn.Linear(d_model, n_experts, bias=bias)

    def forward(self, x_ND: Tensor) -> Routing:
        logits = self.score(x_ND)
        probabilities = torch.softmax(logits, dim=-1)
        weights, experts = probabilities.topk(self.top_k, dim=-1)
        if self.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Routing(logits, probabilities, weights, experts)


class MixtureOfExperts(nn.Module):
    """A router and its experts: any modules (…, D) → (…, D), `SwiGLU` or `FeedForward` for example."""

    def __init__(
        self, experts: Iterable[nn.Module], d_model: int, top_k: int, *, renormalise: bool = True, bias: bool = False
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.router = Router(d_model, len(self.experts), top_k, renormalise=renormalise, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.routed(x)[0]

    def routed(self, x: Tensor) -> tuple[Tensor, Routing]:
        """The output (…, D) and the routing, from which losses and loads are computed."""
        x_ND = x.flatten(0, -2)
        routing = self.router(x_ND)
        mix = dense if torch.compiler.is_exporting() else sorted_by_expert
        return mix(x_ND, routing, self.experts).view_as(x), routing


def sorted_by_expert(x_ND: Tensor, routing: Routing, experts: nn.ModuleList) -> Tensor:
    """Tokens sorted by expert: each expert is called once, on its own slice. An expert without tokens is not called."""
    n_tokens, top_k = routing.experts.shape
    chosen = routing.experts.flatten()  # (N·k,), token-major
    order = chosen.argsort()
    counts = torch.bincount(chosen, minlength=len(experts)).tolist()
    slices = x_ND.index_select(0, order // top_k).split(counts)
    answers = torch.cat([expert(part) for expert, part in zip(experts, slices, strict=True) if len(part)])
    answers = torch.empty_like(answers).index_copy(0, order, answers).view(n_tokens, top_k, -1)
    return (routing.weights[:, None] @ answers)[:, 0]


def dense(x_ND: Tensor, routing: Routing, experts: nn.ModuleList) -> Tensor:
    """Every expert on every token, weight zero where it was not chosen: no shape depends on the data (for export)."""
    weights_NE = torch.zeros_like(routing.probabilities).scatter(1, routing.experts, routing.weights)
    answers_NED = torch.stack([expert(x_ND) for expert in experts], dim=1)
    return (weights_NE[:, None] @ answers_NED)[:, 0]


def mixture_reference(x_ND: Tensor, routing: Routing, experts: nn.ModuleList) -> Tensor:
    """The equation as it is written, token by token: the oracle of the other two."""
    rows = []
    for x, weights, chosen in zip(x_ND, routing.weights, routing.experts, strict=True):
        rows.append(sum(weight * experts[int(i)](x) for weight, i in zip(weights, chosen, strict=True)))
    return torch.stack(rows)


def expert_load(routing: Routing, mask: Tensor | None = None) -> Tensor:
    """(E,): the share of the assignments that each expert gets. Sums to 1 (to 0 when the mask is empty)."""
    n_experts = routing.probabilities.shape[1]
    real = torch.ones_like(routing.weights) if mask is None else mask.flatten()[:, None].expand_as(routing.weights)
    counts = routing.weights.new_zeros(n_experts).index_add(
        0, routing.experts.flatten(), real.flatten().to(routing.weights.dtype)
    )
    return counts / counts.sum().clamp(min=1)


def balance_loss(routing: Routing, mask: Tensor | None = None) -> Tensor:
    """Switch eq. 4–6. At its least, 1, when all experts get the same; n_experts when one gets all.

    transformers' `load_balancing_loss_func` is `top_k` times this, of all layers `pooled`: two layers that starve
    different experts look even there.
    """
    n_experts = routing.probabilities.shape[1]
    return n_experts * (expert_load(routing, mask) * _mean(routing.probabilities, mask)).sum()


def pooled(routings: Sequence[Routing]) -> Routing:
    """The tokens of all layers as those of one, layer after layer."""
    return Routing(*(torch.cat(parts) for parts in zip(*routings, strict=True)))


def z_loss(routing: Routing, mask: Tensor | None = None) -> Tensor:
    """Keeps the router's logits small (ST-MoE eq. 5)."""
    return _mean(routing.logits.logsumexp(dim=-1, keepdim=True).square(), mask)[0]


def _mean(values_NE: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values_NE.mean(dim=0)
    real = mask.flatten()[:, None].to(values_NE.dtype)
    return (values_NE * real).sum(dim=0) / real.sum().clamp(min=1)
