"""The next token from its logits: temperature, top-k, nucleus (Holtzman et al. 2020, arXiv:1904.09751).

    p = softmax(z / T), kept to the k most likely and to the smallest set whose sum reaches top_p, then
    renormalised

Shapes: logits (V,). V vocab_size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY_BELOW = 1e-5  # a temperature so low is argmax; dividing by it would overflow


@dataclass(frozen=True, kw_only=True)
class Sampling:
    temperature: float = 1.0
    top_k: int = 0  # 0 = all
    top_p: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


def distribution(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (V,) float64 that the next token is drawn from."""
    p_V = torch.softmax(logits_V.double() / sampling.temperature, dim=-1)
    if sampling.top_k <= 0 and sampling.top_p >= 1:
        return p_V
    ranked, order = p_V.sort(descending=True, stable=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if sampling.top_k > 0:
        keep[sampling.top_k :] = False
    if sampling.top_p < 1:  # a token stays while those before it have not reached top_p; the first one always does
        keep[1:] &= ranked.cumsum(0)[:-1] < sampling.top_p
    kept = torch.zeros_like(p_V).scatter(0, order, ranked * keep)
    return kept / kept.sum()


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token: argmax if greedy, else the inverse of the cumulated distribution at one random number."""
    if sampling.greedy:
        return int(logits_V.argmax())
    cumulated = distribution(logits_V, sampling).cumsum(0)
    number = torch.rand((), dtype=torch.float64, generator=generator) * cumulated[-1]
    return min(int(torch.searchsorted(cumulated, number, right=True)), logits_V.numel() - 1)


def log_probabilities(logits_V: Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural log-probability of `token`, and the `top` most likely tokens; at temperature 1."""
    logp_V = torch.log_softmax(logits_V.double(), dim=-1)
    values, tokens = logp_V.topk(top)
    return float(logp_V[token]), list(zip(tokens.tolist(), values.tolist(), strict=True))


def mix(seed: int, index: int) -> int:
    """The generator's seed for choice `index` of a request: far from that of every other seed and choice."""
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:8]) >> 1
