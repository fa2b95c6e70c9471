"""Pronunciation: a Portuguese word in, its phonemes out.

    exact match           share of the words that are right as a whole          (metric, higher is better)
    phoneme error rate    Σ edit distance / Σ true phonemes, in per cent

The lexicon says which letters each phoneme comes from, so that an attention can be judged: `alignment_score`. Words
are split by a hash, 90 / 5 / 5 %; 300 are written greedily while training, 1,000 for the test.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from oliveira.data.pairs import GRUUT, Pronunciation
from oliveira.data.prepared import prepared
from oliveira.data.routes import Say
from oliveira.data.sources import Source, fetch
from oliveira.data.split import SPLITS, assign
from oliveira.data.text import nfc
from oliveira.data.vocabulary import NOTHING, Symbols, codec_from
from oliveira.drawing import pyplot
from oliveira.errors import UserError
from oliveira.registry import can
from oliveira.strict_json import in_words
from oliveira.tasks.base import Array, Data, Metric, Run, Task
from oliveira.tasks.observing import of_tokens
from oliveira.tasks.pairs import PairData, write
from oliveira.tasks.scoring import judged

_PREPARING = 1  # raise when `build` changes
_SPLIT_SEED = 0  # the split is part of the task, not of a run
_LONGEST = 8  # letters of a unit of the baseline


class PronunciationData(PairData):
    fields = ("word",)
    asks = "word"
    beam: ClassVar = {"validation": 1, "test": 1}
    judged_on: ClassVar = {"validation": 300, "test": 1000}

    def __init__(self, rows: dict[str, list[Pronunciation]], max_len: int) -> None:
        every = [row for part in rows.values() for row in part]
        self.alignments = {word: alignment for word, _, alignment in every}
        self.train_alignments = [alignment for _, _, alignment in rows["train"]]
        super().__init__(
            {split: [(word, phonemes) for word, phonemes, _ in part] for split, part in rows.items()},
            Symbols.of((word for word, _, _ in every), ""),
            Symbols.of((phonemes for _, phonemes, _ in every), " "),
            max_len,
        )

    def score(self, written: list[str], truth: list[str]) -> dict[str, float]:
        return pronunciation_scores(written, truth)

    @functools.cached_property
    def baselines(self) -> dict[str, float]:  # type: ignore[override]
        """Exact match on the test words of what needs no learning of context."""
        words, truth = zip(*self.sample["test"], strict=True)
        units = joint_units(self.train_alignments)
        written = [most_likely(word, units) for word in words]
        return {"joint 1-gram": pronunciation_scores(written, list(truth))["exact match"]}

    @staticmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """{"word": "coração"} → {"phonemes": "k o ɾ ɐ s ɐ̃w̃"}."""
        letters = PronunciationData.asked(state, request)
        source, target = codec_from(state["source"]), codec_from(state["target"])
        return {"phonemes": write(run, [letters], source, target, max_len=state["max_len"], beam=1)[0]}

    @staticmethod
    def asked(state: dict[str, Any], request: dict[str, Any]) -> str:
        word = request.get("word")
        if not isinstance(word, str) or not word.strip():
            raise UserError(f"word is {in_words(word)}. Give one word, for example coração.")
        letters = nfc(word.strip().lower())
        if len(letters) >= state["max_len"]:
            raise UserError(f"word has {len(letters)} letters. Give at most {state['max_len'] - 1}.")
        try:
            codec_from(state["source"]).encode(letters)
        except KeyError as error:
            raise UserError(f"word = {word!r} has {error}, which no word of the lexicon has. Leave it out.") from None
        return letters

    @staticmethod
    def true(state: dict[str, Any], truth: Any) -> str:
        phonemes = " ".join(PairData.true(state, truth).split())
        try:
            codec_from(state["target"]).encode(phonemes)
        except KeyError as error:
            raise UserError(f"truth has {error}, no phoneme of the lexicon. Give phonemes with spaces.") from None
        return phonemes

    @staticmethod
    def observe(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any]) -> dict[str, float]:
        """Of the word as `of_tokens`, its letters being the tokens; how many phonemes it got."""
        letters = PronunciationData.asked(state, request)
        tokens = codec_from(state["source"]).encode(letters)
        return of_tokens(letters, tokens, state.get("counts")) | {"phonemes": float(len(answer["phonemes"].split()))}

    @staticmethod
    def error(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any], truth: Any) -> float:
        """Phoneme error rate of this word."""
        right = PronunciationData.true(state, truth).split()
        return edit_distance(answer["phonemes"].split(), right) / len(right)

    def request(self) -> dict[str, Any]:
        return {"word": self.sample["test"][0][0]}

    def attention(self, model: nn.Module, word: str, phonemes: str) -> Array | None:
        """(phonemes, letters): what `model.attention_map(source, target, mask)` gives for a word and its true phonemes;
        None for a model that has no such map.
        """
        if not can(model, "attention_map"):
            return None
        network: Any = model
        source, target = self.source.encode(word), self.target.encode(phonemes)
        inputs = self._batch([([*source, NOTHING], target)]).inputs
        try:
            with judged(model):
                weights: torch.Tensor = network.attention_map(*inputs)
        except ValueError:  # of this config: seq2seq with attention = "none"
            return None
        return weights[0, : len(target), : len(source)].numpy()

    def picture(self, model: nn.Module, png: Path) -> bool:
        """Where the model looks while it says a word of the test."""
        word, phonemes = max(self.sample["test"][:50], key=lambda pair: (5 < len(pair[0]) < 13, len(pair[0])))
        weights = self.attention(model, word, phonemes)
        if weights is None:
            return False
        plt = pyplot()
        figure, axes = plt.subplots(figsize=(5, 4.5), constrained_layout=True)
        axes.imshow(weights, cmap="Greys", vmin=0, vmax=1)
        axes.set_xticks(range(len(word)), list(word))
        axes.set_yticks(range(len(phonemes.split())), phonemes.split())
        for phoneme, letters in enumerate(aligned_letters(self.alignments[word])):
            axes.plot(sorted(letters), [phoneme] * len(letters), "s", mfc="none", mec="tab:red", ms=14)
        axes.set(xlabel="letters (red: the lexicon's alignment)", ylabel="phonemes")
        figure.savefig(png, dpi=110, format="png")
        plt.close(figure)
        return True


@dataclass(frozen=True, kw_only=True)
class PronunciationTask(Task):
    kind: ClassVar[type[Data]] = PronunciationData
    source: Source[Pronunciation]
    max_len: int
    held_out: float  # share of the words for validation, and again for the test

    def open(self, home: Path, say: Say) -> PronunciationData:
        def build(folder: Path) -> None:
            route, rows = fetch(self.source, home, say)
            words = {row[0]: row[0] for row in rows}
            split_of = assign(words, seed=_SPLIT_SEED, validation=self.held_out, test=self.held_out)
            parts = {split: [row for row in rows if split_of[row[0]] == split] for split in SPLITS}
            (folder / "parts.json").write_text(json.dumps(parts, ensure_ascii=False), encoding="utf-8", newline="\n")
            say(f"{self.source.name}: {len(rows):,} words. Route: {route}. Licence: {self.licence}")

        key = {"content": self.source.content, "held_out": self.held_out, "preparing": _PREPARING}
        folder = prepared(home, self.name.replace("/", "-"), key, build, say)
        stored = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
        return PronunciationData({split: [tuple(row) for row in stored[split]] for split in SPLITS}, self.max_len)


def alignment_score(model: nn.Module, data: PronunciationData, words: int = 300) -> dict[str, float]:
    """Share of the phonemes of test words whose most attended letter is one that the lexicon aligns with it.

    "diagonal" is the same for an attention that walks evenly from the first letter to the last, "off the diagonal" the
    model's share where that walk is wrong, if it ever is. Raises `UserError` for a model without `attention_map`.
    """
    found = []  # (attention right, diagonal right) of each phoneme
    for word, phonemes in data.sample["test"][:words]:
        weights = data.attention(model, word, phonemes)
        if weights is None:
            raise UserError(f"this {type(model).__name__} has no attention map. Use a model with attention.")
        walk = np.linspace(0, len(word) - 1, len(weights)).round()
        letters = aligned_letters(data.alignments[word])
        found += [(a in true, int(b) in true) for a, b, true in zip(weights.argmax(1), walk, letters, strict=True)]
    attention, diagonal = np.array(found).T
    scores = {"attention": float(attention.mean()), "diagonal": float(diagonal.mean())}
    return scores if diagonal.all() else scores | {"off the diagonal": float(attention[~diagonal].mean())}


def pronunciation_scores(written: list[str], truth: list[str]) -> dict[str, float]:
    errors = sum(edit_distance(w.split(), t.split()) for w, t in zip(written, truth, strict=True))
    exact = sum(w == t for w, t in zip(written, truth, strict=True)) / len(truth)
    return {"exact match": exact, "phoneme error rate": 100 * errors / sum(len(t.split()) for t in truth)}


def edit_distance(left: list[str], right: list[str]) -> int:
    """Fewest insertions, deletions and substitutions between two sequences (Levenshtein 1966)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def _units(alignment: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    """ "c|h}ʃ u}u" → ("ch", ("ʃ",)), ("u", ("u",)); silent letters, "h}_", have no phoneme."""
    for unit in alignment.split():
        letters, phonemes = unit.split("}")
        yield letters.replace("|", ""), tuple(p for p in phonemes.split("|") if p != "_")


def aligned_letters(alignment: str) -> list[set[int]]:
    """For each phoneme the places of the letters it comes from."""
    places: list[set[int]] = []
    start = 0
    for letters, phonemes in _units(alignment):
        places += [set(range(start, start + len(letters)))] * len(phonemes)
        start += len(letters)
    return places


def joint_units(alignments: list[str]) -> dict[str, tuple[float, tuple[str, ...]]]:
    """letters → (log p of the pair, the phonemes they most often make): a joint 1-gram model.

    Bisani & Ney 2008, "Joint-sequence models for grapheme-to-phoneme conversion", order 1.
    """
    counts = Counter(unit for alignment in alignments for unit in _units(alignment))
    total = counts.total()
    best: dict[str, tuple[float, tuple[str, ...]]] = {}
    for (letters, phonemes), count in sorted(counts.items()):
        if letters not in best or math.log(count / total) > best[letters][0]:
            best[letters] = (math.log(count / total), phonemes)
    return best


def most_likely(word: str, units: dict[str, tuple[float, tuple[str, ...]]]) -> str:
    """The phonemes of the likeliest cut of a word into units. A letter in no unit is silent."""
    best: list[tuple[float, tuple[str, ...]]] = [(0.0, ())]
    for end in range(1, len(word) + 1):
        cuts = [(best[end - 1][0] - 99.0, best[end - 1][1])]
        for start in range(max(0, end - _LONGEST), end):
            if (unit := units.get(word[start:end])) is not None:
                cuts.append((best[start][0] + unit[0], best[start][1] + unit[1]))
        best.append(max(cuts, key=lambda cut: cut[0]))
    return " ".join(best[-1][1])


TASKS: tuple[Task, ...] = (
    PronunciationTask(
        name="g2p/gruut",
        title="the phonemes of a Portuguese word",
        eats="pairs",
        gives="next",
        metric=Metric(name="exact match", better="higher"),
        licence=GRUUT.licence,
        source=GRUUT,
        max_len=24,
        held_out=0.05,
        train={"batch_size": 64, "lr": 2e-3, "warmup_steps": 50, "weight_decay": 0.01, "beta2": 0.98},
    ),
)
