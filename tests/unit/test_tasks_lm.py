"""Language models on the real text of the Brazilian curriculum, which the test extra ships."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oliveira.data.documents import DocumentFile
from oliveira.errors import UserError
from oliveira.registry import create
from oliveira.tasks import baselines, lm
from oliveira.tasks.base import Array
from oliveira.tasks.catalogue import task
from oliveira.tasks.language_modelling import generate
from oliveira.tasks.lm import TextData
from oliveira.tasks.scoring import runner


class Uniform(nn.Module):
    """Knows nothing; takes a mask like every model of the catalogue."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.zeros(*x.shape, 1024)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def data(home: Path) -> TextData:
    opened = task("lm/bncc").open(home, lambda text: None)
    assert isinstance(opened, TextData)
    return opened


def test_sizes_and_the_three_splits(data: TextData) -> None:
    assert data.sizes == {"vocab_size": 1024, "d_out": 1024, "max_len": 128}
    assert data.counts["train"] > 5 * data.counts["test"] > 0 and data.counts["validation"] > 0
    names = {split: {d.name for d in DocumentFile(data.folder / f"{split}.jsonl")} for split in data.counts}
    assert not names["train"] & (names["validation"] | names["test"]) and not names["validation"] & names["test"]
    assert not (data.folder / "documents.jsonl").exists()


def test_targets_are_the_next_tokens_and_a_batch_depends_on_seed_and_number_alone(data: TextData, home: Path) -> None:
    (tokens,), targets, _ = data.batch(7, seed=1, size=4)
    assert tokens.shape == targets.shape == (4, 128) and torch.equal(tokens[:, 1:], targets[:, :-1])
    text = np.asarray(data.tokens["train"]).astype(np.int64)
    windows = {tuple(text[start : start + 129]) for start in range(len(text) - 128)}
    assert all((*row, int(last)) in windows for row, last in zip(tokens.tolist(), targets[:, -1], strict=True))
    other = task("lm/bncc").open(home, lambda text: None)
    other.batch(300, seed=1, size=4)  # another epoch in between
    assert torch.equal(other.batch(7, seed=1, size=4).targets, targets)
    assert not torch.equal(data.batch(7, seed=2, size=4).targets, targets)


def test_an_ignorant_model_pays_ten_bits_a_token(data: TextData) -> None:
    scores = data.evaluate(Uniform(), "test")
    n_tokens = len(data.tokens["test"])
    text = b"".join(data.tokenizer.token_bytes(int(token)) for token in data.tokens["test"])
    assert next(iter(scores)) == "bits per byte" and data.n_bytes("test") == len(text)
    assert scores["bits per byte"] == pytest.approx(10 * n_tokens / len(text), rel=1e-5)
    assert scores["nats per token"] == pytest.approx(math.log(1024), rel=1e-5)


def test_evenly_spaced_pieces() -> None:
    tokens = np.arange(10 * lm.PIECE)
    assert lm._pieces(tokens, 10) is tokens and lm._pieces(tokens, None) is tokens
    chosen = lm._pieces(tokens, 3)
    assert len(chosen) == 3 * lm.PIECE and chosen[0] == 0 and chosen[-1] == tokens[-1]
    assert chosen[lm.PIECE] == (len(tokens) - lm.PIECE) // 2


def test_baselines_are_computed_once(data: TextData, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = data.baselines
    assert found["5-gram Kneser-Ney"] < found["xz"] < found["unigram"]
    counted = (data.tokens["train"], data.tokens["test"], data.n_bytes("test"), data.tokenizer.vocab_size)
    assert found["unigram"] == baselines.unigram(*counted), "of the test split"

    def never(*_: Any, **__: Any) -> float:
        raise AssertionError("computed again")

    monkeypatch.setattr(baselines, "kneser_ney", never)
    again = task("lm/bncc").open(home, lambda text: None)
    assert again.baselines == found
    assert json.loads((data.folder / "baselines.json").read_bytes())["values"] == found


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create("gpt", vocab_size=1024, d_model=32, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32, max_len=128).eval()


def test_an_answer_is_what_the_model_writes_greedily(data: TextData, model: nn.Module) -> None:
    request = data.request()
    assert len(request["prompt"].split()) > 2
    answer = TextData.answer(data.state(), runner(model), request)
    prompt = [data.tokenizer.end_of_text, *data.tokenizer.encode(request["prompt"])]
    written = generate(model, prompt, request["n"], max_len=128)
    if data.tokenizer.end_of_text in written:
        written = written[: written.index(data.tokenizer.end_of_text)]
    assert answer == {"text": data.tokenizer.decode(prompt + written)}
    assert answer["text"].startswith(request["prompt"])


def test_a_long_prompt_keeps_its_end_and_end_of_text_stops(data: TextData) -> None:
    seen: list[Array] = []

    def run(tokens: Array) -> Array:
        seen.append(tokens)
        logits = np.zeros((*tokens.shape, 1024))
        logits[0, -1, 0 if len(seen) == 3 else 300] = 1
        return logits

    answer = TextData.answer(data.state(), run, {"prompt": "A educação " * 200, "n": 10})
    assert len(seen) == 3 and {tokens.shape for tokens in seen} == {(1, 128)}
    assert seen[1][0, :-1].tolist() == seen[0][0, 1:].tolist() and seen[1][0, -1] == 300
    assert answer["text"].endswith(data.tokenizer.decode([300, 300]))


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"prompt": ""}, "prompt is an empty text"),
        ({"prompt": 3}, "prompt is a number"),
        ({}, "prompt is missing or null"),
        ({"prompt": "a", "n": 0}, "n is not a whole number of tokens"),
        ({"prompt": "a", "n": 513}, "n is not a whole number of tokens"),
        ({"prompt": "a", "n": "4"}, "n is not a whole number of tokens"),
        ({"prompt": "a", "n": True}, "n is not a whole number of tokens"),
    ],
)
def test_a_wrong_request_names_the_field(data: TextData, request_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        TextData.answer(data.state(), runner(Uniform()), request_)


def test_too_short_a_text_is_refused(data: TextData) -> None:
    with pytest.raises(UserError, match=r"training tokens, fewer than max_len = 9999999 needs"):
        TextData(data.folder, 9_999_999)


def test_every_text_task_is_known() -> None:
    for name in ("lm/almeida", "lm/bncc", "lm/machado"):
        found = task(name)
        assert (found.eats, found.gives, found.metric.better) == ("tokens", "next", "lower") and found.licence
