"""How a GPT is held while it decodes. There is one construction: what serves, what is timed by `oliveira compile` and
the compress stage, and what is benchmarked are built here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.kernels.decoder import MAX_TOKENS, POSITIONS, BlockPool, Decoder, NativeDecoder, not_covered
from oliveira.kernels.linear import Kind, kind_of
from oliveira.kernels.twin import TorchDecoder
from oliveira.models.gpt import GPT

Head = Literal["fp32", "int8", "int6", "int4", "nf4"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """As `NativeDecoder` explains them. The default loses nothing."""

    head: Head | None = None
    cache: Literal["fp32", "fp16"] = "fp32"
    activations: Literal["fp32", "int8"] = "fp32"

    def __str__(self) -> str:
        words = [f"{self.head} head"] if self.head else []
        words += ["fp16 keys and values"] if self.cache == "fp16" else []
        words += ["int8 inputs"] if self.activations == "int8" else []
        return ", ".join(words)


def native(model: GPT, options: Options, *, threads: int | None = None, context: int | None = None) -> NativeDecoder:
    """Raises `UserError` for a model that `not_covered` explains."""
    return NativeDecoder(
        model,
        head=options.head,
        cache=options.cache,
        activations=options.activations,
        threads=threads,
        context=context,
    )


def fastest_safe(model: GPT, options: Options = Options(), *, context: int | None = None) -> Decoder:
    """The native step where it covers the model, else torch."""
    return TorchDecoder(model, context=context) if not_covered(model) else native(model, options, context=context)


def faster(model: GPT, options: Options) -> Iterator[Options]:
    """What may be tried where a loss is allowed: half of the cache's traffic, a smaller output matrix."""
    heads: Sequence[Head | None] = (None, "int8", "int6", "int4") if kind_of(model.head) == Kind.fp32 else (None,)
    for head in heads:
        yield Options(head=head, cache="fp16", activations=options.activations)


@torch.inference_mode()
def losses(decoder: Decoder, tokens: Sequence[int], window: int = 256) -> Tensor:
    """Sum of the losses (nats) of the tokens of each whole window, each read from its own beginning on."""
    window = min(window, decoder.config.max_len)
    pool = BlockPool(decoder, -(-window // POSITIONS))
    table = pool.take(len(pool.blocks))
    found = []
    for start in range(0, len(tokens) - window, window):
        targets = torch.tensor(tokens[start + 1 : start + window + 1])
        parts = [
            decoder.prefill(tokens[start + at : start + min(at + MAX_TOKENS, window)], at, table, wanted=n)
            for at in range(0, window, MAX_TOKENS)
            if (n := min(MAX_TOKENS, window - at))
        ]
        found.append(F.cross_entropy(torch.cat(parts), targets, reduction="sum").double())
    return torch.stack(found)
