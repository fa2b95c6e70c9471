"""Hashed attention: steps are sorted by a hash of their query, and each attends within its chunk and the one before.

Paper: Kitaev et al. 2020, arXiv:2001.04451, §2; the hash: Andoni et al. 2015, arXiv:1509.02897.

    h(x) = argmax [x R ‖ −x R]                     R random, n_buckets/2 columns; n_hashes rounds, one R each
    k_j = q_j / ‖q_j‖                              queries and keys are one projection
    o_i = Σ_r Σ_{j ∈ P_i^r} exp(q_i·k_j − z_i) v_j,   z_i = log Σ_r Σ_{j ∈ P_i^r} exp(q_i·k_j)            (eq. 3–6)

P_i^r: the steps before i in its chunk of round r and in the chunk before; i itself only where there is no other. Which
these are depends on the hashes of later steps too: they move the borders of chunks. `strict`: of the chunk_len steps
before i in the order those of its own bucket. No later step can change them, so a likelihood is one.

Shapes: qk, v (B, H, T, K) → (B, H, T, K). R rounds, C chunks of M = chunk_len steps a round.
Mask: (B, T), True = a real step. Padding sorts behind everything else, so that it changes nothing.
Causal in what is attended to; with `strict` also in how it is chosen.
Complexity: O(R·T·(log T + M·K)) time and O(R·T·(M + K)) memory; a dense attention has T in the place of R·M.
Deviations from the paper: chunks attend across bucket borders, as in its own code; `across_rounds` lets the first chunk
of a round look at the last one of the round before, as that code and transformers do by rolling over everything.
Checked against: transformers' LSHSelfAttention and LocalSelfAttention, 1e-5; a loop over steps in tests/unit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Weight of a step's own key, in exponents: below any other that it may attend to, above all that it may not.
OWN = 1e5
PLACES = 2**20  # more steps than any sequence has: a bucket and a place in one whole number


def unit(x: Tensor) -> Tensor:
    """x / ‖x‖ as transformers has it: 1e-6 under the root of the mean square."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * x.shape[-1] ** -0.5


def shared_qk_attention(qk: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Dense causal attention with shared queries and keys: what hashing approximates. Rows of padding mean nothing."""
    length = qk.shape[-2]
    allowed = torch.ones(length, length, dtype=torch.bool).tril(-1)
    if mask is not None:
        allowed = allowed & mask[:, None, None, :]
    scores = (qk @ unit(qk).transpose(-2, -1)).masked_fill(~allowed, float("-inf"))
    own = torch.eye(length, dtype=torch.bool) & ~allowed.any(dim=-1, keepdim=True)  # alone: itself
    return torch.softmax(scores.masked_fill(own, 0.0), dim=-1) @ v


def hash_buckets(qk: Tensor, rotations: Tensor) -> Tensor:
    """(B, H, R, T) of 0 … n_buckets − 1. `rotations` (R, H, K, n_buckets / 2)."""
    turned = torch.einsum("bhtk,rhkn->bhrtn", qk, rotations)
    return torch.cat([turned, -turned], dim=-1).argmax(dim=-1)


def sort_by_bucket(buckets: Tensor, real: Tensor, n_buckets: int) -> tuple[Tensor, Tensor]:
    """The steps by bucket, then by place, and the bucket of each: (B, H, R, T) int64. Padding (`real` (B or 1, T) is
    False) comes last.
    """
    place = torch.arange(buckets.shape[-1], device=buckets.device)
    buckets = torch.where(real[:, None, None, :], buckets, n_buckets)
    both = (buckets * PLACES + place).sort(dim=-1)[0]
    return both % PLACES, both // PLACES


def chunked_attention(
    qk: Tensor,
    v: Tensor,
    order: Tensor,
    real: Tensor,
    chunk_len: int,
    across_rounds: bool = False,
    within: Tensor | None = None,
) -> Tensor:
    """Attention of each step within its chunks of `order` (B, H, R, T), T a multiple of `chunk_len`; with `within`,
    the buckets in that order, strictly.

    The rounds together are one softmax: each gives its sums below its own maximum, and they are added at a common one.
    """
    (n_batch, n_heads, length, width), n_rounds = qk.shape, order.shape[2]
    ids = order.reshape(n_batch, n_heads, -1, chunk_len)  # (B, H, R·C, M)
    n_chunks = length // chunk_len
    seen = torch.where(real[:, None, :], torch.arange(length, device=qk.device), 4 * length)  # padding: in the future
    seen = seen.expand(n_batch, n_heads, length).gather(2, order.flatten(2)).view_as(ids)
    key_ids = ids
    if torch.compiler.is_exporting() or n_chunks > 1:
        before = seen.roll(1, dims=2)
        if not across_rounds:
            first = (torch.arange(n_chunks, device=qk.device) == 0).repeat(n_rounds)
            before = torch.where(first[:, None], 4 * length, before)
        seen, key_ids = torch.cat([before, seen], dim=-1), torch.cat([ids.roll(1, dims=2), ids], dim=-1)
    table = torch.cat([unit(qk), v, torch.ones_like(v[..., :1])], dim=-1)
    q = _rows(qk, ids).flatten(0, 2)  # (B·H·R·C, M, K)
    k, v_and_one = _rows(table, key_ids).flatten(0, 2).split([width, width + 1], dim=-1)

    # 0 for the past, −1 for itself, less for the future: one term for both rules.
    place = ids.to(q.dtype)[..., :, None] - 1
    later = (place - seen.to(q.dtype)[..., None, :]).clamp_(max=0)
    if within is not None:
        later = later.masked_fill(~_own_bucket(within.reshape(ids.shape), seen.shape[-1]), -2)
    scores = torch.baddbmm(later.flatten(0, 2), q, k.transpose(1, 2), beta=OWN)
    peak = scores.detach().amax(dim=-1, keepdim=True)
    sums = scores.sub_(peak).exp_() @ v_and_one  # numerator, and in the last column the denominator

    back = torch.empty_like(order).scatter_(-1, order, torch.arange(length, device=qk.device).expand_as(order))
    back = (back + length * torch.arange(n_rounds, device=qk.device)[:, None]).flatten(2)
    sums = _rows(sums.view(n_batch, n_heads, n_rounds * length, width + 1), back).unflatten(2, (n_rounds, length))
    peak = peak.view(n_batch, n_heads, -1).gather(2, back).view(n_batch, n_heads, n_rounds, length, 1)
    sums = (sums * (peak - peak.amax(dim=2, keepdim=True)).exp()).sum(dim=2)
    return sums[..., :width] / sums[..., width:]


def _own_bucket(buckets: Tensor, n_keys: int) -> Tensor:
    """(B, H, C, M, n_keys): keys of the query's bucket at most M places before it; buckets (B, H, C, M)."""
    size = buckets.shape[-1]
    step = torch.arange(size, device=buckets.device)
    back = step[:, None] + n_keys - size - torch.arange(n_keys, device=buckets.device)  # places before the query
    keys = buckets if n_keys == size else torch.cat([buckets.roll(1, dims=2), buckets], dim=-1)
    return (buckets[..., None] == keys[..., None, :]) & (back >= 0) & (back <= size)


def _rows(x: Tensor, ids: Tensor) -> Tensor:
    """x (B, H, S, …), ids (B, H, …) into its third axis → (B, H, …, …): a gather of whole rows."""
    n_batch, n_heads, length = x.shape[:3]
    base = torch.arange(n_batch * n_heads, device=x.device).view(n_batch, n_heads, *[1] * (ids.dim() - 2))
    chosen = x.reshape(n_batch * n_heads * length, -1).index_select(0, (base * length + ids).flatten())
    return chosen.view(*ids.shape, -1)


def _padded(x: Tensor, chunk_len: int) -> Tensor:
    """Zeros behind the steps (third axis) up to whole chunks."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % chunk_len))


def _real(length: int, mask: Tensor | None, chunk_len: int, device: torch.device) -> Tensor:
    """(B or 1, T up to whole chunks), True = a real step."""
    mask = torch.ones(1, length, dtype=torch.bool, device=device) if mask is None else mask
    return F.pad(mask, (0, -length % chunk_len))


class LSHAttention(nn.Module):
    """Causal hashed self-attention. The rotations are drawn once, from `seed`, and saved with the weights.

    More rounds from the same seed begin with the same ones. The plan is the order that the steps were sorted to, and
    with `strict` their buckets: (B, H, R, T), or two of them.
    """

    rotations: Tensor

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        chunk_len: int,
        n_hashes: int,
        n_buckets: int,
        *,
        seed: int,
        across_rounds: bool,
        strict: bool,
    ) -> None:
        super().__init__()
        self.n_heads, self.chunk_len, self.n_buckets, self.across_rounds = n_heads, chunk_len, n_buckets, across_rounds
        self.strict = strict
        self.query_key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        random = torch.Generator().manual_seed(seed)
        shape = n_heads, d_model // n_heads, n_buckets // 2
        rounds = [torch.randn(shape, generator=random) for _ in range(n_hashes)]
        self.register_buffer("rotations", torch.stack(rounds))

    def forward(self, x_BTD: Tensor, mask: Tensor | None, plan: Tensor | None) -> tuple[Tensor, Tensor]:
        length, chunk_len = x_BTD.shape[1], self.chunk_len
        qk, v = (p(x_BTD).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for p in (self.query_key, self.value))
        within = None
        if not torch.compiler.is_exporting() and length <= chunk_len:
            # All in one chunk: every round would be the same.
            chunk_len, real = length, _real(length, mask, length, x_BTD.device)
            order = torch.arange(length, device=x_BTD.device).expand(*qk.shape[:2], 1, length)
        else:
            real = _real(length, mask, chunk_len, x_BTD.device)
            qk, v = _padded(qk, chunk_len), _padded(v, chunk_len)
            if plan is None:
                with torch.no_grad():
                    order, buckets = sort_by_bucket(hash_buckets(qk.detach(), self.rotations), real, self.n_buckets)
                within = buckets if self.strict else None
            else:
                order, within = plan.long().unbind() if self.strict else (plan.long(), None)
        y_BHTK = chunked_attention(qk, v, order, real, chunk_len, self.across_rounds, within)[:, :, :length]
        plan = order if within is None else torch.stack([order, within])
        small = torch.int16 if length < 2**15 - chunk_len else torch.int32
        return self.output(y_BHTK.transpose(1, 2).flatten(2)), plan.to(small)


class LocalAttention(nn.Module):
    """Causal self-attention to the own chunk of steps and the one before. It decides nothing: its plan is None."""

    def __init__(self, d_model: int, n_heads: int, chunk_len: int) -> None:
        super().__init__()
        self.n_heads, self.chunk_len = n_heads, chunk_len
        self.query, self.key, self.value, self.output = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))

    def forward(self, x_BTD: Tensor, mask: Tensor | None, plan: Tensor | None) -> tuple[Tensor, None]:
        n_batch, length, _ = x_BTD.shape
        size = self.chunk_len if torch.compiler.is_exporting() else min(self.chunk_len, length)
        real = _real(length, mask, size, x_BTD.device).unflatten(1, (-1, size))  # (B or 1, C, M)
        chunks = F.pad(x_BTD, (0, 0, 0, -length % size)).unflatten(1, (-1, size))  # (B, C, M, d_model)
        n_chunks = chunks.shape[1]

        step = torch.arange(size, device=x_BTD.device)
        not_first = torch.arange(n_chunks, device=x_BTD.device)[:, None] > 0
        past = torch.cat([real.roll(1, dims=1) & not_first, real], dim=2)[:, :, None]  # (B or 1, C, 1, 2M)
        both = torch.cat([step - size, step])
        allowed = past & (both < step[:, None]) | (both == step[:, None])  # (B or 1, C, M, 2M)

        q = self._heads(self.query(chunks))
        k, v = (self._heads(torch.cat([y.roll(1, dims=1), y], dim=2)) for y in (self.key(chunks), self.value(chunks)))
        allowed = allowed.expand(n_batch, -1, -1, -1).flatten(0, 1)[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # (B·C, H, M, K)
        y_BTD = y.transpose(1, 2).flatten(2).view(n_batch, n_chunks * size, -1)
        return self.output(y_BTD[:, :length]), None

    def _heads(self, chunks: Tensor) -> Tensor:
        return chunks.flatten(0, 1).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
