"""The trained weights of g2p-en (Apache-2.0) in our seq2seq: the same phonemes, word for word.

Needs `checkpoint20.npz`: in the installed package g2p-en, or in the folder OLIVEIRA_DATA, as it is or in the wheel.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oliveira.convert.recurrent import from_g2p_en
from oliveira.errors import UserError
from oliveira.models.seq2seq import Seq2Seq
from oliveira.nn.beam import beam_search

pytestmark = pytest.mark.float32

FILE = "checkpoint20.npz"
LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
# The marks, then ARPAbet in alphabetical order: a vowel stands three times, with its stress, UW also bare.
SOUNDS = """
AA* AE* AH* AO* AW* AY* B CH D DH EH* ER* EY* F G HH IH* IY* JH K L M N NG OW* OY* P R S SH T TH UH* UW UW* V W Y Z ZH
"""
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>"]
PHONEMES += [s.replace("*", stress) for s in SOUNDS.split() for stress in ("012" if "*" in s else "-")]
START, END, LONGEST = 2, 3, 20

# The first as g2p-en's README prints it; the others as in the CMU dictionary, from which the net learned.
KNOWN = {
    "activationist": "AE2 K T IH0 V EY1 SH AH0 N IH0 S T",
    "cat": "K AE1 T",
    "computer": "K AH0 M P Y UW1 T ER0",
    "nation": "N EY1 SH AH0 N",
    "kitchen": "K IH1 CH AH0 N",
    "finger": "F IH1 NG G ER0",
    "running": "R AH1 N IH0 NG",
    "planet": "P L AE1 N AH0 T",
}
STEMS = """
able act add air art ask back ball band bank bar base bear beat bed bell best bird blue board boat body bone book
born box boy break bring build burn call camp cap card care catch chance change child city claim class clean clear
climb close cloud coast cold color cook corn count cover cross crowd dance dark deal deep door draw dream drive drop
earth edge effect energy engine event exact fact fair fall farm father favor fear field fight figure fill final find
finger fire fish floor flow flower follow force forest form found friend front fruit garden gather gentle glass gold
grand grass ground group grow guess guide hand happy heart heat heavy history horse hour house hunt island
"""
WORDS = [*KNOWN, *(form for stem in STEMS.split() for form in (stem, f"un{stem}able"))]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for found in _places():
        if found.suffix == ".whl":
            folder = tmp_path_factory.mktemp("g2p")
            with zipfile.ZipFile(found) as wheel:
                return Path(wheel.extract(f"g2p_en/{FILE}", folder))
        return found
    pytest.skip(f"{FILE} of g2p-en is not here: put it, or the wheel, into the folder OLIVEIRA_DATA")


def _places() -> Iterator[Path]:
    package = importlib.util.find_spec("g2p_en")
    if package is not None and package.origin is not None:
        yield Path(package.origin).with_name(FILE)
    if folder := os.environ.get("OLIVEIRA_DATA"):
        for pattern in (FILE, "g2p_en-*.whl"):
            yield from sorted(Path(folder).rglob(pattern))


class Published:
    """g2p-en's inference from its equations, one letter and one phoneme at a time, in numpy."""

    def __init__(self, path: Path) -> None:
        self.weights: Any = dict(np.load(path, allow_pickle=False))

    def cell(self, part: str, x: Any, h: Any) -> Any:
        w = {name: self.weights[f"{part}_{name}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh")}
        r_x, z_x, n_x = np.split(w["w_ih"] @ x + w["b_ih"], 3)
        r_h, z_h, n_h = np.split(w["w_hh"] @ h + w["b_hh"], 3)
        r, z = 1 / (1 + np.exp(-r_x - r_h)), 1 / (1 + np.exp(-z_x - z_h))
        return (1 - z) * np.tanh(n_x + r * n_h) + z * h

    def greedy(self, source: list[int]) -> tuple[list[int], Any]:
        """The phonemes, and the logits (steps, 74) that each step chose from."""
        h = np.zeros(256, np.float32)
        for letter in source:
            h = self.cell("enc", self.weights["enc_emb"][letter], h)
        made, rows = [START], []
        while len(made) <= LONGEST:
            h = self.cell("dec", self.weights["dec_emb"][made[-1]], h)
            rows.append(self.weights["fc_w"] @ h + self.weights["fc_b"])
            best = int(rows[-1].argmax())
            if best == END:
                break
            made.append(best)
        return made[1:], np.stack(rows)


def spelled(word: str) -> list[int]:
    return [LETTERS.index(letter) for letter in [*word, "</s>"]]


def ours(model: Seq2Seq, words: list[str], beam: int) -> list[list[int]]:
    """All words in one padded batch: the padding letter is not a real step."""
    source = np.zeros((len(words), max(map(len, words)) + 1), np.int64)
    for row, word in zip(source, words, strict=True):
        row[: len(word) + 1] = spelled(word)

    def run(source: Any, target: Any) -> Any:
        tokens = torch.from_numpy(source)
        with torch.inference_mode():
            return model(tokens, torch.from_numpy(target), mask=tokens != 0).numpy()

    return beam_search(run, source, start=START, end=END, max_len=LONGEST, beam=beam)


def test_against_published_equations(checkpoint: Path) -> None:
    """Greedy phonemes of more than 200 words, in one batch on our side and word by word on theirs."""
    model, published = from_g2p_en(checkpoint), Published(checkpoint)
    assert len(set(WORDS)) >= 200 and len(PHONEMES) == model.config.target_vocab_size
    got = ours(model, WORDS, beam=1)
    wrong = [w for w, answer in zip(WORDS, got, strict=True) if answer != published.greedy(spelled(w))[0]]
    assert not wrong


def test_logits_against_published_equations(checkpoint: Path) -> None:
    model, published = from_g2p_en(checkpoint), Published(checkpoint)
    for word in KNOWN:
        answer, expected = published.greedy(spelled(word))
        got = model(torch.tensor([spelled(word)]), torch.tensor([[START, *answer]]))[0]
        torch.testing.assert_close(got, torch.from_numpy(expected), atol=5e-5, rtol=1e-5)


def test_known_pronunciations(checkpoint: Path) -> None:
    got = ours(from_g2p_en(checkpoint), list(KNOWN), beam=1)
    assert [" ".join(PHONEMES[p] for p in answer) for answer in got] == list(KNOWN.values())


def test_a_beam_finds_likelier_answers(checkpoint: Path) -> None:
    """Mean log-probability a token: never below greedy's, and above it where the greedy choice was short-sighted."""
    model, words = from_g2p_en(checkpoint), WORDS[:60]
    scores = []
    for beam in (1, 4):
        rows = []
        for word, answer in zip(words, ours(model, words, beam), strict=True):
            target = torch.tensor([[START, *answer]])
            chosen = model(torch.tensor([spelled(word)]), target).log_softmax(dim=-1)[0]
            rows.append(chosen.gather(1, torch.tensor([*answer, END])[:, None]).mean())
        scores.append(torch.stack(rows))
    assert (scores[1] >= scores[0] - 1e-6).all() and (scores[1] > scores[0] + 1e-3).any()


def test_refuses_another_file(tmp_path: Path) -> None:
    text, arrays = tmp_path / "text.npz", tmp_path / "arrays.npz"
    text.write_text("not an archive")
    np.savez(arrays, enc_emb=np.zeros((2, 2), np.float32))
    for path in (text, arrays, tmp_path / "missing.npz"):
        with pytest.raises(UserError, match="checkpoint20"):
            from_g2p_en(path)
