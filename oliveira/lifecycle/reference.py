"""What live traffic is compared with: held-out text of the known domain, cut into pieces as long as a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import UserError
from oliveira.lifecycle.pieces import pieces
from oliveira.lifecycle.plan import needed_pieces, needed_tokens, piece_size
from oliveira.monitoring.drift import Sample, build_reference
from oliveira.training.loss import cross_entropy
from oliveira.world import World

MAX_SAMPLES = 600


@torch.no_grad()
def score_texts(model: nn.Module, tokenizer: Tokenizer, texts: list[str], max_len: int) -> list[Sample]:
    """The same figure the engine measures on a prompt: mean nats a token, the first token given nothing."""
    samples = []
    for text in texts:
        tokens = tokenizer.encode(text)[:max_len]
        if len(tokens) >= 2:
            row = torch.tensor([tokens])
            samples.append(Sample(tokens, float(cross_entropy(model(row[:, :-1]), row[:, 1:]))))
    return samples


def held_out_texts(data: Path, most: int = MAX_SAMPLES) -> list[str]:
    """Up to `most` pieces of the validation and test documents, in the order of the documents."""
    documents = [
        json.loads(line)["text"]
        for split in ("validation", "test")
        for line in (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    size = piece_size(sum(map(len, documents)))
    texts = [piece for text in documents for piece in pieces(text, size)]
    step = max(1, len(texts) // most)
    return texts[::step][:most]


def held_out_samples(model: nn.Module, tokenizer: Tokenizer, data: Path, world: World) -> list[Sample]:
    return score_texts(model, tokenizer, held_out_texts(data), world.model.max_len)


def check_held_out(tokenizer: Tokenizer, data: Path, world: World) -> None:
    """Refuses before any training what the drift monitor could not be calibrated on.

    `lifecycle.plan` has made it unlikely, before any work, from the sizes alone.
    """
    texts = held_out_texts(data)
    tokens = sum(len(tokenizer.encode(text)[: world.model.max_len]) for text in texts)
    need_texts, need_tokens = needed_pieces(), needed_tokens(world.monitor.window)
    if len(texts) < need_texts or tokens < need_tokens:
        raise UserError(
            f"monitor.window = {world.monitor.window} needs {need_texts} held-out pieces with {need_tokens} tokens, "
            f"there are {len(texts)} with {tokens}. Give more text, hold out more of it (data.validation, data.test), "
            "or use a smaller monitor.window."
        )


def drift_reference(model: nn.Module, tokenizer: Tokenizer, data: Path, world: World) -> dict[str, Any]:
    samples = held_out_samples(model, tokenizer, data, world)
    return build_reference(samples, window=world.monitor.window, alpha=world.monitor.alpha, seed=world.seed)
