"""Pre-training as BERT's: fill in hidden words, and say whether one piece of text follows another.

Paper: Devlin et al. 2019, arXiv:1810.04805 §3.1.

    [CLS] A [SEP] B [SEP]          B follows A in its document (label 0), or comes from another one (label 1): half each
    15 % of the pieces are asked for: of these 80 % show [MASK], 10 % another piece, 10 % themselves
    loss = −mean ln p(piece asked for) − mean ln p(label)

A takes whole lines up to half the room, B what follows as far as it fits. A strange B begins where another A would have
ended, so that neither its length nor its place in the document gives it away. Masks are new each time a pair is
seen; they are a function of seed and batch number only. The metric, nats per masked piece, is to be read beside that
of a unigram model of the training text.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from oliveira.data import preprocess
from oliveira.data.documents import DocumentFile
from oliveira.data.prepared import prepared
from oliveira.data.routes import Say
from oliveira.data.settings import DataSection
from oliveira.data.sources import SOURCES, collect
from oliveira.data.split import SPLITS
from oliveira.data.text import clean
from oliveira.data.wordpiece import MASK, SPECIAL, WordPiece
from oliveira.errors import UserError
from oliveira.strict_json import in_words
from oliveira.tasks.base import Array, Batch, Data, Metric, Run, Split, Task, shuffled
from oliveira.tasks.scoring import chunks, judged
from oliveira.training.loss import IGNORED, cross_entropy
from oliveira.training.seeds import stream

ASKED, HIDDEN, REPLACED = 0.15, 0.8, 0.1  # of the pieces; of those asked for
TOP = 5  # words that an answer offers for a mask
SCORED = {"validation": 256, "test": 1024}  # pairs
_ROWS = 32  # pairs scored together
_PREPARING = 1  # raise when `_build` changes
_SPLIT_SEED = 0  # the split is part of the task, not of a run


class Place(NamedTuple):
    """A = lines[start:middle] of a document, B begins at `middle`."""

    document: int
    start: int
    middle: int


class SentencePairs(Data):
    fields = ("text", "next")

    def __init__(self, texts: dict[str, list[str]], wordpiece: WordPiece, max_len: int) -> None:
        """`texts`: documents by split, a sentence a line. Raises `UserError` when there are too few."""
        self.wordpiece, self.max_len, self._texts = wordpiece, max_len, texts
        self.lines = {split: [self._lines(text) for text in documents] for split, documents in texts.items()}
        self.places = {split: list(_places(lines, (max_len - 3) // 2)) for split, lines in self.lines.items()}
        for split, places in self.places.items():
            if len({place.document for place in places}) < 2:
                raise UserError(f"{split} has fewer than two documents of two lines. Give more text.")
        self.counts = {split: len(places) for split, places in self.places.items()}
        self.sizes = {"vocab_size": wordpiece.vocab_size, "max_len": max_len}

    def _lines(self, text: str) -> list[list[int]]:
        return [tokens for tokens in self.wordpiece.encode_many(text.split("\n")) if tokens]

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        chosen = shuffled(number, seed=seed, size=size, count=self.counts["train"])
        return self._examples("train", chosen, stream(seed, number, 1))

    def _examples(self, split: str, chosen: Sequence[int] | Array, random: np.random.Generator) -> Batch:
        rows, segments, strange = [], [], []
        for index in chosen:
            place = self.places[split][index]
            strange.append(int(random.integers(2)))
            following = self._another(split, place, random) if strange[-1] else place
            first = self._tokens(split, place, (self.max_len - 3) // 2)
            second = self._following(split, following, self.max_len - 3 - len(first))
            row, segment = paired(self.wordpiece, first, second)
            rows.append(row)
            segments.append(segment)
        mask = np.arange(max(map(len, rows))) < np.array([len(row) for row in rows])[:, None]
        tokens = np.full(mask.shape, self.wordpiece.pad, dtype=np.int64)
        tokens[mask] = np.concatenate(rows)
        segment_ids = np.zeros(mask.shape, dtype=np.int64)
        segment_ids[mask] = np.concatenate(segments)
        hidden, labels = hide(tokens, self.wordpiece, random)
        inputs = (torch.from_numpy(hidden), torch.from_numpy(mask), torch.from_numpy(segment_ids))
        return Batch(inputs, (torch.from_numpy(labels), torch.tensor(strange)))

    def _another(self, split: str, place: Place, random: np.random.Generator) -> Place:
        while True:
            other = self.places[split][int(random.integers(self.counts[split]))]
            if other.document != place.document:
                return other

    def _tokens(self, split: str, place: Place, room: int) -> list[int]:
        lines = self.lines[split][place.document][place.start : place.middle]
        return [token for line in lines for token in line][:room]

    def _following(self, split: str, place: Place, room: int) -> list[int]:
        tokens: list[int] = []
        for line in self.lines[split][place.document][place.middle :]:
            tokens += line
            if len(tokens) >= room:
                break
        return tokens[:room]

    def loss(self, output: Any, targets: Any) -> Tensor:
        mlm, nsp = output
        labels, strange = targets
        asked = labels != IGNORED
        return cross_entropy(mlm[asked], labels[asked]) + cross_entropy(nsp, strange)

    def _scored(self, split: Split) -> list[Batch]:
        """The same pairs under the same masks each time."""
        chosen = np.linspace(0, self.counts[split] - 1, min(SCORED[split], self.counts[split])).astype(np.int64)
        return [self._examples(split, chosen[part], stream(0, part.start)) for part in chunks(len(chosen), _ROWS)]

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        nats, asked, hits, right, pairs = 0.0, 0, 0, 0, 0
        with judged(model):
            for batch in self._scored(split):
                mlm, nsp = model(*batch.inputs)
                labels, strange = batch.targets
                wanted = labels != IGNORED
                nats += float(cross_entropy(mlm[wanted], labels[wanted])) * int(wanted.sum())
                hits += int((mlm[wanted].argmax(-1) == labels[wanted]).sum())
                asked += int(wanted.sum())
                right += int((nsp.argmax(-1) == strange).sum())
                pairs += len(strange)
        return {"nats per masked piece": nats / asked, "NSP accuracy": right / pairs, "masked accuracy": hits / asked}

    @functools.cached_property
    def baselines(self) -> dict[str, float]:  # type: ignore[override]
        """Nats per masked piece of the test split, by the frequencies of the training text (add-one)."""
        counts = np.ones(self.wordpiece.vocab_size)
        for document in self.lines["train"]:
            counts += np.bincount(np.concatenate(document), minlength=len(counts)) if document else 0
        nats = -np.log(counts / counts.sum())
        labels = np.concatenate([batch.targets[0].numpy().ravel() for batch in self._scored("test")])
        return {"unigram": float(nats[labels[labels != IGNORED]].mean())}

    def state(self) -> dict[str, Any]:
        return {"pieces": self.wordpiece.pieces, "lowercase": self.wordpiece.lowercase, "max_len": self.max_len}

    @staticmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """{"text": "No princípio [MASK] Deus"} → {"masks": [[{"word", "probability"}, … 5], … one a mask]}.

        With {"text": …, "next": …} also {"follows": p}, whether the second text follows the first.
        """
        wordpiece = WordPiece(state["pieces"], lowercase=state["lowercase"])
        text, following = request.get("text"), request.get("next", "")
        for name, value in (("text", text), ("next", following)):
            if not isinstance(value, str) or (name == "text" and not clean(value)):
                raise UserError(f"{name} is {in_words(value)}. Give a text, with {MASK} for a missing word.")
        first, second = _with_masks(wordpiece, str(text)), _with_masks(wordpiece, following)
        if wordpiece.mask not in first + second and not second:
            raise UserError(f"text = {text!r} has no {MASK}. Write {MASK} for the missing word, or give `next` too.")
        row, segment = paired(wordpiece, first, second)
        if len(row) > state["max_len"]:
            raise UserError(f"text has {len(row)} pieces, more than max_len = {state['max_len']}. Send less.")
        tokens = np.array([row], dtype=np.int64)
        mlm, nsp = run(tokens, np.ones(tokens.shape, dtype=bool), np.array([segment], dtype=np.int64))
        masks = [_best(wordpiece, logits) for logits in np.asarray(mlm)[0][tokens[0] == wordpiece.mask]]
        return {"masks": masks} | ({"follows": round(float(_softmax(np.asarray(nsp)[0])[0]), 6)} if second else {})

    def request(self) -> dict[str, Any]:
        """A line of the test split without its middle word."""
        lines = [line for text in self._texts["test"] for line in text.split("\n") if 6 < len(line.split()) < 15]
        words = (lines or [self._texts["test"][0].split("\n")[0]])[0].split()
        words[len(words) // 2] = MASK
        return {"text": " ".join(words)}


def paired(wordpiece: WordPiece, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
    """[CLS] first [SEP] second [SEP] and their segments; without a second text only the first part."""
    row, segment = [wordpiece.cls, *first, wordpiece.sep], [0] * (len(first) + 2)
    return ([*row, *second, wordpiece.sep], segment + [1] * (len(second) + 1)) if second else (row, segment)


def hide(tokens: Array, wordpiece: WordPiece, random: np.random.Generator) -> tuple[Array, Array]:
    """What the model sees of tokens (B, T), and the labels: the pieces asked for, elsewhere `IGNORED`.

    Of N pieces that are no special token, round(0.15 N) are asked for, at least one; of n asked for, round(0.8 n) show
    [MASK], round(0.1 n) another piece, drawn evenly, the rest themselves. Counted over the batch.
    """
    candidates = np.flatnonzero(tokens.ravel() >= len(SPECIAL))
    asked = random.permutation(candidates)[: max(1, round(ASKED * len(candidates)))]
    n_hidden, n_replaced = round(HIDDEN * len(asked)), round(REPLACED * len(asked))
    seen, labels = tokens.ravel().copy(), np.full(tokens.size, IGNORED, dtype=np.int64)
    labels[asked] = seen[asked]
    seen[asked[:n_hidden]] = wordpiece.mask
    seen[asked[n_hidden : n_hidden + n_replaced]] = random.integers(len(SPECIAL), wordpiece.vocab_size, n_replaced)
    return seen.reshape(tokens.shape), labels.reshape(tokens.shape)


def _places(documents: list[list[list[int]]], room: int) -> list[Place]:
    """Every line that begins an A with something behind it."""
    found = []
    for number, lines in enumerate(documents):
        for start in range(len(lines) - 1):
            middle, length = start + 1, len(lines[start])
            while middle < len(lines) - 1 and length + len(lines[middle]) <= room:
                length += len(lines[middle])
                middle += 1
            found.append(Place(number, start, middle))
    return found


def _with_masks(wordpiece: WordPiece, text: str) -> list[int]:
    """Pieces of a text in which [MASK] is the special token."""
    parts = wordpiece.encode_many(clean(text).split(MASK))
    return [token for number, part in enumerate(parts) for token in ([wordpiece.mask] if number else []) + part]


def _best(wordpiece: WordPiece, logits: Array) -> list[dict[str, Any]]:
    p = _softmax(logits)
    best = np.argsort(-p[len(SPECIAL) :], kind="stable")[:TOP] + len(SPECIAL)
    return [{"word": wordpiece.pieces[index], "probability": round(float(p[index]), 6)} for index in best]


def _softmax(logits: Array) -> Array:
    p = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(p / p.sum())


@dataclass(frozen=True, kw_only=True)
class Pretraining(Task):
    kind: ClassVar[type[Data]] = SentencePairs
    source: str  # a name of `oliveira sources`
    vocab_size: int
    max_len: int
    held_out: float  # share of the documents for validation, and again for the test

    def open(self, home: Path, say: Say) -> SentencePairs:
        def build(folder: Path) -> None:
            collect(self.source, folder, home=home, max_chars=0, say=say)
            (folder / "prepared").mkdir()
            section = DataSection(base=self.source, vocab_size=300, validation=self.held_out, test=self.held_out)
            preprocess.prepare(
                folder / "documents.jsonl",
                folder / "prepared",
                config=section,
                seed=_SPLIT_SEED,
                tokenizer=None,  # the split is what is wanted: WordPiece follows
                progress=lambda share, text: None,
            )
            texts = {split: [document.text for document in _split(folder / "prepared", split)] for split in SPLITS}
            pieces = WordPiece.train(texts["train"], self.vocab_size).pieces
            for unused in (folder / "prepared").iterdir():
                unused.unlink()
            (folder / "prepared").rmdir()
            (folder / "documents.jsonl").unlink()
            (folder / "pieces.json").write_text(json.dumps(pieces, ensure_ascii=False), encoding="utf-8", newline="\n")
            (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8", newline="\n")

        key = {
            "content": SOURCES[self.source].content,
            "vocab_size": self.vocab_size,
            "held_out": self.held_out,
            "preparing": _PREPARING,
        }
        folder = prepared(home, self.name.replace("/", "-"), key, build, say)
        pieces = json.loads((folder / "pieces.json").read_text(encoding="utf-8"))
        texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        return SentencePairs(texts, WordPiece(pieces, lowercase=False), self.max_len)


def _split(folder: Path, split: str) -> DocumentFile:
    return DocumentFile(folder / f"{split}.jsonl")


def _task(source: str, title: str, **sizes: Any) -> Pretraining:
    return Pretraining(
        name=f"pretrain/{source}",
        title=title,
        eats="tokens",
        gives="mlm+nsp",
        metric=Metric(name="nats per masked piece", better="lower"),
        licence=SOURCES[source].licence,
        source=source,
        train={"batch_size": 32, "lr": 1e-3, "warmup_steps": 100, "weight_decay": 0.05, "beta2": 0.98},
        **sizes,
    )


TASKS: tuple[Task, ...] = (
    _task("almeida", "hidden words of the Bible in Portuguese", vocab_size=4096, max_len=96, held_out=0.05),
    _task("bncc", "hidden words of the Brazilian curriculum", vocab_size=2048, max_len=96, held_out=0.1),
)
