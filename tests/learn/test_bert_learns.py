"""`bert` pre-trained on a small world: two topics of their own words, nouns and verbs in turn. Without the world it
learns nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from oliveira.data.wordpiece import SPECIAL, WordPiece
from oliveira.registry import create
from oliveira.tasks.pretraining import SentencePairs

WORDS, LINES, LENGTH = 8, 120, 6
PIECES = [f"{kind}{topic}{number}" for kind in "nv" for topic in "ab" for number in range(WORDS)]
STEPS, BATCH = 400, 16
SIZES: dict[str, Any] = dict(d_model=48, n_layers=2, n_heads=4, d_ff=96, dropout=0.0)


def corpus(seed: int, *, world: bool) -> list[str]:
    """One document a topic: lines of noun verb noun verb … Without a world, the same words drawn at random."""
    random = np.random.default_rng(seed)
    documents = []
    for topic in "ab":
        numbers = random.integers(WORDS, size=(LINES, LENGTH))
        lines = [[f"{'nv'[place % 2]}{topic}{number}" for place, number in enumerate(row)] for row in numbers]
        if not world:
            lines = [list(random.choice(PIECES, LENGTH)) for _ in lines]
        documents.append("\n".join(" ".join(line) for line in lines))
    return documents


def pretrained(*, world: bool) -> tuple[dict[str, float], float]:
    """Figures on held-out documents, and the unigram baseline."""
    texts = {split: corpus(seed, world=world) for seed, split in enumerate(("train", "validation", "test"))}
    data = SentencePairs(texts, WordPiece([*SPECIAL, *PIECES], lowercase=False), max_len=27)
    torch.manual_seed(0)
    model = create("bert", **data.sizes, **SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min((n + 1) / 40, (STEPS - n) / STEPS))
    for number in range(STEPS):
        batch = data.batch(number, seed=0, size=BATCH)
        optimizer.zero_grad()
        data.loss(model(*batch.inputs), batch.targets).backward()
        optimizer.step()
        schedule.step()
    return data.evaluate(model, "test"), data.baselines["unigram"]


@pytest.mark.slow
@pytest.mark.parametrize(("world", "must"), [(True, "learn"), (False, "fail")])
def test_two_topics(world: bool, must: str) -> None:
    figures, unigram = pretrained(world=world)
    masked, nsp = figures["nats per masked piece"], figures["NSP accuracy"]
    if must == "learn":
        assert masked <= 0.7 * unigram and nsp >= 0.95, (figures, unigram)
    else:
        assert masked >= 0.9 * unigram and nsp <= 0.65, (figures, unigram)
