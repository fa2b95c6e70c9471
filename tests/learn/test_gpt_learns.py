"""`gpt` on real Portuguese text: beats the unigram with the text in order, cannot with its order destroyed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from oliveira.data import preprocess, sources
from oliveira.data.settings import DataSection
from oliveira.data.shards import TokenShard
from oliveira.data.tokenizer import Tokenizer
from oliveira.registry import create
from oliveira.tasks import baselines
from oliveira.tasks.language_modelling import TokenBatches, bits_per_byte, next_token_loss
from oliveira.training.loop import Job, train
from oliveira.training.settings import TrainSection

STEPS = TrainSection(steps=150, batch_size=8, lr=1e-2, warmup_steps=15, optimizer="muon", checkpoint_every=150)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    sources.collect("bncc", folder, home=folder, max_chars=300_000, say=lambda text: None)
    config = DataSection(vocab_size=512, validation=0.1, test=0.1)
    (folder / "prepared").mkdir()
    preprocess.prepare(
        folder / "documents.jsonl",
        folder / "prepared",
        config=config,
        seed=0,
        tokenizer=None,
        progress=lambda share, text: None,
    )
    return folder / "prepared"


@pytest.mark.parametrize(("text", "must"), [("in order", "learn"), ("shuffled", "fail")])
def test_order_is_what_it_learns(data: Path, tmp_path: Path, text: str, must: str) -> None:
    tokenizer, known, held_out = (
        Tokenizer.load(data / "tokenizer.json"),
        *(_shard(data, s) for s in ("train", "validation")),
    )
    tokens = np.array(known.tokens)
    if text == "shuffled":
        np.random.default_rng(0).shuffle(tokens)
    torch.manual_seed(0)
    size = dict(d_model=64, n_layers=2, n_heads=2, n_kv_heads=2, d_ff=128, max_len=64)
    model = create("gpt", vocab_size=tokenizer.vocab_size, **size)
    job = Job(batch=TokenBatches(tokens, 64, 8, seed=0), loss=next_token_loss(), tokens_per_batch=512)
    train(model, job, STEPS, tmp_path, seed=0)
    model.eval()
    ours = bits_per_byte(model, held_out.tokens, held_out.n_bytes, end_of_text=tokenizer.end_of_text, max_len=64)
    unigram = baselines.unigram(known.tokens, held_out.tokens, held_out.n_bytes, tokenizer.vocab_size)
    figures = json.dumps({"ours": ours, "unigram": unigram})
    assert ours < 0.8 * unigram if must == "learn" else ours > 0.98 * unigram, figures


def _shard(data: Path, split: str) -> TokenShard:
    return TokenShard.open(data, split)
