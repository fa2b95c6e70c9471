"""A model read as it will be served: by the decoder of the engine, each token once, however long its context could be.

Trained weights are large: to score a text in torch costs three times as much, and twice that where windows overlap.

    with a window of W tokens, token t is predicted from those before it in its window, and the last of the one before
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.data.tokenizer import Tokenizer
from oliveira.kernels.decoder import MAX_TOKENS, POSITIONS, BlockPool, Run
from oliveira.kernels.options import fastest_safe
from oliveira.models.gpt import GPT
from oliveira.monitoring.drift import Sample

WINDOW = 512  # tokens


class Reading:
    """`model` has the weights that are served; it may be dropped by the caller: the decoder has what it needs."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, longest: int = WINDOW) -> None:
        self.tokenizer = tokenizer
        self.longest = min(longest, model.config.max_len)
        self.decoder = fastest_safe(model)
        self.pool = BlockPool(self.decoder, -(-(self.longest + 1) // POSITIONS))
        self._n_tokens = tokenizer.vocab_size

    @torch.inference_mode()
    def losses(self, tokens: Sequence[int]) -> Tensor:
        """Nats of each token but the first, given those before it; at most `longest` + 1 of them."""
        found = []
        table = self.pool.take(-(-(len(tokens) - 1) // POSITIONS))
        try:
            for start in range(0, len(tokens) - 1, MAX_TOKENS):
                piece = list(tokens[start : min(start + MAX_TOKENS, len(tokens) - 1)])
                logits_TV = self.decoder.step([Run(piece, start, table, len(piece))])[:, : self._n_tokens]
                after = torch.tensor(tokens[start + 1 : start + 1 + len(piece)])
                found.append(F.cross_entropy(logits_TV, after, reduction="none").double())
        finally:
            self.pool.give_back(table)
        return torch.cat(found)

    def samples(self, texts: Iterable[str]) -> list[Sample]:
        """What the monitor compares: the mean loss of each text, as the engine measures it on a prompt."""
        read = (self.tokenizer.prompt(text)[: self.longest] for text in texts)
        return [Sample(tokens, float(self.losses(tokens).mean())) for tokens in read if len(tokens) >= 2]

    def bits_per_byte(self, tokens: np.ndarray, n_bytes: int) -> float:
        begin = list(self.tokenizer.begin)
        padded = [self.tokenizer.end_of_text, *(int(token) for token in tokens)]
        size, nats = self.longest - len(begin), 0.0
        for start in range(0, len(padded) - 1, size):
            window = [*begin, *padded[start : start + size + 1]]
            nats += float(self.losses(window)[len(begin) :].sum())
        return nats / math.log(2) / n_bytes

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], n_tokens: int, stops: Sequence[int] = ()) -> list[int]:
        """Greedy, until a token of `stops`, which is not written."""
        prompt = list(prompt)[-(self.longest - 1) :]
        written: list[int] = []
        table = self.pool.take(len(self.pool.free))
        try:
            logits_V = torch.empty(0)
            for start in range(0, len(prompt), MAX_TOKENS):
                logits_V = self.decoder.prefill(prompt[start : start + MAX_TOKENS], start, table)[0]
            for position in range(len(prompt), min(len(prompt) + n_tokens, self.longest)):
                token = int(logits_V[: self._n_tokens].argmax())
                if token in stops:
                    break
                written.append(token)
                logits_V = self.decoder.decode([token], [position], [table])[0]
        finally:
            self.pool.give_back(table)
        return written

    def steady(self, texts: Iterable[str]) -> bool:
        """Finite numbers after each of a few prompts, and the same text twice."""
        for text in texts:
            tokens = self.tokenizer.prompt(text)
            if not math.isfinite(float(self.losses([self.tokenizer.end_of_text, *tokens]).sum())):
                return False
            if self.write(tokens, 8) != self.write(tokens, 8):
                return False
        return True
