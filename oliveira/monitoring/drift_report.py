"""Measures the drift monitor on real text and writes what came out.

`python -m oliveira.monitoring.drift_report [--windows 30000] [--out results/drift-false-alarms.json]`

Known domain: Brazil's school curriculum, cut into pieces as long as a request. Half of its documents train a
byte-level BPE and a unigram model, the other half, scored by that model, are the held-out samples. They are measured
twice: in random order, as requests of many people come, and in the order of the documents, where neighbours are
about the same thing. New domain: the computing supplement.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oliveira import terminal
from oliveira.data import sources
from oliveira.data.tokenizer import Tokenizer
from oliveira.files import write_json_atomic
from oliveira.monitoring.drift import Sample, measure_delay, measure_false_alarms
from oliveira.processors import processors

BASE, NEW = "bncc", "bncc-computacao"
PIECE = 300  # characters of a request
VOCABULARY = 2048
ALPHA, CONFIRM, SPLITS, TRIALS = 1e-4, 2, 30, 20


class Unigram:
    """Add-half smoothed token frequencies: the simplest model that has a loss."""

    def __init__(self, training: Sequence[Sequence[int]], vocab_size: int) -> None:
        self.counts = Counter(token for tokens in training for token in tokens)
        self.total = sum(self.counts.values()) + 0.5 * vocab_size

    def sample(self, tokens: list[int]) -> Sample:
        nats = sum(-math.log((self.counts[token] + 0.5) / self.total) for token in tokens)
        return Sample(tokens, nats / len(tokens))


def _documents(name: str, folder: Path) -> list[list[str]]:
    """The documents of a source, each cut into pieces."""
    sources.collect(name, folder, home=folder, max_chars=0, say=lambda line: None)
    lines = (folder / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    return [textwrap.wrap(json.loads(line)["text"], PIECE) for line in lines]


def load() -> tuple[list[Sample], list[Sample]]:
    """(held-out samples of the base domain in the order of its documents, samples of the new domain)."""
    with tempfile.TemporaryDirectory() as place:
        known, new = _documents(BASE, Path(place, "base")), _documents(NEW, Path(place, "new"))
    training = [piece for document in known[::2] for piece in document]
    tokenizer = Tokenizer.train(training, VOCABULARY)
    model = Unigram([tokenizer.encode(piece) for piece in training], VOCABULARY)
    held_out = [piece for document in known[1::2] for piece in document]
    return (
        [model.sample(tokenizer.encode(piece)) for piece in held_out],
        [model.sample(tokenizer.encode(piece)) for document in new for piece in document],
    )


def shifted(samples: Sequence[Sample], deviations: float) -> list[Sample]:
    """The same text, its loss worse by so many standard deviations."""
    mean = sum(sample.loss for sample in samples) / len(samples)
    spread = math.sqrt(sum((sample.loss - mean) ** 2 for sample in samples) / len(samples))
    return [Sample(sample.tokens, sample.loss + deviations * spread) for sample in samples]


def renamed(samples: Sequence[Sample], share: float) -> list[Sample]:
    """A vocabulary change alone: random tokens that make up `share` of the text become new ones."""
    counts = Counter(token for sample in samples for token in sample.tokens)
    tokens = sorted(counts)
    random.Random(0).shuffle(tokens)
    changed: set[int] = set()
    while tokens and sum(counts[token] for token in changed) < share * counts.total():
        changed.add(tokens.pop())
    return [
        Sample([token + VOCABULARY * (token in changed) for token in sample.tokens], sample.loss) for sample in samples
    ]


def measure(n_windows: int, windows: Sequence[int]) -> dict[str, Any]:
    """One row per order of the samples and window size."""
    start = time.monotonic()
    ordered, new = load()
    mixed = list(ordered)
    random.Random(0).shuffle(mixed)
    rows = []
    for order, samples in (("random", mixed), ("documents", ordered)):
        drifts = {
            "loss +1 sigma": shifted(samples, 1.0),
            "loss -1 sigma": shifted(samples, -1.0),
            "20 % of the vocabulary": renamed(samples, 0.2),
            "new domain": new,
        }
        for window in windows:
            rule: dict[str, Any] = {"window": window, "alpha": ALPHA, "confirm": CONFIRM}
            rows.append(
                {
                    "order": order,
                    "window": window,
                    "false_alarms": measure_false_alarms(samples, n_windows, **rule, splits=SPLITS),
                    "delay": {
                        name: measure_delay(samples, drift, **rule, trials=TRIALS) for name, drift in drifts.items()
                    },
                }
            )
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    return {
        "command": f"python -m oliveira.monitoring.drift_report --windows {n_windows}",
        "config": {"alpha": ALPHA, "confirm": CONFIRM, "splits": SPLITS, "trials": TRIALS, "piece": PIECE},
        "data": {
            "base": BASE,
            "new": NEW,
            "samples": len(ordered),
            "tokens": sum(len(sample.tokens) for sample in ordered),
            "new_samples": len(new),
        },
        "seeds": [0],
        "device": f"{processors()} x {platform.machine()}, Python {platform.python_version()}",
        "minutes": round((time.monotonic() - start) / 60, 1),
        "rows": rows,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: false alarms with their exact bound, delays in samples as median / largest (detected of trials)."""
    names = list(rows[0]["delay"])
    head = ["order", "window", "windows", "false alarms", "rate, 95 % bound", *names]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in rows:
        alarms = row["false_alarms"]
        cells = [row["order"], str(row["window"]), str(alarms["windows"]), str(alarms["alarms"])]
        cells.append(f"{alarms['rate']:.1e}, ≤ {alarms['upper95']:.1e}")
        for name in names:
            delay = row["delay"][name]
            found = f"{delay['median']:.0f} / {delay['max']} " if delay["detected"] else ""
            cells.append(f"{found}({delay['detected']} of {delay['trials']})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    terminal.set_up()
    parser = argparse.ArgumentParser(prog="oliveira.monitoring.drift_report", description=__doc__)
    parser.add_argument("--windows", type=int, default=30_000, help="windows without drift to look at, a row")
    parser.add_argument("--window", type=int, nargs="+", default=[400, 2000], help="tokens a window")
    parser.add_argument("--out", type=Path, default=Path("results/drift-false-alarms.json"))
    given = parser.parse_args()
    result = measure(given.windows, given.window)
    write_json_atomic(given.out, result)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
