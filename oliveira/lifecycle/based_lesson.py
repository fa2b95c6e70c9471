"""A retraining where the life began with trained weights: QLoRA on the requests' text, read and judged as served."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from oliveira.adaptation.lora import fastest_compute
from oliveira.artifact import Artifact
from oliveira.compression.linear import CODECS
from oliveira.compression.model import QUANTISED, quantise_model
from oliveira.data.shards import token_row
from oliveira.ledger import Ledger
from oliveira.lifecycle.base_stages import PIECES, held_out_score
from oliveira.lifecycle.gate import Measured, Scores, judge, lost
from oliveira.lifecycle.latency import measure
from oliveira.lifecycle.lessons import Judged
from oliveira.lifecycle.reading import Reading
from oliveira.lifecycle.reference import held_out_texts
from oliveira.lifecycle.text_lesson import SMOKE, TextLesson
from oliveira.monitoring.drift import Sample, build_reference
from oliveira.registry import decoding
from oliveira.world import World

LIVE_PIECES = 40  # held-out requests that the next reference is made of


class BasedLesson(TextLesson):
    """Implements `lessons.Lesson`. 4-bit weights stay so while the thin matrices learn, and are then rounded anew.

    Two texts may not be forgotten: what the base was adapted to, and the general one. The gate hears of the worse.
    """

    def __init__(self, home: Path, ledger: Ledger, world: World, opened: Artifact) -> None:
        super().__init__(home, ledger, world, opened)
        self.keeps_bits = opened.weights in CODECS
        self.compute = fastest_compute()

    def judge(self, champion: nn.Module, challenger: nn.Module, folder: Path, name: str) -> Judged:
        world, opened = self.world, self.opened
        if opened.weights != "fp32" and not any(isinstance(layer, QUANTISED) for layer in challenger.modules()):
            quantise_model(challenger, opened.weights)
        old, _ = self._read(decoding(champion))
        new, samples = self._read(decoding(challenger))
        known = {text: Scores(old[text], new[text]) for text in ("base", "general")}
        worse = max(known, key=lambda text: lost(known[text], "lower"))
        unmade = dataclasses.replace(opened, path=folder, digest=name)
        measured = Measured(
            base=known[worse],
            new=Scores(old["live"], new["live"]),
            latency=measure((opened, decoding(champion)), (unmade, decoding(challenger)), world.serve),
            smoke=bool(new["steady"]),
        )
        passed, numbers = judge(measured, world.gate)
        numbers["forgotten"] = {text: pair.as_json() for text, pair in known.items()}
        section = world.monitor
        parts: dict[str, Any] = {
            "weights": opened.weights,
            "tokenizer": opened.path / "tokenizer.json",
            "reference": build_reference(samples, window=section.window, alpha=section.alpha, seed=world.seed),
        }
        return Judged(passed, numbers, parts)

    def _read(self, model: Any) -> tuple[dict[str, float], list[Sample]]:
        """Bits per byte on each text, and what the monitor will compare with."""
        reading, texts = Reading(model, self.tokenizer), self.live.held_out
        figures = {
            "base": held_out_score(reading, self.data, self.world),
            "general": held_out_score(reading, self.data.parent / "general", self.world),
            "live": self._live(reading, texts),
            "steady": float(reading.steady(SMOKE)),
        }
        return figures, reading.samples([*held_out_texts(self.data, PIECES), *texts[:LIVE_PIECES]])

    def _live(self, reading: Reading, texts: list[str]) -> float:
        """Of as many whole held-out requests as are scored of the other texts."""
        rows = self.tokenizer.encode_many(texts)
        scored = [n for n in range(len(rows)) if sum(map(len, rows[:n])) < self.world.train.evaluate_tokens]
        few = [texts[n] for n in scored]
        return reading.bits_per_byte(token_row(few, self.tokenizer), sum(len(text.encode()) for text in few))
