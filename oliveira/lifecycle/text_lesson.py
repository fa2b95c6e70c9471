"""What a retraining of a text model learns from, and how it is judged: the text of the requests."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oliveira.adaptation.lora import Compute, lora_targets, merge
from oliveira.adaptation.training import train_adapter
from oliveira.artifact import Artifact
from oliveira.compression.model import quantise_model
from oliveira.data.labelled import plain_words
from oliveira.data.shards import TokenShard, token_row
from oliveira.data.text import clean
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import OliveiraError
from oliveira.ledger import Ledger
from oliveira.lifecycle.gate import Measured, Scores, judge
from oliveira.lifecycle.latency import measure
from oliveira.lifecycle.lessons import Judged
from oliveira.lifecycle.pipeline import current_folder
from oliveira.lifecycle.reference import held_out_samples, score_texts
from oliveira.lifecycle.stages import score
from oliveira.monitoring.drift import build_reference
from oliveira.monitoring.traffic import read_all
from oliveira.registry import decoding
from oliveira.tasks.language_modelling import (
    MixedBatches,
    TokenBatches,
    bits_per_byte,
    generate,
    next_token_loss,
)
from oliveira.training.loop import Progress
from oliveira.world import World

SMOKE = ("No princípio", "A", "1, 2, 3")
HELD_OUT_SHARE = 0.2
MAX_CHARS = 2_000_000


@dataclass
class LiveText:
    """Text of the requests: each whole request is either for training or held out, by the hash of its words."""

    train: list[str]
    held_out: list[str]
    keys: set[str] = field(default_factory=set)  # ids of who sent it; a text that two have sent is both's
    times: list[float] = field(default_factory=list)

    def origin(self) -> dict[str, Any]:
        """For the lineage of what learns from it: whose it is, and of when."""
        return {"keys": sorted(self.keys), "first": min(self.times, default=0.0), "last": max(self.times, default=0.0)}

    @property
    def characters(self) -> int:
        return sum(map(len, self.train)) + sum(map(len, self.held_out))


def live_text(folder: Path) -> LiveText:
    """The newest requests first until MAX_CHARS, texts of the same words once: a copy on the other side of the split
    would flatter the challenger. What a model wrote itself is never among them.
    """
    seen: set[str] = set()
    kept = LiveText([], [])
    for record in reversed(read_all(folder)):
        text = clean(str(record["text"]))
        name = hashlib.sha256((" ".join(plain_words(text)) or text).encode()).hexdigest()
        if text:
            kept.keys.add(record.get("key", ""))
            kept.times.append(record.get("time", 0.0))
        if not text or name in seen:
            continue
        seen.add(name)
        (kept.held_out if int(name[:8], 16) / 2**32 < HELD_OUT_SHARE else kept.train).append(text)
        if kept.characters > MAX_CHARS:
            break
    return kept


class TextLesson:
    """Implements `lessons.Lesson` by LoRA on the requests' text, mixed with that of the base domain."""

    keeps_bits = False
    compute: Compute = "fp32"

    def __init__(self, home: Path, ledger: Ledger, world: World, opened: Artifact) -> None:
        self.world, self.opened = world, opened
        self.live = live_text(home / "traffic")
        if self.live.characters < world.update.min_new_chars or not self.live.held_out:
            raise OliveiraError(
                f"{self.live.characters} characters of live text are fewer than "
                f"update.min_new_chars = {world.update.min_new_chars}. "
                "Wait for more requests or lower it."
            )
        self.tokenizer = Tokenizer.load(opened.path / "tokenizer.json")
        self.data = current_folder(ledger, home, "preprocess") / "base"
        self.identity = sorted(self.live.train)
        self.amount = {"live_characters": self.live.characters}
        self.origin = self.live.origin()

    def train(
        self,
        model: nn.Module,
        folder: Path,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        world, max_len, batch = self.world, self.world.model.max_len, self.world.adapt.batch_size
        new = token_row(self.live.train, self.tokenizer)
        if len(new) < max_len + 2:
            raise OliveiraError(
                f"{len(new)} tokens of live text do not fill one window of {max_len}. Wait for more requests."
            )
        batches = MixedBatches(
            TokenBatches(new, max_len, batch, world.seed),
            TokenBatches(TokenShard.open(self.data, "train").tokens, max_len, batch, world.seed + 1),
            world.adapt.replay,
        )
        train_adapter(
            model,
            world.adapt,
            world.adapt.training(world.train, steps=world.update.steps, n_threads=world.update.threads),
            folder,
            targets=lora_targets(model, world.adapt),
            batch=batches,
            loss=next_token_loss(),
            seed=world.seed,
            tokens_per_batch=batch * max_len,
            on_progress=on_progress,
            should_stop=should_stop,
            compute=self.compute,
        )
        merge(model)

    def judge(self, champion: nn.Module, challenger: nn.Module, folder: Path, name: str) -> Judged:
        world, live, tokenizer = self.world, self.live, self.tokenizer
        weights = world.compress.serve
        if weights != "fp32":
            quantise_model(challenger, weights)
        held_out, max_len = token_row(live.held_out, tokenizer), world.model.max_len
        n_bytes = sum(len(text.encode()) for text in live.held_out)

        def new(model: nn.Module) -> float:
            return bits_per_byte(model, held_out, n_bytes, end_of_text=tokenizer.end_of_text, max_len=max_len)

        with torch.no_grad():
            # As it would be served: not compiled yet, at the place where it will stand.
            unmade = dataclasses.replace(self.opened, path=folder, digest=name)
            measured = Measured(
                base=Scores(*(score(model, self.data, "validation", tokenizer) for model in (champion, challenger))),
                new=Scores(new(champion), new(challenger)),
                latency=measure((self.opened, decoding(champion)), (unmade, decoding(challenger)), world.serve),
                smoke=smoke(challenger, tokenizer, max_len),
            )
            passed, numbers = judge(measured, world.gate)
            samples = held_out_samples(challenger, tokenizer, self.data, world)
            samples += score_texts(challenger, tokenizer, live.held_out, max_len)
        reference = build_reference(samples, window=world.monitor.window, alpha=world.monitor.alpha, seed=world.seed)
        parts = {"weights": weights, "tokenizer": self.opened.path / "tokenizer.json", "reference": reference}
        return Judged(passed, numbers, parts)


def smoke(model: nn.Module, tokenizer: Tokenizer, max_len: int) -> bool:
    """A few prompts: finite logits and the same greedy text twice."""
    for prompt in SMOKE:
        tokens = tokenizer.encode(prompt)
        if not bool(torch.isfinite(model(torch.tensor([tokens]))).all()):
            return False
        if generate(model, tokens, 8, max_len=max_len) != generate(model, tokens, 8, max_len=max_len):
            return False
    return True
