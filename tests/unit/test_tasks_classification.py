"""Classification of texts, on the real sentences of the Brazilian curriculum, which the test extra ships."""

from __future__ import annotations

import dataclasses
import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oliveira.data.labelled import Labelled, plain_words, tweets
from oliveira.data.sources import Source, content_digest
from oliveira.errors import UserError
from oliveira.tasks.base import Array
from oliveira.tasks.catalogue import task
from oliveira.tasks.classification import TextClassData, TextClassification, macro_f1, naive_bayes
from oliveira.tasks.scoring import runner


class FirstToken(nn.Module):
    """Logits that read tokens and mask: the class of a text is its number of real tokens, modulo the classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is not None
        return nn.functional.one_hot(mask.sum(1) % self.classes, self.classes).float()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def data(home: Path) -> TextClassData:
    opened = task("classify/bncc").open(home, lambda text: None)
    assert isinstance(opened, TextClassData)
    return opened


def test_sizes_and_counts(data: TextClassData) -> None:
    assert data.counts == {"train": 920, "validation": 204, "test": 180} and len(data.labels) == 9
    assert data.sizes == {"vocab_size": 2048, "d_out": 9, "max_len": 96}
    assert "Matemática" in data.labels
    longest = max(len(row) for rows in data.tokens.values() for row in rows)
    assert longest == 96 and all(0 not in row for row in data.tokens["train"])


def test_no_text_is_on_two_sides(data: TextClassData) -> None:
    seen = {split: {tuple(plain_words(text)) for _, text, _ in rows} for split, rows in data.parts.items()}
    assert not seen["train"] & (seen["validation"] | seen["test"]) and not seen["validation"] & seen["test"]


def test_a_batch_is_masked_padded_and_depends_on_seed_and_number_alone(data: TextClassData) -> None:
    (tokens, mask), targets, _ = data.batch(4, seed=1, size=16)
    assert tokens.shape == mask.shape and tokens.shape[0] == 16 and mask.dtype == torch.bool
    assert bool((tokens[~mask] == 0).all()) and bool((tokens[mask] != 0).all()) and bool(mask[:, 0].all())
    assert int(mask.sum(1).max()) == tokens.shape[1], "no longer than the longest"
    by_text = {tuple(row): int(label) for row, label in zip(data.tokens["train"], data.targets["train"], strict=True)}
    assert [by_text[tuple(row[real].tolist())] for row, real in zip(tokens, mask, strict=True)] == targets.tolist()
    again = data.batch(4, seed=1, size=16)
    assert torch.equal(again.inputs[0], tokens) and torch.equal(again.targets, targets)
    assert not torch.equal(data.batch(4, seed=2, size=16).targets, targets)


def test_an_ignorant_model_pays_the_logarithm_of_the_labels(data: TextClassData) -> None:
    targets = data.batch(0, seed=0, size=8).targets
    assert float(data.loss(torch.zeros(8, 9), targets)) == pytest.approx(math.log(9))


def test_scores_are_those_of_each_text_alone(data: TextClassData) -> None:
    """Texts are scored sorted by length and padded together: no text may get another's answer."""
    predicted = data.predict(FirstToken(9), "test")
    assert predicted.tolist() == [len(row) % 9 for row in data.tokens["test"]]
    scores = data.evaluate(FirstToken(9), "test")
    assert next(iter(scores)) == "macro-F1"
    assert scores["accuracy"] == pytest.approx(float((predicted == data.targets["test"]).mean()))


def test_macro_f1_by_hand() -> None:
    predicted, truth = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1])
    # label 0: tp 1, fp 1, fn 0; label 1: tp 2, fp 0, fn 2; label 2: tp 0
    assert macro_f1(predicted, truth) == pytest.approx((2 / 3 + 4 / 6 + 0) / 3)
    assert macro_f1(truth, truth) == 1


def test_naive_bayes_by_hand_and_against_the_majority(data: TextClassData) -> None:
    labels = np.array([1, 0, 1])  # the commoner label is not the first: a tie would go to 0
    got = naive_bayes(["sol sol", "chuva", "sol lua"], labels, ["sol", "chuva chuva", "desconhecida", "", "lua chuva"])
    # "lua chuva", V = 3: 1/3 · 1/4 · 2/4 of label 0, which has one word, > 2/3 · 2/7 · 1/7 of label 1, which has four
    assert got.tolist() == [1, 0, 1, 1, 0], "words never seen leave the commoner label"
    assert 0.5 < data.baselines["naive Bayes on words"] < 0.8
    assert data.baselines["majority"] == pytest.approx(2 * 51 / (180 + 51) / 9, abs=0.02)


def test_a_request_there_and_back(data: TextClassData) -> None:
    request = data.request()
    answer = TextClassData.answer(data.state(), runner(FirstToken(9)), request)
    row = next(n for n, (_, text, _) in enumerate(data.parts["test"]) if text == request["text"])
    assert answer["label"] == data.labels[len(data.tokens["test"][row]) % 9]
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert max(answer["probabilities"], key=answer["probabilities"].get) == answer["label"]
    seen: list[tuple[Array, ...]] = []

    def run(*arrays: Array) -> Array:
        seen.append(arrays)
        return np.zeros((1, 9))

    TextClassData.answer(data.state(), run, {"text": "palavra " * 500})
    assert seen[0][0].shape == seen[0][1].shape == (1, 96)


@pytest.mark.parametrize("text", ["", "  \n ", None, 5, ["a"]])
def test_a_wrong_request_names_the_field(data: TextClassData, text: Any) -> None:
    with pytest.raises(UserError, match="Give a text of at least one word"):
        TextClassData.answer(data.state(), runner(FirstToken(9)), {"text": text})


def test_prepared_once(home: Path, data: TextClassData) -> None:
    said: list[str] = []
    again = task("classify/bncc").open(home, said.append)
    assert not said and isinstance(again, TextClassData)
    assert again.state() == data.state() and again.tokens == data.tokens


def test_a_picture_is_drawn(data: TextClassData, tmp_path: Path) -> None:
    assert data.picture(FirstToken(9), tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def _tweets(rows: list[str], folder: Path) -> tuple[TextClassification, Path]:
    folder.mkdir()
    header = "text,homophobia,obscene,insult,racism,misogyny,xenophobia"
    (folder / "told-br.csv.gz").write_bytes(gzip.compress("\n".join([header, *rows]).encode()))
    (folder / "told-br.csv").write_bytes("\n".join([header, *rows]).encode())
    told = task("classify/told-br")
    assert isinstance(told, TextClassification)
    content = content_digest(tweets(folder, folder))
    (folder / "told-br.csv").unlink()
    source: Source[Labelled] = dataclasses.replace(told.source, content=content)
    return dataclasses.replace(told, source=source, vocab_size=300), folder


def test_tweets_from_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'"você é um amor {n} 🎉",0.0,0.0,0.0,0.0,0.0,0.0' for n in range(60)]
    rows += [f'"seu bobo {n}",0.0,0.0,1.0,0.0,0.0,0.0' for n in range(40)]
    told, folder = _tweets(rows, tmp_path / "mine")
    monkeypatch.setenv("OLIVEIRA_DATA", str(folder))
    said: list[str] = []
    data = told.open(tmp_path / "home", said.append)
    assert "Route: your file" in said[0] and "CC BY-SA 4.0" in said[0]
    assert data.labels == ["not toxic", "toxic"] and sum(data.counts.values()) == 100
    assert data.request()["text"].startswith("você é um amor")


def test_too_few_texts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, folder = _tweets(['"só um",0,0,0,0,0,0'], tmp_path / "mine")
    monkeypatch.setenv("OLIVEIRA_DATA", str(folder))
    with pytest.raises(UserError, match="has 1 texts, too few for three splits"):
        told.open(tmp_path / "home", lambda text: None)
    assert not list((tmp_path / "home/cache/tasks/classify-told-br").iterdir())
