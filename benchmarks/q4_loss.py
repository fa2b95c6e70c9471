"""What each saving costs in nats a token of held-out English text, beside the NF4 of bitsandbytes."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

from torch import nn

from oliveira.compression.model import KEPT, quantise_model
from oliveira.kernels.decoder import NativeDecoder
from oliveira.kernels.options import Options, losses, native
from oliveira.models.gpt import GPT

WINDOW, WINDOWS = 256, 32  # with 16 a difference had a noise of ± 0.02 nats
CHANGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("fp16 keys and values", "", dict(cache="fp16")),
    ("int8 head", "", dict(head="int8")),
    ("int6 head", "", dict(head="int6")),
    ("int4 head", "", dict(head="int4")),
    ("int4", "int4", {}),
    ("int4_mse", "int4_mse", {}),
    ("nf4", "nf4", {}),
    ("int4, int8 inputs", "int4", dict(activations="int8")),
    ("nf4, int8 inputs", "nf4", dict(activations="int8")),
    ("int4, int6 head, int8 inputs, fp16 cache", "int4", dict(head="int6", activations="int8", cache="fp16")),
    ("int4_mse, int6 head, int8 inputs, fp16 cache", "int4_mse", dict(head="int6", activations="int8", cache="fp16")),
    ("nf4, int6 head, int8 inputs, fp16 cache", "nf4", dict(head="int6", activations="int8", cache="fp16")),
    ("int4, int4 head, int8 inputs, fp16 cache", "int4", dict(head="int4", activations="int8", cache="fp16")),
)


def nats(decoder: NativeDecoder, tokens: list[int]) -> float:
    """Mean loss of a token, in windows that begin anew."""
    return float(losses(decoder, tokens, WINDOW).sum()) / (len(tokens) - 1)


def by_bitsandbytes(model: GPT) -> GPT:
    """A copy whose layers went through bitsandbytes' NF4, double quantisation, and back. Its head is kept, as ours."""
    from bitsandbytes import functional

    made = copy.deepcopy(model)
    for name, layer in made.named_modules():
        if type(layer) is nn.Linear and name != KEPT:
            packed, state = functional.quantize_4bit(
                layer.weight.detach(), blocksize=64, quant_type="nf4", compress_statistics=True
            )
            layer.weight = nn.Parameter(functional.dequantize_4bit(packed, state))
    return made


def loss(table: Any, model: GPT, tokens: list[int], threads: int) -> None:
    """One fact with every change, and a row for each 4-bit format: what bitsandbytes' NF4 loses over what ours does."""
    tokens = tokens[: WINDOW * WINDOWS + 1]
    base = nats(native(model, Options(), threads=threads), tokens)
    lost = {}
    for name, method, options in CHANGES:
        variant: Any = quantise_model(copy.deepcopy(model), method) if method else model
        lost[name] = nats(native(variant, Options(**options), threads=threads), tokens) - base
    if importlib.util.find_spec("bitsandbytes") is None:
        table.skip("bitsandbytes", "it is not installed")
    else:
        theirs = lost["bitsandbytes NF4"] = (
            nats(native(by_bitsandbytes(model), Options(), threads=threads), tokens) - base
        )
        for method in ("int4", "int4_mse", "nf4"):
            table.figure(f"SmolLM2-135M nats lost, {method}", lost[method], theirs, "bnb NF4", 1.0)
    changes = {f"+ {name}": round(value, 4) for name, value in lost.items()}
    table.fact("SmolLM2-135M loss", {"fp32 (the file's own 4 bits undone), nats a token": round(base, 4), **changes})
