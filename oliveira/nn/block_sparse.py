"""Block-sparse attention: each block of queries sees its neighbours, the global blocks and a few random ones.

Paper: Zaheer et al. 2020, arXiv:2007.14062, §2 and appendix D (blocks).

    block i attends to  {i−1, i, i+1} ∪ global ∪ random_i;    a global block attends to every step

Shapes: q, k, v (B, H, T, K) → (B, H, T, K). N = ⌈T / block_size⌉ blocks; the keys that a block sees are gathered to
(B, H, N, (3 + n_global + n_random)·block_size, K), so that no (T, T) matrix is ever built.
Mask: (B, T), True = a real step. Global are the first block (n_global = 1) and the last one that holds a real step
(n_global = 2). Random blocks come from one table for all lengths. So padding changes nothing, whatever its length.
Complexity: O(T·block_size·(3 + n_global + n_random)·K) time and as many numbers in memory, linear in T.
Checked against: dense attention with the same boolean mask, 1e-6; transformers' BigBirdBlockSparseAttention, 1e-5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.nn.masking import keys

WINDOW = (-1, 0, 1)


def random_blocks(n_blocks: int, n_heads: int, n_random: int, *, n_global: int = 2, seed: int = 0) -> Tensor:
    """(H, N, n_random): for each head and block, different blocks outside its window and the first global block.

    −1 where there are not enough. In a sequence of fewer than N blocks, those that are not there drop out.
    """
    random = torch.Generator().manual_seed(seed)
    rows = torch.arange(n_blocks)
    taken = (rows[:, None] - rows).abs() <= 1
    if n_global:
        taken[:, 0] = True
    order = torch.rand(n_heads, n_blocks, n_blocks, generator=random).masked_fill(taken, 2.0).sort(dim=-1)
    chosen = order.indices.masked_fill(order.values > 1, -1)[:, :, :n_random]
    return F.pad(chosen, (0, n_random - chosen.shape[-1]), value=-1)


def block_columns(random: Tensor, n_blocks: int, last: Tensor, n_global: int) -> tuple[Tensor, Tensor]:
    """Which blocks each block attends to, and which entries count: (B, H, N, 3 + n_global + r) both.

    `random` (H, ≥ N, r); `last` (B,), the last block with a real step. No block is met twice, except where `random`
    itself repeats one or names the first: it then weighs as often (as in transformers at evaluation).
    """
    rows = torch.arange(n_blocks, device=random.device)
    window = rows[:, None] + torch.tensor(WINDOW, device=random.device)  # (N, 3)
    first = torch.zeros_like(rows)
    last_BHN = last[:, None, None].expand(-1, random.shape[0], n_blocks)
    random = random[:, :n_blocks]
    columns = [window, first[:, None], last_BHN[..., None], random]
    counts = [
        (window >= 0) & (window < n_blocks),
        (rows > 1)[:, None],
        ((rows - last_BHN).abs() > 1)[..., None] & (last > 0)[:, None, None, None],
        (random >= 0) & (random < n_blocks) & ((random != last_BHN[..., None]) | (n_global < 2)),
    ]
    kept = [0, *range(1, 1 + n_global), 3]
    shape = (last.shape[0], random.shape[0], n_blocks, -1)
    ids = torch.cat([columns[i].expand(shape) for i in kept], dim=-1)
    return ids.clamp(min=0).clamp(max=n_blocks - 1), torch.cat([counts[i].expand(shape) for i in kept], dim=-1)


def _real_steps(length: int, block_size: int, mask: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B or 1, N·block_size), True = a real step, and (B or 1,), the last block that holds one.

    A row without any is treated as if all its steps were real, so that its numbers stay finite.
    """
    step = torch.arange(length, device=device)
    every = torch.ones_like(step, dtype=torch.bool)[None]
    mask = every if mask is None else mask | ~mask.any(dim=1, keepdim=True)
    return F.pad(mask, (0, -length % block_size)), (step * mask).amax(dim=1) // block_size


def block_sparse_mask(
    random: Tensor, length: int, block_size: int, n_global: int = 2, mask: Tensor | None = None
) -> Tensor:
    """(B, H, T, T), True = may attend: the same pattern as one dense mask. For reading and for tests."""
    real, last = _real_steps(length, block_size, mask, random.device)
    n_blocks = real.shape[1] // block_size
    ids, counts = block_columns(random, n_blocks, last, n_global)
    seen = torch.zeros(*ids.shape[:3], n_blocks, dtype=torch.int64).scatter_add_(-1, ids, counts.long()) > 0
    rows = torch.arange(n_blocks)
    if n_global:
        seen |= (rows == 0)[:, None]
    if n_global == 2:
        seen |= (rows == last[:, None])[:, None, :, None]
    dense = seen.repeat_interleave(block_size, dim=2).repeat_interleave(block_size, dim=3)
    return (dense & real[:, None, None, :])[:, :, :length, :length]


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, random: Tensor, block_size: int, n_global: int = 2, mask: Tensor | None = None
) -> Tensor:
    """Attention over the blocks of `block_columns`. `random` (H, ≥ N, n_random) as `random_blocks` gives it."""
    (n_batch, n_heads, length, width), device = q.shape, q.device
    real, last = _real_steps(length, block_size, mask, device)
    q, k, v = (F.pad(x, (0, 0, 0, -length % block_size)) for x in (q, k, v))
    n_blocks = q.shape[2] // block_size
    rows = torch.arange(n_blocks, device=device)
    ids, counts = block_columns(random, n_blocks, last, n_global)

    # (B, H, N, columns, block_size): which of the gathered keys count.
    seen = real.unflatten(1, (-1, block_size))[torch.arange(real.shape[0], device=device)[:, None, None, None], ids]
    seen = seen & counts[..., None]
    # A block that sees no real step is padding itself: it sees its own block, so that its numbers stay finite.
    itself = counts & (ids == rows[:, None]) & ~seen.flatten(3).any(dim=-1, keepdim=True)
    seen = (seen | itself[..., None]).flatten(3).flatten(1, 2)  # (B, H·N, keys)
    out = F.scaled_dot_product_attention(
        q.reshape(n_batch, n_heads * n_blocks, block_size, width),
        _blocks(k, ids, block_size).view(n_batch, n_heads * n_blocks, -1, width),
        _blocks(v, ids, block_size).view(n_batch, n_heads * n_blocks, -1, width),
        attn_mask=seen[:, :, None],
    )
    if n_global == 0:
        return out.reshape(n_batch, n_heads, -1, width)[:, :, :length]

    # The global blocks' own rows: dense attention, put in the place of what they have above.
    globals_BHG = torch.stack([torch.zeros_like(last), last], dim=-1)[:, None, :n_global].expand(-1, n_heads, -1)
    dense = F.scaled_dot_product_attention(
        _blocks(q, globals_BHG, block_size).flatten(2, 3), k, v, attn_mask=real[:, None, None, :]
    )
    out = torch.cat([out.reshape(n_batch, n_heads, -1, width), dense], dim=2)
    places = torch.where(rows == 0, n_blocks, rows)[None]
    if n_global == 2:
        places = torch.where(rows == last[:, None], n_blocks + 1, places)
    return _blocks(out, places[:, None].expand(-1, n_heads, -1), block_size).flatten(2, 3)[:, :, :length]


def _blocks(x: Tensor, ids: Tensor, block_size: int) -> Tensor:
    """Blocks of x (B, H, N·block_size, K) by their numbers, ids (B or 1, H, …) → (B, H, …, block_size, K).

    One row a block, so that a gather copies whole blocks.
    """
    n_batch, n_heads, length, width = x.shape
    table = x.reshape(-1, block_size * width)
    base = torch.arange(n_batch * n_heads, device=x.device).view(n_batch, n_heads, *[1] * (ids.dim() - 2))
    chosen = table.index_select(0, (base * (length // block_size) + ids).flatten())
    return chosen.view(n_batch, *ids.shape[1:], block_size, width)


class BlockSparseAttention(nn.Module):
    """Multi-head block-sparse self-attention. The random blocks are drawn once, from `seed`, and saved."""

    random: Tensor

    def __init__(
        self, d_model: int, n_heads: int, max_len: int, block_size: int, n_random: int, n_global: int, seed: int,
        *, full_up_to: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_heads, self.block_size, self.n_global, self.full_up_to = n_heads, block_size, n_global, full_up_to
        self.query, self.key, self.value, self.output = (nn.Linear(d_model, d_model) for _ in range(4))
        n_blocks = -(-max_len // block_size)
        self.register_buffer("random", random_blocks(n_blocks, n_heads, n_random, n_global=n_global, seed=seed))

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            project(x_BTD).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        y_BHTK = self._attend(q, k, v, mask)
        return self.output(y_BHTK.transpose(1, 2).flatten(2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """In blocks; rows whose last real step is one of the first `full_up_to`, in full."""
        length, few = q.shape[2], self.full_up_to
        if few and (length <= few or mask is not None):
            first = None if mask is None else keys(mask[:, :few])
            full = F.scaled_dot_product_attention(q[:, :, :few], k[:, :, :few], v[:, :, :few], attn_mask=first)
            if length <= few:
                return full
        sparse = block_sparse_attention(q, k, v, self.random, self.block_size, self.n_global, mask)
        if not few or mask is None:
            return sparse
        short = ~mask[:, few:].any(dim=1)[:, None, None, None]
        return torch.where(short, F.pad(full, (0, 0, 0, length - few)), sparse)
