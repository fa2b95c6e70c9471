"""Language models on Portuguese text: tokens in, the next token out, in bits per byte (`language_modelling`).

    lm/almeida    the Bible of Almeida          lm/machado    116 works of Machado de Assis
    lm/bncc       the Brazilian curriculum

Documents are cleaned, freed of duplicates and split as in `oliveira up`. So that slow models finish, looks while
training read 16 pieces of 1,024 tokens of the validation, the test 64 of its own, evenly spaced and joined. The
baselines read the same tokens.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from oliveira.data import preprocess
from oliveira.data.documents import DocumentFile
from oliveira.data.prepared import prepared
from oliveira.data.routes import Say
from oliveira.data.settings import DataSection
from oliveira.data.shards import TokenShard
from oliveira.data.sources import SOURCES, collect
from oliveira.data.split import SPLITS
from oliveira.data.text import clean
from oliveira.data.vocabulary import tokenizer_from
from oliveira.errors import UserError
from oliveira.files import write_json_atomic
from oliveira.strict_json import in_words
from oliveira.tasks import baselines
from oliveira.tasks.base import Array, Batch, Data, Metric, Run, Split, Task
from oliveira.tasks.language_modelling import TokenBatches, total_nats
from oliveira.tasks.scoring import judged
from oliveira.training.loss import cross_entropy

PIECE = 1024  # tokens
PIECES = {"validation": 16, "test": 64}
MOST_WRITTEN = 512  # tokens an answer may have
_PREPARING = 1  # raise when `_build` changes
_SPLIT_SEED = 0  # the split is part of the task, not of a run


class TextData(Data):
    fields = ("prompt", "n")

    def __init__(self, folder: Path, max_len: int) -> None:
        """`folder`: what `preprocess.prepare` filled."""
        self.folder, self.max_len = folder, max_len
        self._tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self.tokenizer = tokenizer_from(self._tokenizer_json)
        self.tokens = {split: _pieces(TokenShard.open(folder, split).tokens, PIECES.get(split)) for split in SPLITS}
        if len(self.tokens["train"]) < max_len + 2:
            raise UserError(
                f"the text gives {len(self.tokens['train'])} training tokens, fewer than max_len = {max_len} needs. "
                "Give more text or a smaller max_len."
            )
        self.counts = {split: max(1, len(tokens) // max_len) for split, tokens in self.tokens.items()}
        self.sizes = {
            "vocab_size": self.tokenizer.vocab_size,
            "d_out": self.tokenizer.vocab_size,
            "max_len": max_len,
        }
        self._batches = functools.lru_cache(maxsize=4)(self._make_batches)

    def _make_batches(self, seed: int, size: int) -> TokenBatches:
        return TokenBatches(self.tokens["train"], self.max_len, size, seed)

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        rows = self._batches(seed, size)(number)
        return Batch((rows[:, :-1],), rows[:, 1:])

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(output, targets)

    def n_bytes(self, split: str) -> int:
        """UTF-8 bytes of the tokens that are scored."""
        return sum(len(self.tokenizer.token_bytes(int(token))) for token in self.tokens[split])

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        tokens = self.tokens[split]
        with judged(model):
            nats = total_nats(model, tokens, end_of_text=self.tokenizer.end_of_text, max_len=self.max_len)
        bits = nats / math.log(2) / self.n_bytes(split)
        return {"bits per byte": bits, "nats per token": nats / len(tokens)}

    @functools.cached_property
    def baselines(self) -> dict[str, float]:  # type: ignore[override]
        """Bits per byte on the test tokens; computed once, which may take a minute, and kept beside the shards."""
        place = self.folder / "baselines.json"
        stored = json.loads(place.read_bytes()) if place.is_file() else {}
        if stored.get("tokens") != len(self.tokens["test"]):
            counted = (self.tokens["train"], self.tokens["test"], self.n_bytes("test"), self.tokenizer.vocab_size)
            values = {
                "unigram": baselines.unigram(*counted),
                "5-gram Kneser-Ney": baselines.kneser_ney(*counted, order=5),
                "xz": baselines.xz(b"".join(self.tokenizer.token_bytes(int(token)) for token in self.tokens["test"])),
            }
            stored = {"tokens": len(self.tokens["test"]), "values": values}
            write_json_atomic(place, stored)
        return dict(stored["values"])

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self._tokenizer_json, "max_len": self.max_len}

    @staticmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """{"prompt": "…", "n": tokens} → {"text": the prompt and what the model writes on, the likeliest each time}."""
        prompt, n = request.get("prompt"), request.get("n", 40)
        if not isinstance(prompt, str) or not clean(prompt):
            raise UserError(f"prompt is {in_words(prompt)}. Give a text of at least one word.")
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_WRITTEN:
            raise UserError(f"n is not a whole number of tokens. Use 1 to {MOST_WRITTEN}.")
        tokenizer = tokenizer_from(state["tokenizer"])
        tokens = [tokenizer.end_of_text, *tokenizer.encode(clean(prompt))]
        for _ in range(n):
            window = np.array([tokens[-state["max_len"] :]], dtype=np.int64)
            token = int(np.asarray(run(window))[0, -1].argmax())
            if token == tokenizer.end_of_text:
                break
            tokens.append(token)
        return {"text": tokenizer.decode(tokens)}

    def request(self) -> dict[str, Any]:
        lines = DocumentFile(self.folder / "test.jsonl")[0].text.split("\n")
        sentence = next((line for line in lines if len(line.split()) > 8), lines[0])
        return {"prompt": " ".join(sentence.split()[:6]), "n": 40}


def _pieces(tokens: Array, count: int | None) -> Array:
    """`count` evenly spaced pieces, joined; everything where there is no more than that."""
    if count is None or len(tokens) <= count * PIECE:
        return tokens
    starts = np.linspace(0, len(tokens) - PIECE, count).astype(np.int64)
    return tokens[(starts[:, None] + np.arange(PIECE)).ravel()]


@dataclass(frozen=True, kw_only=True)
class LanguageModelling(Task):
    kind: ClassVar[type[Data]] = TextData
    source: str  # a name of `oliveira sources`
    vocab_size: int = 2048
    max_len: int = 128
    held_out: float = 0.05  # share of the documents for validation, and again for the test

    def open(self, home: Path, say: Say) -> TextData:
        section = DataSection(
            base=self.source, vocab_size=self.vocab_size, validation=self.held_out, test=self.held_out
        )

        def build(folder: Path) -> None:
            collect(self.source, folder, home=home, max_chars=0, say=say)
            documents = folder / "documents.jsonl"
            preprocess.prepare(
                documents,
                folder,
                config=section,
                seed=_SPLIT_SEED,
                tokenizer=None,
                progress=lambda share, text: None,
            )
            documents.unlink()

        key = {
            "content": SOURCES[self.source].content,
            "vocab_size": self.vocab_size,
            "held_out": self.held_out,
            "preparing": _PREPARING,
        }
        return TextData(prepared(home, self.name.replace("/", "-"), key, build, say), self.max_len)


def _task(source: str, title: str, **sizes: Any) -> LanguageModelling:
    return LanguageModelling(
        name=f"lm/{source}",
        title=title,
        eats="tokens",
        gives="next",
        metric=Metric(name="bits per byte", better="lower"),
        licence=SOURCES[source].licence,
        source=source,
        train={"batch_size": 16, "lr": 2e-3, "warmup_steps": 50, "weight_decay": 0.1, "beta2": 0.98},
        **sizes,
    )


TASKS: tuple[Task, ...] = (
    _task("almeida", "the next token of the Bible in Portuguese"),
    _task("bncc", "the next token of the Brazilian curriculum", vocab_size=1024, held_out=0.1),
    _task("machado", "the next token of Machado de Assis"),
)
