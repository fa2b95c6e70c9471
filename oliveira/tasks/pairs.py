"""Pairs of sequences: the model reads the source and writes the target, one token after another.

    source   x_1 … x_n 0               target in   0 y_1 … y_m          target out   y_1 … y_m 0

Token 0 begins and ends (`NOTHING`); padding is 0 too, masked in the source and without loss in the target.

    loss: cross-entropy of the tokens out, given all true ones before        metric: of the text that is written freely
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from oliveira.data.text import clean
from oliveira.data.vocabulary import NOTHING, Codec, padded
from oliveira.errors import UserError
from oliveira.nn.beam import beam_search
from oliveira.strict_json import in_words
from oliveira.tasks.base import Array, Batch, Data, Run, Split, shuffled
from oliveira.tasks.observing import arrived, evenly, frequencies
from oliveira.tasks.scoring import chunks, judged, runner
from oliveira.training.loss import IGNORED, cross_entropy

GROUP = 8
_ROWS = 64  # hypotheses of a call of the model


class PairData(Data):
    beam: ClassVar[dict[str, int]]  # hypotheses kept while decoding a split; 1 = greedy
    asks: ClassVar[str] = "text"  # the field of a request with the source
    judged_on: ClassVar[dict[str, int]]  # how many pairs of a split are decoded, evenly spaced

    def __init__(self, parts: dict[str, list[tuple[str, str]]], source: Codec, target: Codec, max_len: int) -> None:
        """`parts`: (source, target) texts by split. Training pairs of more than `max_len` tokens are left out."""
        self.parts, self.source, self.target, self.max_len = parts, source, target, max_len
        tokens = [([*source.encode(x), NOTHING], target.encode(y)) for x, y in parts["train"]]
        self.tokens = [(x, y) for x, y in tokens if len(x) <= max_len and len(y) < max_len]
        self.sample = {split: _spaced(parts[split], self.judged_on[split]) for split in ("validation", "test")}
        self.counts = {"train": len(self.tokens)} | {split: len(pairs) for split, pairs in self.sample.items()}
        if not all(self.counts.values()):
            raise UserError(f"there are {self.counts} pairs of at most {max_len} tokens. Give more pairs.")
        self.sizes = {"vocab_size": source.size, "target_vocab_size": target.size, "max_len": max_len}

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        """Pairs of like length, so that little is padding: GROUP batches are drawn together and cut by length."""
        group, place = divmod(number, GROUP)
        drawn = shuffled(group, seed=seed, size=GROUP * size, count=len(self.tokens))
        lengths = [sum(map(len, self.tokens[index])) for index in drawn]
        cut = np.argsort(lengths, kind="stable").reshape(GROUP, size)
        turn = np.random.default_rng([seed, group]).permutation(GROUP)[place]
        return self._batch([self.tokens[index] for index in drawn[cut[turn]]])

    @staticmethod
    def _batch(rows: list[tuple[list[int], list[int]]]) -> Batch:
        source, mask = padded([x for x, _ in rows])
        target, _ = padded([[NOTHING, *y] for _, y in rows])
        out, real = padded([[*y, NOTHING] for _, y in rows])
        out[~real] = IGNORED
        inputs = (torch.from_numpy(source), torch.from_numpy(target), torch.from_numpy(mask))
        return Batch(inputs, torch.from_numpy(out))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(output, targets)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The figures of `score`, and the loss of the true targets."""
        pairs = self.sample[split]
        written = self.write(runner(model), [x for x, _ in pairs], beam=self.beam[split])
        return self.score(written, [y for _, y in pairs]) | {"nats per token": self._nats(model, pairs)}

    def _nats(self, model: nn.Module, pairs: list[tuple[str, str]]) -> float:
        rows = [self._row(x, y) for x, y in pairs]
        total = count = 0.0
        with judged(model):
            for part in chunks(len(rows), _ROWS):
                batch = self._batch(rows[part])
                tokens = int((batch.targets != IGNORED).sum())
                total += float(self.loss(model(*batch.inputs), batch.targets)) * tokens
                count += tokens
        return total / count

    def write(self, run: Run, texts: list[str], beam: int) -> list[str]:
        return write(run, texts, self.source, self.target, max_len=self.max_len, beam=beam)

    @abstractmethod
    def score(self, written: list[str], truth: list[str]) -> dict[str, float]:
        """The task's metric first."""

    def state(self) -> dict[str, Any]:
        counts = frequencies((x for x, _ in self.tokens), self.source.size)
        sizes = {"max_len": self.max_len, "counts": counts}
        return {"source": self.source.state(), "target": self.target.state(), **sizes}

    @staticmethod
    def asked(state: dict[str, Any], request: dict[str, Any]) -> str:
        """The source text of a request as it is encoded. `UserError` names the field that is wrong."""
        text = request.get("text")
        if not isinstance(text, str) or not clean(text):
            raise UserError(f"text is {in_words(text)}. Give a text of at least one word.")
        return clean(text)

    @staticmethod
    def true(state: dict[str, Any], truth: Any) -> str:
        """The target text of a truth as it is encoded. `UserError` for one that is none."""
        if not isinstance(truth, str) or not clean(truth):
            raise UserError(f"truth is {in_words(truth)}. Give the text that the answer should have been.")
        return clean(truth)

    def requests(self, split: Split, count: int) -> list[tuple[dict[str, Any], str]]:
        pairs = self.parts[split]
        return [({self.asks: pairs[place][0]}, pairs[place][1]) for place in evenly(len(pairs), count)]

    def learn(self, pairs: Sequence[tuple[dict[str, Any], Any]]) -> Batch:
        """Longer texts are cut."""
        state = self.state()
        texts = [(self.asked(state, request), self.true(state, truth)) for request, truth in arrived(pairs)]
        return self._batch([self._row(x, y) for x, y in texts])

    def _row(self, x: str, y: str) -> tuple[list[int], list[int]]:
        return _cut(self.source, x, self.max_len), self.target.encode(y)[: self.max_len - 1]


def write(run: Run, texts: list[str], source: Codec, target: Codec, *, max_len: int, beam: int) -> list[str]:
    """What the model writes for each text by beam search, at most twice as many tokens as it reads, and four.

    Raises `KeyError` for a symbol without a token.
    """
    rows = [_cut(source, text, max_len) for text in texts]
    order = np.argsort([len(row) for row in rows], kind="stable")  # sources of like length are decoded together

    def last_logits(chosen: Array, written: Array) -> Array:
        # Only the logits after the last token are asked for, and those of all steps would fill the memory.
        masks = np.cumsum(chosen == NOTHING, axis=1) - (chosen == NOTHING) == 0  # up to the first NOTHING, its end
        logits = [
            np.asarray(run(chosen[part], written[part], masks[part]))[:, -1] for part in chunks(len(chosen), _ROWS)
        ]
        last = np.concatenate(logits).astype(np.float64)
        return np.broadcast_to(last[:, None], (len(last), written.shape[1], last.shape[1]))

    answers = [""] * len(texts)
    for part in chunks(len(order), _ROWS):
        together, _ = padded([rows[index] for index in order[part]])
        longest = min(max_len, 2 * together.shape[1] + 4)  # a model that has not learnt to end costs no more
        for index, tokens in zip(
            order[part],
            beam_search(last_logits, together, start=NOTHING, end=NOTHING, max_len=longest, beam=beam),
            strict=True,
        ):
            answers[index] = target.decode(tokens)
    return answers


def _cut(codec: Codec, text: str, max_len: int) -> list[int]:
    return [*codec.encode(text)[: max_len - 1], NOTHING]


def _spaced(pairs: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    places = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int)
    return [pairs[place] for place in places]
