"""Translation from English into Portuguese: a verse of the World English Bible in, Almeida's out.

    metric: chrF (character 6-grams, Popović 2015), beside it BLEU, both by sacrebleu on what beam search writes

Verses of at most 20 words, 2,048 byte-level BPE tokens a language (few pairs want few tokens: Sennrich & Zhang 2019,
arXiv:1905.11901). Whole books are held out (`data.pairs.BOOKS`): test Ruth, Esther, Ecclesiastes, Lamentations, Jonah,
Galatians. Greedy on 50 verses while training, a beam of 4 on 200 for the test.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from oliveira.data.labelled import plain_words
from oliveira.data.pairs import ALMEIDA_WEB, Verse, split_verses
from oliveira.data.prepared import prepared
from oliveira.data.routes import Say
from oliveira.data.sources import Source, fetch
from oliveira.data.split import SPLITS
from oliveira.data.tokenizer import Tokenizer
from oliveira.data.vocabulary import Pieces, codec_from
from oliveira.tasks.base import Data, Metric, Run, Task
from oliveira.tasks.observing import head, of_tokens
from oliveira.tasks.pairs import PairData, write

_PREPARING = 2  # raise when `build` changes
_BEAM = 4


class TranslationData(PairData):
    fields = ("text",)
    beam: ClassVar = {"validation": 1, "test": _BEAM}
    judged_on: ClassVar = {"validation": 50, "test": 200}
    copied = "the English text"  # how the answer is called that is the source itself

    def score(self, written: list[str], truth: list[str]) -> dict[str, float]:
        return translation_scores(written, truth)

    @functools.cached_property
    def baselines(self) -> dict[str, float]:  # type: ignore[override]
        """chrF on the test pairs of the source itself, and of the translation of the likest training one."""
        sources, truth = zip(*self.sample["test"], strict=True)
        known = [x for x, _ in self.parts["train"]]
        likest = [self.parts["train"][place][1] for place in nearest(sources, known)]
        answers = {self.copied: list(sources), "likest training verse": likest}
        return {name: translation_scores(written, list(truth))["chrF"] for name, written in answers.items()}

    @staticmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """{"text": "In the beginning"} → {"translation": "…"}; of a text that is too long also how much was read."""
        text = TranslationData.asked(state, request)
        source, target = codec_from(state["source"]), codec_from(state["target"])
        written = write(run, [text], source, target, max_len=state["max_len"], beam=_BEAM)
        tokens, most = len(source.encode(text)), state["max_len"] - 1
        return {"translation": written[0], **({"tokens_read": most, "tokens": tokens} if tokens > most else {})}

    @staticmethod
    def observe(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any]) -> dict[str, float]:
        """Of the text as `of_tokens`; how long the answer is, and how long for such a text."""
        text, written = request["text"], answer["translation"]
        tokens = codec_from(state["source"]).encode(head(text))
        lengths = {"answer length": float(len(written)), "answer per text": len(written) / max(1, len(text))}
        return of_tokens(text, tokens, state.get("counts")) | lengths

    @staticmethod
    def error(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any], truth: Any) -> float:
        """1 − chrF / 100 of this sentence."""
        from sacrebleu.metrics import CHRF

        right = TranslationData.true(state, truth)
        return 1 - float(CHRF().sentence_score(answer["translation"], [right]).score) / 100

    def request(self) -> dict[str, Any]:
        return {"text": "a text" if self.content else self.sample["test"][0][0]}  # nothing of a user's is an example


@dataclass(frozen=True, kw_only=True)
class Translation(Task):
    kind: ClassVar[type[Data]] = TranslationData
    source: Source[Verse]
    vocab_size: int
    max_len: int

    def open(self, home: Path, say: Say) -> TranslationData:
        def parts() -> dict[str, list[tuple[str, str]]]:
            route, rows = fetch(self.source, home, say)
            split = split_verses(rows)
            counts = ", ".join(f"{name} {len(part):,}" for name, part in split.items())
            say(f"{self.source.name}: {len(rows):,} verses ({counts}). Route: {route}. Licence: {self.licence}")
            return {name: [(source, target) for _, source, target in part] for name, part in split.items()}

        key = {"content": self.source.content}
        return opened(home, self.folder, key, parts, say, vocab_size=self.vocab_size, max_len=self.max_len)


def opened(
    home: Path,
    slug: str,
    key: dict[str, Any],
    parts: Callable[[], dict[str, list[tuple[str, str]]]],
    say: Say,
    *,
    vocab_size: int,
    max_len: int,
) -> TranslationData:
    """Pairs by split, each side under a tokenizer of its own, kept as `prepared` does."""

    def build(folder: Path) -> None:
        found = parts()
        for side, name in enumerate(("source", "target")):
            Tokenizer.train((pair[side] for pair in found["train"]), vocab_size).save(folder / f"{name}.json")
        (folder / "parts.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8", newline="\n")

    folder = prepared(home, slug, {**key, "vocab_size": vocab_size, "preparing": _PREPARING}, build, say)
    stored = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
    pairs = {split: [(source, target) for source, target in stored[split]] for split in SPLITS}
    source, target = (Pieces((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("source", "target"))
    return TranslationData(pairs, source, target, max_len)


def translation_scores(written: list[str], truth: list[str]) -> dict[str, float]:
    """chrF and BLEU, 0 to 100, by sacrebleu with its defaults."""
    from sacrebleu.metrics import BLEU, CHRF

    return {
        "chrF": float(CHRF().corpus_score(written, [truth]).score),
        "BLEU": float(BLEU().corpus_score(written, [truth]).score),
    }


def nearest(texts: Sequence[str], known: Sequence[str]) -> list[int]:
    """For each text the place of the likest one of `known`: cosine of tf-idf vectors, idf = ln(N / n_w)."""
    number: dict[str, int] = {}
    counted = _counts(known, number, grow=True)
    idf = np.log(len(known) / np.maximum(1, np.bincount(counted.indices, minlength=len(number))))

    def vectors(counts: sparse.csr_matrix) -> sparse.csr_matrix:
        weighted = counts.multiply(idf).tocsr()
        norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        return sparse.diags(1 / np.maximum(norms, 1e-9)) @ weighted

    likeness = vectors(_counts(texts, number, grow=False)) @ vectors(counted).T
    return [int(place) for place in np.asarray(likeness.argmax(axis=1)).ravel()]


def _counts(texts: Sequence[str], number: dict[str, int], *, grow: bool) -> sparse.csr_matrix:
    """(texts, words) how often each word occurs; `grow`: new words get the next number, else they are left out."""
    rows, columns = [], []
    for row, text in enumerate(texts):
        for word in plain_words(text):
            if grow:
                number.setdefault(word, len(number))
            if word in number:
                rows.append(row)
                columns.append(number[word])
    counts = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(texts), len(number)))
    counts.sum_duplicates()
    return counts


TASKS: tuple[Task, ...] = (
    Translation(
        name="translate/almeida-web",
        title="an English Bible verse into Portuguese",
        eats="pairs",
        gives="next",
        metric=Metric(name="chrF", better="higher"),
        licence=ALMEIDA_WEB.licence,
        source=ALMEIDA_WEB,
        vocab_size=2048,
        max_len=48,
        model={"dropout": 0.1},
        train={"batch_size": 32, "lr": 1e-3, "warmup_steps": 100, "weight_decay": 0.01, "beta2": 0.98},
    ),
)
