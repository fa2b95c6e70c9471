"""What a language model answers without training: zero shots against a few examples in its prompt.

Paper: Brown et al. 2020, arXiv:2005.14165 §2.4.

    score(choice) = Σ_t log p(t | prompt, tokens of the choice before t) / tokens of the choice
    answer = the choice of the highest score

    python -m oliveira.tasks.few_shot [--home .oliveira]        SmolLM2-135M on the 32 questions below

Two kinds: opposites of English words and capitals of countries. For each question four other pairs are drawn, which
the shots are taken from; the choices are the answers of the kind but those four, with shots and without.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from oliveira.tasks.scoring import judged

Encode = Callable[[str], list[int]]
SHOTS = (0, 4)
DRAWN = 4  # pairs that may be shown, and whose answers are no choices


class Kind(NamedTuple):
    prompt: str  # with one place for the question; the answer follows after a space
    pairs: tuple[tuple[str, str], ...]


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    words = text.split()
    return tuple(zip(words[0::2], words[1::2], strict=True))


KINDS: dict[str, Kind] = {
    "opposites": Kind(
        "{} ->",
        _pairs(
            "hot cold big small up down day night fast slow open closed rich poor early late happy sad light dark "
            "strong weak wet dry new old hard soft true false full empty"
        ),
    ),
    "capitals": Kind(
        "{} ->",
        _pairs(
            "France Paris Italy Rome Spain Madrid Germany Berlin Japan Tokyo Russia Moscow Egypt Cairo Greece Athens "
            "Portugal Lisbon Austria Vienna Ireland Dublin Norway Oslo Sweden Stockholm Cuba Havana Peru Lima "
            "Poland Warsaw"
        ),
    ),
}


def choose(model: nn.Module, encode: Encode, prompt: str, choices: Sequence[str]) -> int:
    """Which of `choices` the model would rather write after `prompt`. Each begins with a space.

    All are scored in one batch, padded on the right: a causal model does not see what comes later.
    """
    before = encode(prompt)
    rows = [encode(choice) for choice in choices]
    if not before or not all(rows):
        raise ValueError("a prompt and a choice need at least one token each")
    longest = max(map(len, rows))
    tokens = np.array([[*before, *row, *[0] * (longest - len(row))] for row in rows])
    with judged(model):
        log_p = torch.log_softmax(model(torch.from_numpy(tokens[:, :-1])).double(), dim=-1)
    first = len(before) - 1  # the step that foretells a choice's first token
    scores = [
        float(log_p[n, first : first + len(row)].gather(1, torch.tensor(row)[:, None]).mean())
        for n, row in enumerate(rows)
    ]
    return int(np.argmax(scores))


def question_of(kind: Kind, number: int, shots: int, *, seed: int = 0) -> tuple[str, list[str]]:
    """The prompt of a question with up to `DRAWN` examples, and its choices."""
    others = [n for n in range(len(kind.pairs)) if n != number]
    drawn = np.random.default_rng([seed, number]).permutation(others)[:DRAWN].tolist()
    lines = [f"{kind.prompt.format(kind.pairs[n][0])} {kind.pairs[n][1]}" for n in drawn[:shots]]
    choices = [word for n, (_, word) in enumerate(kind.pairs) if n not in drawn]
    return "\n".join([*lines, kind.prompt.format(kind.pairs[number][0])]), choices


def accuracy(model: nn.Module, encode: Encode, kind: Kind, shots: int, *, seed: int = 0) -> float:
    """Share of the questions answered rightly; guessing reaches 1 / (pairs − 4)."""
    right = 0
    for number, (_, answer) in enumerate(kind.pairs):
        prompt, choices = question_of(kind, number, shots, seed=seed)
        right += choices[choose(model, encode, prompt, [f" {word}" for word in choices])] == answer
    return right / len(kind.pairs)


def main() -> None:
    from oliveira.convert.gguf import read_gguf
    from oliveira.data import weights

    parser = argparse.ArgumentParser(prog="python -m oliveira.tasks.few_shot", description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".oliveira"), help="folder of all state")
    home = parser.parse_args().home
    file = Path(weights.SMOLLM2.package.probe).name
    with weights.on_disk(weights.SMOLLM2, file, home.absolute() / "cache", print) as path:
        model, tokenizer, _ = read_gguf(path)
    print(f"{'':12}" + "".join(f"{shots} shots".rjust(10) for shots in SHOTS) + "guess".rjust(10))
    for name, kind in KINDS.items():
        found = [accuracy(model, tokenizer.encode, kind, shots) for shots in SHOTS]
        print(
            f"{name:12}" + "".join(f"{value:10.2f}" for value in found) + f"{1 / (len(kind.pairs) - DRAWN):10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
