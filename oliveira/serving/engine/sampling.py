"""The next token from its logits: mask, bias, penalties, temperature, top-k, nucleus (arXiv:1904.09751), min-p.

    z = logits, -inf where the mask forbids, + bias;  of a token in prompt or answer z / r where z > 0, else z r;
        of one that stands c times in the answer  z - f c - h                 (r, f, h: repetition, frequency, presence)
    p = softmax(z / T), kept to the k most likely, to the smallest set whose sum reaches top_p, and to those of at least
        min_p times the largest, all of one p; then renormalised. Of equal z the lower number comes first.
    token = the first, by number, at which the cumulated p passes a number from 0 to 1

The C++ kernel (`oliveira/kernels/sample.py`) does this for all streams of a step at once; the torch functions here are
its oracle, and do it where there is no compiler. Shapes: logits (V,). V: what the tokenizer knows.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oliveira.kernels.build import unavailable
from oliveira.kernels.sample import Draw, sample

Mask = NDArray[np.int32]  # (⌈V / 32⌉,): bit i of word j allows token 32 j + i
GREEDY_BELOW = 1e-5  # a temperature so low is argmax; dividing by it would overflow


@dataclass(frozen=True, kw_only=True)
class Sampling:
    temperature: float = 1.0
    top_k: int = 0  # 0 = all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def penalises(self) -> bool:
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0


class Choice(NamedTuple):
    token: int  # -1: none is allowed
    finite: bool  # all logits were
    logprob: float | None  # of the token, by the model alone: before mask, bias, penalties and temperature
    top: list[tuple[int, float]]  # the most likely tokens and theirs


class Sampler:
    """One stream's settings, chance, and what it has seen."""

    def __init__(self, sampling: Sampling, seed: int, prompt: Iterable[int] = ()) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(seed)
        self._number: float | None = None
        self._places: dict[int, int] = {}
        self.seen, self.counts = array("i"), array("i")  # tokens, and how often each stands in the answer
        if sampling.repetition_penalty != 1:
            for token in prompt:
                self._see(token, 0)
        self._bias = array("i", [t for t, _ in sampling.logit_bias]), array("f", [b for _, b in sampling.logit_bias])
        self._draw = Draw(
            temperature=sampling.temperature,
            greedy_below=GREEDY_BELOW,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition=sampling.repetition_penalty,
            frequency=sampling.frequency_penalty,
            presence=sampling.presence_penalty,
            top_k=sampling.top_k,
            n_bias=len(sampling.logit_bias),
            bias_tokens=self._bias[0].buffer_info()[0],
            bias=self._bias[1].buffer_info()[0],
        )
        self._kept: tuple[object, ...] = ()  # what addresses in it point to

    def number(self) -> float:
        """From 0 to 1: the same until a token was taken."""
        if self._number is None:
            self._number = float(torch.rand((), dtype=torch.float64, generator=self._generator))
        return self._number

    def took(self, token: int) -> None:
        """It is part of the answer now."""
        self._number = None
        if self.sampling.penalises:
            self._see(token, 1)

    def _see(self, token: int, times: int) -> None:
        place = self._places.setdefault(token, len(self.seen))
        if place == len(self.seen):
            self.seen.append(token)
            self.counts.append(0)
        self.counts[place] += times

    def filled(self, logits_V: Tensor, top: int | None, mask_W: Mask | None) -> Draw:
        """What the kernel is told. Valid until the next call."""
        draw = self._draw
        draw.logits = logits_V.data_ptr()
        draw.uniform = 0.0 if self.sampling.greedy else self.number()
        draw.n_top = -1 if top is None else top
        draw.mask = None if mask_W is None else mask_W.ctypes.data
        tops = (array("d", bytes(8 * top)), array("i", bytes(4 * top))) if top else None
        if tops is not None:
            draw.top_logprobs, draw.top_tokens = (found.buffer_info()[0] for found in tops)
        if self.sampling.penalises:
            draw.n_seen = len(self.seen)
            draw.seen, draw.counts = self.seen.buffer_info()[0], self.counts.buffer_info()[0]
        self._kept = (logits_V, mask_W, tops)
        return draw

    def found(self) -> Choice:
        """What the kernel has found."""
        draw, tops = self._draw, self._kept[2]
        top = list(zip(tops[1], tops[0], strict=True)) if isinstance(tops, tuple) else []
        self._kept = ()
        return Choice(draw.token, bool(draw.finite), draw.logprob if draw.n_top >= 0 else None, top)


def choose(
    samplers: Sequence[Sampler],
    logits: Sequence[Tensor],
    tops: Sequence[int | None],
    masks: Sequence[Mask | None],
) -> list[Choice]:
    """The next token of each stream; `tops`: how many alternatives to report, None = no log-probabilities.

    Nothing is changed: asked again, each gives the same token, alone or in another company.
    """
    n_tokens = logits[0].numel()
    tops = [None if top is None else min(top, n_tokens) for top in tops]
    if unavailable() is not None:
        return [_by_torch(*one) for one in zip(samplers, logits, tops, masks, strict=True)]
    rows = [row.float().contiguous() for row in logits]
    draws = [s.filled(row, top, mask) for s, row, top, mask in zip(samplers, rows, tops, masks, strict=True)]
    sample(draws, n_tokens, torch.get_num_threads())
    return [sampler.found() for sampler in samplers]


def _by_torch(sampler: Sampler, logits_V: Tensor, top: int | None, mask_W: Mask | None) -> Choice:
    """The oracle's choice."""
    finite, sampling = bool(torch.isfinite(logits_V).all()), sampler.sampling
    seen = dict(zip(sampler.seen, sampler.counts, strict=True)) if sampling.penalises else {}
    z_V = adjusted(logits_V, sampling, seen, mask_W)
    if not math.isfinite(float(z_V.max())):  # NaN as well
        return Choice(-1, finite, None, [])
    if sampling.greedy:
        token = int(z_V.argmax())
    else:
        cumulated = distribution(z_V, sampling).cumsum(0)
        token = int(torch.searchsorted(cumulated, sampler.number() * cumulated[-1], right=True))
        token = min(token, logits_V.numel() - 1)
    return Choice(token, finite, *(log_probabilities(logits_V, token, top) if top is not None else (None, [])))


def adjusted(logits_V: Tensor, sampling: Sampling, seen: Mapping[int, int], mask_W: Mask | None) -> Tensor:
    """z of the formula, float32. `seen`: tokens of prompt and answer, and how often each stands in the answer."""
    z_V = logits_V.float().clone()
    if mask_W is not None:
        bits = np.unpackbits(mask_W.view(np.uint8), count=len(z_V), bitorder="little")
        z_V[torch.from_numpy(bits) == 0] = -math.inf
    for token, bias in sampling.logit_bias:
        z_V[token] += bias
    if seen:
        tokens, counts = torch.tensor([*seen]), torch.tensor([*seen.values()], dtype=torch.float32)
        z, r = z_V[tokens], torch.tensor(sampling.repetition_penalty)
        z = torch.where(z > 0, z / r, z * r)
        f, h = torch.tensor(sampling.frequency_penalty), torch.tensor(sampling.presence_penalty)
        z_V[tokens] = torch.where(counts > 0, z - f * counts - h, z)
    return z_V


def distribution(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (V,) float64 that the next token is drawn from, of adjusted logits."""
    p_V = torch.softmax(logits_V.double() / sampling.temperature, dim=-1)
    ranked, order = p_V.sort(descending=True, stable=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if sampling.top_k > 0:
        keep[sampling.top_k :] = False
    if sampling.top_p < 1:  # a token stays while those before it have not reached top_p; the first one always does
        keep[1:] &= ranked.cumsum(0)[:-1] < sampling.top_p
    kept = torch.zeros_like(p_V).scatter(0, order, ranked * keep)
    if sampling.min_p > 0:
        behind = (logits_V.double() - logits_V.double().max()) / sampling.temperature
        kept[behind < math.log(sampling.min_p)] = 0.0
    return kept / kept.sum()


def log_probabilities(logits_V: Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural log-probability of `token`, and the `top` most likely tokens; at temperature 1."""
    logp_V = torch.log_softmax(logits_V.double(), dim=-1)
    values, _ = logp_V.topk(top)
    tokens = torch.nonzero(logp_V >= values[-1]).flatten() if top else torch.empty(0, dtype=torch.long)
    ranked = sorted(zip(logp_V[tokens].tolist(), tokens.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    return float(logp_V[token]), [(other, value) for value, other in ranked[:top]]


def given_tokens(logits_TV: Tensor, tokens: Sequence[int], top: int) -> list[Choice]:
    """The same of tokens that were not chosen but given, each at its row; in float32."""
    whole_T, (values, others) = logits_TV.logsumexp(-1), logits_TV.topk(top)
    given_T = logits_TV.gather(1, torch.tensor(tokens, dtype=torch.long)[:, None])[:, 0] - whole_T
    ranked = zip(others.tolist(), (values - whole_T[:, None]).tolist(), strict=True)
    pairs = [list(zip(numbers, logprobs, strict=True)) for numbers, logprobs in ranked]
    return [Choice(*one) for one in zip(tokens, [True] * len(tokens), given_T.tolist(), pairs, strict=True)]


def mix(seed: int, index: int) -> int:
    """The generator's seed for choice `index` of a request: far from that of every other seed and choice."""
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:8]) >> 1
