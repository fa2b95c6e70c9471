"""Classification of texts: tokens in, one label out.

    loss: cross-entropy        metric: macro-F1 = mean over the labels of 2·tp / (2·tp + fp + fn)

Macro-F1 counts every label alike, so that guessing the common one does not pay. Texts are split within each label;
texts with the same words stay on one side. A byte-level BPE is trained on the training texts; longer texts are cut
after `max_len` tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from oliveira.data.labelled import BNCC_SKILLS, TOLD_BR, Labelled, plain_words, split_labelled
from oliveira.data.prepared import prepared
from oliveira.data.reading import reader_from
from oliveira.data.routes import Say
from oliveira.data.sources import Source, fetch
from oliveira.data.split import SPLITS
from oliveira.data.text import clean
from oliveira.data.tokenizer import Tokenizer
from oliveira.data.vocabulary import padded
from oliveira.drawing import pyplot
from oliveira.errors import UserError
from oliveira.strict_json import in_words
from oliveira.tasks.base import Array, Batch, Data, Metric, Run, Split, Task, shuffled
from oliveira.tasks.observing import arrived, class_error, class_of, evenly, frequencies, head, of_classes, of_tokens
from oliveira.tasks.scoring import SAMPLE, chunks, judged, spaced
from oliveira.training.loss import cross_entropy

_PREPARING = 1  # raise when `_build` changes
_SPLIT_SEED = 0  # the split is part of the task, not of a run
_ROWS = 256  # texts scored together
_PICTURED = 40  # labels


class TextClassData(Data):
    fields = ("text",)

    def __init__(self, parts: dict[str, list[Labelled]], tokenizer: str, max_len: int) -> None:
        """`parts`: rows by split; `tokenizer`: its JSON."""
        self.parts, self.max_len = parts, max_len
        self.labels = sorted({label for _, _, label in parts["train"]})
        number = {label: index for index, label in enumerate(self.labels)}
        self.targets = {split: np.array([number[row[2]] for row in rows]) for split, rows in parts.items()}
        self.counts = {split: len(rows) for split, rows in parts.items()}
        self._read_by({"tokenizer": tokenizer})

    def _read_by(self, vocabulary: dict[str, Any]) -> None:
        self._vocabulary, self._reader = vocabulary, reader_from(vocabulary)
        self.tokens = {split: self._encode([text for _, text, _ in rows]) for split, rows in self.parts.items()}
        self.sizes = {"vocab_size": self._reader.size, "d_out": len(self.labels), "max_len": self.max_len}

    def read_as(self, task: str, state: dict[str, Any]) -> None:
        """By the byte pairs or the word pieces of whatever text the model has read before."""
        vocabulary: dict[str, Any] = {key: state[key] for key in ("tokenizer", "pieces", "lowercase") if key in state}
        if not vocabulary:
            raise UserError(f"start: {task or 'that model'} reads no text, and this task is of texts. Leave out start.")
        self._read_by(vocabulary)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._reader.rows(texts, self.max_len)

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        chosen = shuffled(number, seed=seed, size=size, count=self.counts["train"])
        inputs = _inputs([self.tokens["train"][index] for index in chosen])
        return Batch(inputs, torch.from_numpy(self.targets["train"][chosen]))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(output, targets)

    def logits(self, model: nn.Module, split: Split | Literal["train"], rows: Array | None = None) -> Tensor:
        """Of the texts of a split, or of these `rows` of it, (texts, labels)."""
        tokens = self.tokens[split] if rows is None else [self.tokens[split][index] for index in rows]
        order = np.argsort([len(row) for row in tokens], kind="stable")  # rows of like length are scored together
        parts = []
        with judged(model):
            for part in chunks(len(order), _ROWS):
                parts.append(model(*_inputs([tokens[index] for index in order[part]])))
        return torch.cat(parts)[torch.from_numpy(np.argsort(order))]

    def predict(self, model: nn.Module, split: Split) -> Array:
        """The likeliest label of every text of a split."""
        predicted: Array = self.logits(model, split).argmax(1).numpy()
        return predicted

    def losses(self, model: nn.Module) -> tuple[float, float]:
        def mean(split: Literal["train", "validation"]) -> float:
            rows = spaced(np.arange(self.counts[split]), SAMPLE)
            return float(self.loss(self.logits(model, split, rows), torch.from_numpy(self.targets[split][rows])))

        return mean("train"), mean("validation")

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        return self._score(self.predict(model, split), split)

    def _score(self, predicted: Array, split: Split) -> dict[str, float]:
        truth = self.targets[split]
        return {"macro-F1": macro_f1(predicted, truth), "accuracy": float((predicted == truth).mean())}

    @functools.cached_property
    def baselines(self) -> dict[str, float]:  # type: ignore[override]
        """Macro-F1 on the test split of the commonest label, and of naive Bayes on words."""
        train = self.targets["train"]
        majority = np.full(self.counts["test"], np.bincount(train).argmax())
        bayes = naive_bayes([row[1] for row in self.parts["train"]], train, [row[1] for row in self.parts["test"]])
        forecasts = {"majority": majority, "naive Bayes on words": bayes}
        return {name: self._score(predicted, "test")["macro-F1"] for name, predicted in forecasts.items()}

    def state(self) -> dict[str, Any]:
        counts = frequencies(self.tokens["train"], self._reader.size)
        return {**self._vocabulary, "labels": self.labels, "max_len": self.max_len, "counts": counts}

    @staticmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """{"text": "…"} → {"label", "probabilities": {label: p}}."""
        (tokens,) = reader_from(state).rows([_text(request)], state["max_len"])
        logits = np.asarray(run(*padded([tokens])), dtype=np.float64)[0]
        p = np.exp(logits - logits.max())
        p /= p.sum()
        probabilities = {label: round(float(value), 6) for label, value in zip(state["labels"], p, strict=True)}
        return {"label": state["labels"][int(p.argmax())], "probabilities": probabilities}

    @staticmethod
    def observe(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any]) -> dict[str, float]:
        """Of the text as `of_tokens`, of the probabilities as `of_classes`."""
        text = request["text"]
        (tokens,) = reader_from(state).rows([head(text)], len(text) + 2)
        return of_tokens(text, tokens, state.get("counts")) | of_classes(answer["probabilities"].values())

    @staticmethod
    def error(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any], truth: Any) -> float:
        """0 for the right label, else 1."""
        return class_error([[label] for label in state["labels"]], answer, truth)

    def requests(self, split: Split, count: int) -> list[tuple[dict[str, Any], str]]:
        rows = self.parts[split]
        return [({"text": rows[place][1]}, rows[place][2]) for place in evenly(len(rows), count)]

    def learn(self, pairs: Sequence[tuple[dict[str, Any], Any]]) -> Batch:
        labels = [[label] for label in self.labels]
        targets = [class_of(labels, truth) for _, truth in arrived(pairs)]
        return Batch(_inputs(self._encode([_text(request) for request, _ in pairs])), torch.tensor(targets))

    def request(self) -> dict[str, Any]:
        """A text of the first label: no offence in a help text."""
        if self.content:  # what people wrote to a user is in no example that others are shown
            return {"text": "a text"}
        return {"text": next(text for _, text, label in self.parts["test"] if label == self.labels[0])}

    def picture(self, model: nn.Module, png: Path) -> bool:
        """Of the test texts of each label (row), the share that the model calls so (column)."""
        plt = pyplot()
        size = len(self.labels)
        pairs = self.targets["test"] * size + self.predict(model, "test")
        table = np.bincount(pairs, minlength=size * size).reshape(size, size)
        shown = np.sort(np.argsort(-table.sum(1), kind="stable")[:_PICTURED])  # the commonest, where there are many
        share = (table / np.maximum(table.sum(1, keepdims=True), 1))[np.ix_(shown, shown)]
        names = [self.labels[label] for label in shown]
        side = 2.5 + 0.55 * len(names)
        figure, axes = plt.subplots(figsize=(side + 1, side), constrained_layout=True)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(table[np.ix_(shown, shown)]):
            shade = "white" if share[row, column] > 0.6 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=shade)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="model", ylabel="truth")
        figure.savefig(png, dpi=110, format="png")
        plt.close(figure)
        return True


@dataclass(frozen=True, kw_only=True)
class TextClassification(Task):
    kind: ClassVar[type[Data]] = TextClassData
    source: Source[Labelled]
    vocab_size: int
    max_len: int
    held_out: float  # share of the texts for validation, and again for the test

    def open(self, home: Path, say: Say) -> TextClassData:
        def rows() -> tuple[list[Labelled], str]:
            route, found = fetch(self.source, home, say)
            return found, f"Route: {route}. Licence: {self.licence}"

        key = {"content": self.source.content}
        sizes: dict[str, Any] = {"vocab_size": self.vocab_size, "held_out": self.held_out, "max_len": self.max_len}
        return opened(home, self.folder, key, rows, say, name=self.source.name, **sizes)


def opened(
    home: Path,
    slug: str,
    key: dict[str, Any],
    rows: Callable[[], tuple[list[Labelled], str]],
    say: Say,
    *,
    name: str,
    vocab_size: int,
    held_out: float,
    max_len: int,
) -> TextClassData:
    """Labelled rows cleaned, split and under a tokenizer of their own, kept as `prepared` does.

    `rows` gives them with a sentence on where they are from. `UserError` for fewer than three splits hold.
    """

    def build(folder: Path) -> None:
        found, told = rows()
        cleaned = [(number, clean(text), label) for number, text, label in found if clean(text)]
        parts = split_labelled(cleaned, seed=_SPLIT_SEED, validation=held_out, test=held_out)
        if not all(parts.values()):
            raise UserError(f"{name} has {len(cleaned)} texts, too few for three splits. Add texts.")
        Tokenizer.train((row[1] for row in parts["train"]), vocab_size).save(folder / "tokenizer.json")
        (folder / "parts.json").write_text(json.dumps(parts, ensure_ascii=False), encoding="utf-8", newline="\n")
        say(f"{name}: {len(cleaned):,} texts. {told}")

    whole = {**key, "vocab_size": vocab_size, "held_out": held_out, "preparing": _PREPARING}
    folder = prepared(home, slug, whole, build, say)
    stored = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
    parts: dict[str, list[Labelled]] = {split: [tuple(row) for row in stored[split]] for split in SPLITS}
    return TextClassData(parts, (folder / "tokenizer.json").read_text(encoding="utf-8"), max_len)


def macro_f1(predicted: Array, truth: Array) -> float:
    """Mean F1 over the labels that occur in either."""
    scores = []
    for label in np.union1d(predicted, truth):
        right = ((predicted == label) & (truth == label)).sum()
        scores.append(2 * right / ((predicted == label).sum() + (truth == label).sum()))
    return float(np.mean(scores))


def naive_bayes(texts: Sequence[str], labels: Array, unseen: Sequence[str]) -> Array:
    """Labels of `unseen` by multinomial naive Bayes: argmax_c log p(c) + Σ_w log (n_cw + 1) / (n_c + V).

    McCallum & Nigam 1998. Words never seen in training count nowhere.
    """
    number: dict[str, int] = {}
    rows = [[number.setdefault(word, len(number)) for word in plain_words(text)] for text in texts]
    counts = np.ones((labels.max() + 1, len(number)))
    for label, row in zip(labels, rows, strict=True):
        np.add.at(counts[label], row, 1)
    log_p = np.log(counts / counts.sum(1, keepdims=True))
    prior = np.log(np.bincount(labels) / len(labels))
    known = [[number[word] for word in plain_words(text) if word in number] for text in unseen]
    return np.array([(prior + log_p[:, row].sum(1)).argmax() for row in known])


def _text(request: dict[str, Any]) -> str:
    text = request.get("text")
    if not isinstance(text, str) or not clean(text):
        raise UserError(f"text is {in_words(text)}. Give a text of at least one word.")
    return clean(text)


def _inputs(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    tokens, mask = padded(rows)
    return torch.from_numpy(tokens), torch.from_numpy(mask)


_METRIC = Metric(name="macro-F1", better="higher")

TASKS: tuple[Task, ...] = (
    TextClassification(
        name="classify/bncc",
        title="the school subject of a learning objective of the Brazilian curriculum",
        eats="tokens",
        gives="one",
        metric=_METRIC,
        licence=BNCC_SKILLS.licence,
        source=BNCC_SKILLS,
        vocab_size=2048,
        max_len=96,
        held_out=0.15,
        model={"dropout": 0.2},
        train={"batch_size": 32, "lr": 2e-3, "warmup_steps": 20, "weight_decay": 0.1, "beta2": 0.98},
    ),
    TextClassification(
        name="classify/told-br",
        title="whether a Brazilian tweet is toxic",
        eats="tokens",
        gives="one",
        metric=_METRIC,
        licence=TOLD_BR.licence,
        source=TOLD_BR,
        vocab_size=4096,
        max_len=64,
        held_out=0.1,
        model={"dropout": 0.2},
        train={"batch_size": 32, "lr": 1e-3, "warmup_steps": 50, "weight_decay": 0.1, "beta2": 0.98},
    ),
)
