"""A choice is scored by its mean log-likelihood, whatever stands beside it in the batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from oliveira.tasks.few_shot import KINDS, accuracy, choose, question_of


class Scripted(nn.Module):
    """Logits of the token after each, by a table (V, V)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def letters(text: str) -> list[int]:
    return [ord(character) - ord("a") for character in text]


def test_the_likelier_choice_by_hand() -> None:
    torch.manual_seed(0)
    table = torch.randn(26, 26)
    log_p = table.log_softmax(-1)
    for choices in itertools.combinations(["b", "cd", "efg", "z"], 3):
        by_hand = []
        for choice in choices:
            row = letters("xa" + choice)
            steps = [float(log_p[row[t - 1], row[t]]) for t in range(2, len(row))]
            by_hand.append(sum(steps) / len(steps))
        assert choose(Scripted(table), letters, "xa", choices) == by_hand.index(max(by_hand))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt"):
        choose(Scripted(torch.zeros(26, 26)), letters, "", ["a"])


@pytest.mark.parametrize("name", KINDS)
def test_the_question_is_never_among_its_examples(name: str) -> None:
    kind = KINDS[name]
    assert len(kind.pairs) == 16 == len({answer for _, answer in kind.pairs})
    for number, (asked, answer) in enumerate(kind.pairs):
        prompt, choices = question_of(kind, number, 4)
        *shown, last = prompt.split("\n")
        assert len(shown) == 4 and last == f"{asked} ->" and answer not in prompt.split()
        assert answer in choices and len(choices) == 12
        assert not {line.split()[-1] for line in shown} & set(choices)
        assert question_of(kind, number, 0) == (last, choices)  # the same choices without shots


def test_guessing_is_guessing() -> None:
    """A model without preferences takes the first choice."""
    kind = KINDS["capitals"]
    expected = sum(question_of(kind, n, 0)[1][0] == answer for n, (_, answer) in enumerate(kind.pairs)) / 16
    model = Scripted(torch.zeros(128, 128))
    assert accuracy(model, lambda text: [ord(c) for c in text], kind, 4) == expected < 0.3
