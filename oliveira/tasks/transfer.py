"""Three ways to use a pre-trained BERT for a classification: as it is, tuned, or not at all.

    frozen        logistic regression on the mean last state of each text
    fine-tuned    every weight goes on learning under a fresh head            (Devlin et al. 2019, §5.3)
    from scratch  the same network, steps and texts, without the pre-training

    python -m oliveira.tasks.transfer [--home .oliveira] [--texts 1600] [--steps 100]

all-MiniLM-L6-v2, which has read English only, on toxic tweets in Brazilian Portuguese: macro-F1 on the test split,
about five minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from oliveira.data import weights
from oliveira.data.vocabulary import padded
from oliveira.data.wordpiece import WordPiece
from oliveira.models.bert import BERT
from oliveira.tasks.base import Array, shuffled
from oliveira.tasks.catalogue import task
from oliveira.tasks.classification import TextClassData, macro_f1
from oliveira.tasks.scoring import chunks, judged
from oliveira.training.loss import cross_entropy

MAX_LEN, LR = 48, 1e-4
_ROWS, _BATCH = 64, 16
Tokens = list[list[int]]


def minilm(home: Path, *, d_out: int) -> tuple[BERT, WordPiece]:
    """all-MiniLM-L6-v2 under a fresh head of `d_out` classes, and its tokenizer."""
    with weights.opened(weights.MINILM, home / "cache", print) as root:
        config, tensors = weights.read_json(root / "config.json"), weights.read_tensors(root / "model.safetensors")
        model = BERT.from_weights(config, tensors, gives="one", d_out=d_out)
        pieces = (root / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return model, WordPiece([piece for piece in pieces if piece], lowercase=True)


def frozen_features(bert: BERT, rows: Tokens) -> Tensor:
    """The embedding of each text: (N, D). [PAD] is token 0, as in every BERT."""
    return _in_parts(bert, rows, bert.embed)


def _in_parts(model: nn.Module, rows: Tokens, run: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`run(tokens, mask)` on texts of like length together, in the order of `rows`."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    with judged(model):
        found = [
            run(*map(torch.from_numpy, padded([rows[n] for n in order[part]]))) for part in chunks(len(rows), _ROWS)
        ]
    return torch.cat(found)[np.argsort(order, kind="stable")]


def logistic_regression(features: Tensor, labels: Tensor, *, decay: float = 1e-2, steps: int = 100) -> nn.Linear:
    """Features scaled to mean 0 and deviation 1, one linear layer, cross-entropy + decay/2 · ‖W‖² at its minimum.

    features (N, D), labels (N,) int64 → a layer from (…, D) to (…, classes). The problem is convex: L-BFGS from 0.
    """
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    linear = nn.Linear(features.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    scaled = (features - mean) / deviation
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(linear(scaled), labels) + decay / 2 * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():  # the scaling as a part of the layer
        linear.weight.div_(deviation)
        linear.bias.sub_(linear.weight @ mean)
    return linear.requires_grad_(False)


def fine_tune(bert: BERT, rows: Tokens, labels: Array, *, steps: int, lr: float, seed: int = 0) -> None:
    """All weights, AdamW with a warm-up of a tenth and a linear fall, dropout as in the paper."""
    torch.manual_seed(seed)
    for module in bert.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    bert.train()
    optimizer = torch.optim.AdamW(bert.parameters(), lr=lr, weight_decay=0.01)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min((n + 1) / warmup, (steps - n) / steps))
    for number in range(steps):
        chosen = shuffled(number, seed=seed, size=_BATCH, count=len(rows))
        tokens, mask = map(torch.from_numpy, padded([rows[n] for n in chosen]))
        optimizer.zero_grad()
        cross_entropy(bert(tokens, mask), torch.from_numpy(labels[chosen])).backward()
        nn.utils.clip_grad_norm_(bert.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    bert.eval()


def predict(bert: BERT, rows: Tokens) -> Array:
    return np.asarray(_in_parts(bert, rows, bert).argmax(1).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m oliveira.tasks.transfer", description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".oliveira"), help="folder of all state")
    parser.add_argument("--texts", type=int, default=1600, help="training texts")
    parser.add_argument("--steps", type=int, default=100, help="of 16 texts, for the two that learn")
    given = parser.parse_args()
    home = given.home.absolute()
    data = task("classify/told-br").open(home, print)
    assert isinstance(data, TextClassData)
    model, wordpiece = minilm(home, d_out=len(data.labels))

    def part(split: str, count: int) -> tuple[Tokens, Array]:
        rows = [wordpiece.sentence(text, max_len=MAX_LEN) for _, text, _ in data.parts[split][:count]]
        return rows, data.targets[split][:count]

    (known, labels), (unseen, truth) = part("train", given.texts), part("test", given.texts // 2)
    print(f"{len(known)} texts to learn from, {len(unseen)} to be judged on, macro-F1:")

    def show(name: str, predicted: Array, started: float) -> None:
        print(f"{name:14}{macro_f1(predicted, truth):8.3f}   {time.monotonic() - started:5.0f} s", flush=True)

    show("majority", np.full(len(truth), np.bincount(labels).argmax()), time.monotonic())
    started = time.monotonic()
    regression = logistic_regression(frozen_features(model, known), torch.from_numpy(labels))
    show("frozen", regression(frozen_features(model, unseen)).argmax(1).numpy(), started)
    for name in ("fine-tuned", "from scratch"):
        started = time.monotonic()
        bert, _ = minilm(home, d_out=len(data.labels))
        if name == "from scratch":
            torch.manual_seed(0)
            bert = BERT(bert.config)
        fine_tune(bert, known, labels, steps=given.steps, lr=LR)
        show(name, predict(bert, unseen), started)


if __name__ == "__main__":
    main()
