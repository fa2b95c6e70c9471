"""What fewer bits cost: size, loss and latency beside float32, measured in one run.

Times are those of what serves: the native step, or torch where that does not cover the model. They are medians over
interleaved rounds (fp32, int4, nf4, fp32, …), so that a busy machine hurts all alike. `slower` is said when decoding or
prefill takes longer than fp32 by more than 5 %, the noise of such medians.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from statistics import median
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.compression.model import QUANTISED, quantise_model
from oliveira.errors import UserError
from oliveira.kernels.decoder import MAX_TOKENS, POSITIONS, BlockPool, Decoder
from oliveira.kernels.options import fastest_safe
from oliveira.models.gpt import GPT

NOISE = 1.05


class Cost(TypedDict):
    weights: str  # one of `compression.model.FORMATS`
    bytes: int  # of the whole model on disk
    bits_per_weight: float  # of the layers that change, scales included
    loss: float  # nats a token
    loss_change: float  # against fp32
    prefill_ms: float  # the whole prompt at once
    decode_ms: float  # one more token, with the cache
    slower: bool


def compare(model: GPT, methods: Sequence[str], tokens: Tensor, *, batch_size: int = 16, rounds: int = 5) -> list[Cost]:
    """fp32 first, then one row a method. `model` has fp32 weights and is left as it is.

    `tokens` (n,) int64 is text that it has not been trained on: read in windows of `model.config.max_len`.
    """
    if len(tokens) < 3:
        raise UserError(f"{len(tokens)} validation tokens are too few to measure a loss. Give more text.")
    variants = {"fp32": copy.deepcopy(model).eval()}
    for method in methods:
        variants[method] = copy.deepcopy(model).eval()
        quantise_model(variants[method], method)
    decoders = {name: _decoder(variant) for name, variant in variants.items()}
    prefill: dict[str, list[float]] = {name: [] for name in variants}
    decode: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(rounds + 1):  # the first round warms up
        for name, decoder in decoders.items():
            prompt_ms, token_ms = _latency(decoder, tokens)
            if index:
                prefill[name].append(prompt_ms)
                decode[name].append(token_ms)
    rows: list[Cost] = []
    for name, variant in variants.items():
        loss = language_loss(variant, tokens, batch_size)
        base: Cost | None = rows[0] if rows else None
        prefill_ms, decode_ms = median(prefill[name]), median(decode[name])
        rows.append(
            Cost(
                weights=name,
                bytes=size_in_bytes(variant),
                bits_per_weight=_bits_per_weight(variant),
                loss=loss,
                loss_change=loss - base["loss"] if base else 0.0,
                prefill_ms=prefill_ms,
                decode_ms=decode_ms,
                slower=base is not None
                and (decode_ms > NOISE * base["decode_ms"] or prefill_ms > NOISE * base["prefill_ms"]),
            )
        )
    return rows


@torch.inference_mode()
def language_loss(model: nn.Module, tokens: Tensor, batch_size: int = 16) -> float:
    """Mean cross-entropy in nats over windows of `max_len`; the last, shorter one counts too."""
    length = min(int(model.config.max_len), len(tokens) - 1)  # type: ignore[union-attr, arg-type]
    starts = range(0, len(tokens) - 1, length)
    inputs = [tokens[s : s + length] for s in starts]
    targets = [tokens[s + 1 : s + 1 + length] for s in starts]
    inputs[-1] = inputs[-1][: len(targets[-1])]
    total, full = 0.0, len(inputs) - (len(inputs[-1]) < length)
    groups = [slice(i, min(i + batch_size, full)) for i in range(0, full, batch_size)]
    if full < len(inputs):
        groups.append(slice(full, full + 1))
    for group in groups:
        logits = model(torch.stack(inputs[group]))
        total += float(F.cross_entropy(logits.flatten(0, 1), torch.cat(targets[group]), reduction="sum"))
    return total / (len(tokens) - 1)


def size_in_bytes(model: nn.Module) -> int:
    """Parameters and saved buffers; what two names share counts once."""
    stored = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
    return sum(stored.values())


def _bits_per_weight(model: nn.Module) -> float:
    layers = [layer for layer in model.modules() if isinstance(layer, QUANTISED)]
    if not layers:
        return 32.0
    sizes = [layer.in_features * layer.out_features for layer in layers]
    bits = sum(layer.bits_per_weight() * size for layer, size in zip(layers, sizes, strict=True))
    return bits / sum(sizes)


def _decoder(model: GPT) -> Decoder:
    """What serves the model: the native step, or torch where that does not cover it."""
    made = fastest_safe(model)
    BlockPool(made, -(-model.config.max_len // POSITIONS))  # the decoder keeps it
    return made


def _latency(decoder: Decoder, tokens: Tensor, new_tokens: int = 8) -> tuple[float, float]:
    """Milliseconds of a prompt of half a context, and of each token after it."""
    half = decoder.config.max_len // 2
    prompt, new_tokens = tokens[:half].tolist(), min(new_tokens, half)
    table = decoder.pool.take(-(-(len(prompt) + new_tokens) // POSITIONS))
    start = time.perf_counter()
    for first in range(0, len(prompt), MAX_TOKENS):
        logits = decoder.prefill(prompt[first : first + MAX_TOKENS], first, table)
    middle = time.perf_counter()
    for position in range(len(prompt), len(prompt) + new_tokens):
        logits = decoder.decode([int(logits[0].argmax())], [position], [table])
    end = time.perf_counter()
    decoder.pool.give_back(table)
    return 1e3 * (middle - start), 1e3 * (end - middle) / new_tokens
