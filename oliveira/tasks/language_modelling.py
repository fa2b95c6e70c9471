"""Language modelling: tokens in, the next token out; measured in bits per byte of the original text.

    bits per byte = Σ −log₂ p(tokenₜ | tokens before it) / UTF-8 bytes of the text

so that models with different tokenizers, and compressors, stand on one scale. The first token is predicted from
`end_of_text`, every `end_of_text` between documents is paid for. While scoring, windows of `max_len` overlap by
half, so that each token but the first few has at least half a window of context.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from oliveira.nn.attention import ConcatCache
from oliveira.training.loss import cross_entropy, next_token
from oliveira.training.seeds import stream


class TokenBatches:
    """Batch `i` of shuffled windows, without replacement inside an epoch, a new phase and order each epoch.

    Shapes: (batch_size, length + 1) int64: inputs are [:, :-1], targets [:, 1:].
    """

    def __init__(self, tokens: np.ndarray, length: int, batch_size: int, seed: int) -> None:
        if len(tokens) < length + 2:
            raise ValueError(f"{len(tokens)} tokens do not fill one window of {length + 1}")
        self.tokens, self.length, self.batch_size, self.seed = tokens, length, batch_size, seed
        self.windows = max(1, (len(tokens) - 1 - (length - 1)) // length) if len(tokens) >= 2 * length else 1
        self._epoch = -1
        self._starts = np.empty(0, dtype=np.int64)

    def _start(self, number: int) -> int:
        epoch, index = divmod(number, self.windows)
        if epoch != self._epoch:
            random = stream(self.seed, epoch)
            phase = int(random.integers(0, len(self.tokens) - 1 - self.windows * self.length + 1))
            self._starts = phase + random.permutation(self.windows) * self.length
            self._epoch = epoch
        return int(self._starts[index])

    def __call__(self, number: int) -> Tensor:
        starts = [self._start(number * self.batch_size + row) for row in range(self.batch_size)]
        rows = np.stack([self.tokens[s : s + self.length + 1].astype(np.int64) for s in starts])
        return torch.from_numpy(rows)


class MixedBatches:
    """Rows of `new`, a share of them replaced by rows of `old`: replay against forgetting."""

    def __init__(self, new: TokenBatches, old: TokenBatches, replay: float) -> None:
        self.new, self.old, self.n_old = new, old, round(new.batch_size * replay)

    def __call__(self, number: int) -> Tensor:
        rows = self.new(number)
        if self.n_old:
            rows[: self.n_old] = self.old(number)[: self.n_old]
        return rows


def next_token_loss(label_smoothing: float = 0.0) -> Callable[[nn.Module, Tensor], Tensor]:
    def loss(model: nn.Module, rows: Tensor) -> Tensor:
        return next_token(model, rows[:, :-1], rows[:, 1:], label_smoothing=label_smoothing)

    return loss


@torch.no_grad()
def total_nats(model: nn.Module, tokens: np.ndarray, *, end_of_text: int, max_len: int, batch_size: int = 16) -> float:
    """Σ −ln p over all tokens, each predicted from at least half a window of context (see the head of the file)."""
    padded = np.concatenate([[end_of_text], np.asarray(tokens)]).astype(np.int64)
    stride = max(1, max_len // 2)
    pieces: list[tuple[int, int]] = []  # (start of window, first target that counts)
    counted = 1
    while counted < len(padded):
        start = max(0, counted - (max_len - stride))
        pieces.append((start, counted))
        counted = start + max_len + 1
    total = 0.0
    for first in range(0, len(pieces), batch_size):
        chunk = pieces[first : first + batch_size]
        rows = np.zeros((len(chunk), max_len + 1), dtype=np.int64)
        target_mask = np.zeros((len(chunk), max_len), dtype=bool)
        for row, (start, counts_from) in enumerate(chunk):
            window = padded[start : start + max_len + 1]
            rows[row, : len(window)] = window
            target_mask[row, counts_from - start - 1 : len(window) - 1] = True
        inputs = torch.from_numpy(rows)
        targets = inputs[:, 1:].masked_fill(~torch.from_numpy(target_mask), -100)
        total += float(cross_entropy(model(inputs[:, :-1]), targets)) * int(target_mask.sum())
    return total


def bits_per_byte(
    model: nn.Module, tokens: np.ndarray, n_bytes: int, *, end_of_text: int, max_len: int, batch_size: int = 16
) -> float:
    nats = total_nats(model, tokens, end_of_text=end_of_text, max_len=max_len, batch_size=batch_size)
    return nats / math.log(2) / n_bytes


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: list[int],
    n_tokens: int,
    *,
    max_len: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[int]:
    """The plain way to write on from `prompt`: the oracle of the serving engine. temperature 0 = greedy."""
    random = torch.Generator().manual_seed(seed)
    cache, written, new = ConcatCache(), [], torch.tensor([prompt])
    for _ in range(min(n_tokens, max_len - len(prompt))):
        logits = model(new, cache=cache)[0, -1]
        if temperature:
            token = int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=random))
        else:
            token = int(logits.argmax())
        written.append(token)
        new = torch.tensor([[token]])
    return written
