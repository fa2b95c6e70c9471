"""What both sides of benchmarks.qlora agree on: the models, the tokens, the sizes of LoRA, the optimiser's settings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import smollm2
from oliveira.convert.gguf import read_gguf
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.tasks.language_modelling import TokenBatches
from oliveira.training.settings import TrainSection

VOCAB, WIDTH, HEADS, FF, LENGTH, SEQUENCES = 8192, 768, 12, 3072, 256, 4
RANK, ALPHA = 16, 32.0
TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
CONFIG = TrainSection(steps=10_000, lr=1e-3, warmup_steps=1, weight_decay=0.0, beta2=0.999)


class Subject(NamedTuple):
    """What both sides adapt."""

    name: str
    model: Callable[[], GPT]  # fp32, the same weights at every call
    batch: Callable[[int], torch.Tensor]  # step → tokens (SEQUENCES, LENGTH + 1)


class Side(NamedTuple):
    step: Callable[[], object]
    losses: list[float]


def random_subject(n_layers: int) -> Subject:
    """Random weights; sequences that count up in steps of 1 … 4."""
    config = GPTConfig(
        vocab_size=VOCAB, d_model=WIDTH, n_layers=n_layers, n_heads=HEADS, n_kv_heads=HEADS, d_ff=FF, max_len=LENGTH
    )

    def model() -> GPT:
        torch.manual_seed(0)
        return GPT(config)

    def batch(number: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(number)
        start = torch.randint(VOCAB, (SEQUENCES, 1), generator=random)
        return (start + torch.randint(1, 5, (SEQUENCES, 1), generator=random) * torch.arange(LENGTH + 1)) % VOCAB

    return Subject(f"{n_layers} layers of {WIDTH}", model, batch)


def real_subject() -> Subject:
    """SmolLM2 and the text of these pages. Raises `OliveiraError` when it cannot be had."""
    with smollm2.on_disk() as file:
        model, tokenizer = read_gguf(file)
    tokens = np.array(tokenizer.encode(smollm2.pages()).ids)
    return Subject(smollm2.NAME, partial(copy.deepcopy, model), TokenBatches(tokens, LENGTH, SEQUENCES, seed=0))
