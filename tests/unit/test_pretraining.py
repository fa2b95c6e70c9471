"""The masks are counted exactly, the pairs are what their labels say, and an answer fills the gap."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oliveira.data.wordpiece import SPECIAL, WordPiece
from oliveira.errors import CorruptError, UserError
from oliveira.export.forward import ForwardRunner, export_forward
from oliveira.models.bert import BERT, BERTConfig, Pretraining
from oliveira.tasks.pretraining import SentencePairs, hide, paired
from oliveira.tasks.scoring import judged
from oliveira.training.loss import IGNORED

WORDS = [f"palavra{number}" for number in range(60)]
TINY: dict[str, Any] = dict(d_model=16, n_heads=2, d_ff=32, n_layers=1, dropout=0.0)


def document(number: int, lines: int = 6) -> str:
    """Each word says its document and line, so that a piece of text can be traced."""
    return "\n".join(f"d{number} l{line} fim" for line in range(lines))


@pytest.fixture(scope="module")
def wordpiece() -> WordPiece:
    words = [f"d{number}" for number in range(20)] + [f"l{number}" for number in range(9)] + ["fim", "##x"]
    return WordPiece([*SPECIAL, *words], lowercase=False)


@pytest.fixture(scope="module")
def data(wordpiece: WordPiece) -> SentencePairs:
    texts = {"train": range(10), "validation": range(10, 14), "test": range(14, 20)}
    documents = {split: [document(n) for n in numbers] for split, numbers in texts.items()}
    return SentencePairs(documents, wordpiece, max_len=19)


@pytest.mark.parametrize("pieces", [1, 7, 100, 1000, 4321])
def test_masks_are_counted_exactly(pieces: int, wordpiece: WordPiece) -> None:
    width = -(-pieces // 7)
    tokens = np.zeros((7, width + 2), dtype=np.int64)  # padding behind and special tokens around
    body = np.random.default_rng(0).integers(len(SPECIAL), wordpiece.vocab_size, 7 * width)
    body[pieces:] = wordpiece.sep
    tokens[:, 1:-1] = body.reshape(7, width)
    tokens[:, 0] = wordpiece.cls
    seen, labels = hide(tokens, wordpiece, np.random.default_rng(1))
    asked = labels != IGNORED
    n = max(1, round(0.15 * pieces))
    assert asked.sum() == n
    assert (labels[asked] == tokens[asked]).all() and (tokens[asked] >= len(SPECIAL)).all()
    assert (seen[~asked] == tokens[~asked]).all()
    hidden = asked & (seen == wordpiece.mask)
    assert hidden.sum() == round(0.8 * n)
    changed = asked & ~hidden & (seen != tokens)
    kept = asked & ~hidden & (seen == tokens)
    assert changed.sum() + kept.sum() == n - round(0.8 * n)
    assert changed.sum() <= round(0.1 * n) <= changed.sum() + 0.2 * n  # a piece drawn anew may be the same
    assert (seen[changed] >= len(SPECIAL)).all()


def test_the_tenth_that_is_replaced(wordpiece: WordPiece) -> None:
    """With thousands of pieces asked for, 10 % show another piece but for those drawn as themselves, 1 of 31."""
    tokens = np.full((100, 300), len(SPECIAL), dtype=np.int64)
    seen, labels = hide(tokens, wordpiece, np.random.default_rng(0))
    asked = labels != IGNORED
    changed = int((asked & (seen != wordpiece.mask) & (seen != tokens)).sum())
    assert int(asked.sum()) == 4500 and changed == pytest.approx(450 * 30 / 31, abs=15)


def test_every_piece_is_asked_for_in_time(data: SentencePairs) -> None:
    """Dynamic masks: the same pair, other pieces."""
    masks = [data._examples("train", [0], np.random.default_rng(n)).targets[0][0, :12] != IGNORED for n in range(60)]
    asked = torch.stack(masks).any(0)
    assert asked[1:7].all() and asked[8:].all() and not asked[[0, 7]].any()  # [CLS] A [SEP] B …
    assert len({tuple(mask.tolist()) for mask in masks}) > 10


def test_same_seed_and_number_same_batch(data: SentencePairs) -> None:
    def flat(seed: int, number: int) -> list[list[int]]:
        batch = data.batch(number, seed=seed, size=8)
        return [tensor.flatten().tolist() for tensor in (*batch.inputs, *batch.targets)]

    assert flat(3, 5) == flat(3, 5)
    assert flat(3, 5) != flat(4, 5) and flat(3, 5) != flat(3, 6)


def test_pairs_are_what_their_labels_say(data: SentencePairs, wordpiece: WordPiece) -> None:
    strangers, firsts, lengths = 0, set(), {0: [], 1: []}
    for number in range(60):
        (seen, mask, segments), (labels, strange), _ = data.batch(number, seed=0, size=8)
        tokens = torch.where(labels == IGNORED, seen, labels)  # what stood there
        assert tokens.shape[1] <= 19 and tokens.shape == mask.shape == segments.shape
        for row, real, segment, label in zip(tokens, mask, segments, strange.tolist(), strict=True):
            pieces = [wordpiece.pieces[token] for token in row[real].tolist()]
            assert pieces[0] == "[CLS]" and pieces.count("[SEP]") == 2 and pieces[-1] == "[SEP]"
            middle = pieces.index("[SEP]") + 1
            assert segment[real].tolist() == [0] * middle + [1] * (len(pieces) - middle)
            assert (row[~real] == wordpiece.pad).all() and (segment[~real] == 0).all()
            first, second = pieces[1 : middle - 1], pieces[middle:-1]
            assert (first[0] == second[0]) == (label == 0)
            if label == 0:
                lines = [int(piece[1:]) for piece in first + second if piece[0] == "l"]
                assert lines == list(range(lines[0], lines[0] + len(lines)))
            strangers += label
            firsts.add(tuple(first[:2]))
            lengths[label].append(len(second))
    assert 200 < strangers < 280  # of 480
    assert len(firsts) == 10 * 5  # every line but the last begins an A
    assert abs(np.mean(lengths[0]) - np.mean(lengths[1])) < 0.5  # the length of B says nothing


class Knowing(nn.Module):
    """Uniform over pieces, sure that B follows."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor) -> Pretraining:
        return Pretraining(torch.zeros(*tokens.shape, self.vocab_size), torch.tensor([[4.0, 0.0]] * len(tokens)))


def test_evaluation_and_loss(data: SentencePairs, wordpiece: WordPiece) -> None:
    model = Knowing(wordpiece.vocab_size)
    figures = data.evaluate(model, "test")
    assert figures["nats per masked piece"] == pytest.approx(math.log(wordpiece.vocab_size), rel=1e-5)
    strange = torch.cat([batch.targets[1] for batch in data._scored("test")])
    assert figures["NSP accuracy"] == pytest.approx(1 - strange.float().mean().item())
    assert data.evaluate(model, "test") == figures
    batch = data.batch(0, seed=0, size=4)
    wrong = float(batch.targets[1].float().mean())
    nsp = math.log1p(math.exp(-4)) + 4 * wrong
    assert float(data.loss(model(*batch.inputs), batch.targets)) == pytest.approx(math.log(36) + nsp, rel=1e-5)
    # fim is a third of the text, so a unigram model knows more than nothing
    assert data.baselines["unigram"] < math.log(36)


def test_the_baseline_is_of_the_test_split(data: SentencePairs, wordpiece: WordPiece) -> None:
    counts = np.ones(wordpiece.vocab_size)
    for lines in data.lines["train"]:
        counts += np.bincount(np.concatenate(lines), minlength=len(counts))
    nats: dict[str, list[float]] = {"validation": [], "test": []}
    for split, found in nats.items():
        for batch in data._scored(split):  # type: ignore[arg-type]
            asked = batch.targets[0][batch.targets[0] != IGNORED]
            found += (-np.log(counts / counts.sum()))[asked.numpy()].tolist()
    assert data.baselines["unigram"] == pytest.approx(np.mean(nats["test"]))
    assert data.baselines["unigram"] != pytest.approx(np.mean(nats["validation"]))


def test_too_little_text(wordpiece: WordPiece) -> None:
    with pytest.raises(UserError, match="validation"):
        SentencePairs({"train": [document(0), document(1)], "validation": ["d2"], "test": [document(3)]}, wordpiece, 19)


def run_of(wordpiece: WordPiece, best: list[str]) -> Any:
    """A runner that gives each mask its word, and 0.9 for "follows"."""

    def run(tokens: Any, mask: Any, segments: Any) -> tuple[Any, Any]:
        assert tokens.shape == mask.shape == segments.shape and mask.all()
        mlm = np.zeros((*tokens.shape, wordpiece.vocab_size), dtype=np.float32)
        for place, word in zip(np.flatnonzero(tokens[0] == wordpiece.mask), best, strict=True):
            mlm[0, place, wordpiece.pieces.index(word)] = 9.0
        mlm[..., wordpiece.mask] = 99.0  # a special token is no answer
        return mlm, np.array([[math.log(0.9), math.log(0.1)]])

    return run


def test_answer_fills_each_gap(data: SentencePairs, wordpiece: WordPiece) -> None:
    state = data.state()
    answer = data.answer(state, run_of(wordpiece, ["l3", "fim"]), {"text": "d1 [MASK] [MASK]"})
    assert [words[0]["word"] for words in answer["masks"]] == ["l3", "fim"] and len(answer["masks"][0]) == 5
    assert set(answer) == {"masks"} and answer["masks"][0][0]["probability"] < 1e-6  # [MASK] took the rest
    paired_answer = data.answer(state, run_of(wordpiece, []), {"text": "d1 l1", "next": "d1 l2"})
    assert paired_answer == {"masks": [], "follows": pytest.approx(0.9)}
    assert "[MASK]" in data.request()["text"]


@pytest.mark.parametrize(
    ("request_", "word"),
    [({}, "text"), ({"text": " "}, "text"), ({"text": "d1 l1"}, "MASK"), ({"text": "d1 [MASK]", "next": 3}, "next"),
     ({"text": "[MASK] " + "d1 " * 30}, "max_len")],
)  # fmt: skip
def test_refusals(request_: dict[str, Any], word: str, data: SentencePairs, wordpiece: WordPiece) -> None:
    with pytest.raises(UserError, match=word):
        data.answer(data.state(), run_of(wordpiece, []), request_)


@pytest.mark.slow
def test_an_exported_bert_gives_the_same_answer(data: SentencePairs, wordpiece: WordPiece, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BERT(BERTConfig(**data.sizes, **TINY)).eval()
    torch.nn.init.normal_(model.embedding.weight)  # far from uniform

    def run(*arrays: Any) -> Any:
        with judged(model):
            return tuple(part.numpy() for part in model(*map(torch.from_numpy, arrays)))

    export_forward(
        model, data.batch(0, seed=0, size=2).inputs, tmp_path / "bert.onnx", ("tokens", "mlm+nsp"), max_len=19
    )
    request = {"text": "d1 [MASK] fim", "next": "d1 l4"}
    expected = data.answer(data.state(), run, request)
    got = data.answer(data.state(), ForwardRunner(tmp_path / "bert.onnx"), request)
    assert [words[0]["word"] for words in got["masks"]] == [words[0]["word"] for words in expected["masks"]]
    assert got["follows"] == pytest.approx(expected["follows"], abs=1e-4)


# WordPiece ----------------------------------------------------------------------------------------

TEXT = "O rato roeu a roupa do rei de Roma. A raínha, com raiva, resolveu remendar. " * 8


def test_wordpiece_learns_the_same_pieces_twice() -> None:
    one, again = (WordPiece.train([TEXT, *WORDS], 120) for _ in range(2))
    assert one.pieces == again.pieces and one.pieces[:5] == list(SPECIAL) and one.vocab_size <= 120


def test_wordpiece_text_and_back() -> None:
    wordpiece = WordPiece.train([TEXT], 200)
    assert wordpiece.decode(wordpiece.encode("O rato roeu a roupa.")) == "O rato roeu a roupa."
    assert wordpiece.unknown in wordpiece.encode("日")
    assert wordpiece.mask not in wordpiece.encode("a [MASK] b")  # in a text it is text
    assert wordpiece.sentence("O rato roeu", max_len=4) == [
        wordpiece.cls, *wordpiece.encode("O rato roeu")[:2], wordpiece.sep,
    ]  # fmt: skip
    assert paired(wordpiece, [7], []) == ([wordpiece.cls, 7, wordpiece.sep], [0, 0, 0])


def test_lowercase_also_strips_accents() -> None:
    wordpiece = WordPiece([*SPECIAL, "rainha"], lowercase=True)
    assert wordpiece.encode("Raínha") == [5]
    assert WordPiece([*SPECIAL, "Raínha"], lowercase=False).encode("Raínha") == [5]


@pytest.mark.parametrize("pieces", [list(SPECIAL[:-1]), [*SPECIAL, "a", "a"]])
def test_a_damaged_list_of_pieces(pieces: list[str]) -> None:
    with pytest.raises(CorruptError, match="piece"):
        WordPiece(pieces, lowercase=False)
