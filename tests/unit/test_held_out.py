"""What judges an adapter was never learned: not whole, not nearly, not in part."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from oliveira.data.documents import Document
from oliveira.data.held_out import hold_out
from oliveira.data.split import LEAK_FLAG, shared_shingles
from oliveira.errors import UserError

FOLDER = Path("texts")
WORDS = ["noite", "dia", "rio", "sol", "ponte", "estrada", "lua", "campo", "folha", "porta", "mesa", "vento", "flor"]


def text(seed: int, words: int = 200) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def documents(*texts: str) -> list[Document]:
    return [Document(f"{number}.txt", said) for number, said in enumerate(texts)]


@pytest.mark.parametrize("seed", range(8))
def test_texts_that_repeat_others_never_judge(seed: int) -> None:
    """Equal, nearly equal, and a text that is a part of a longer one: each would be known by heart."""
    long = text(1, 2000)
    words = long.split()
    nearly = text(2).split()
    nearly[100] = "outra"
    given = documents(long, " ".join(words[500:600]), text(2), " ".join(nearly), text(3), text(3), text(4), text(5))
    found = hold_out(given, seed, FOLDER)
    learned, judged = ([document.text for document in side] for side in (found.learned, found.held_out))
    assert learned and judged and found.duplicates == 2 and len(learned) + len(judged) == 6
    assert found.leakage == shared_shingles(judged, learned) <= LEAK_FLAG
    assert hold_out(given, seed, FOLDER) == found


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([text(1)], "holds 1 text,"),
        ([text(1), text(1)], "holds 1 text beside 1 that repeat"),
        ([f"{text(9, 60)} {text(number)}" for number in range(4)], "repeats parts of the others"),
    ],
)
def test_where_nothing_can_judge_a_sentence_says_so(texts: list[str], said: str) -> None:
    for seed in range(4):
        with pytest.raises(UserError, match=said):
            hold_out(documents(*texts), seed, FOLDER)


def test_names_alone_refuse_nothing() -> None:
    """Whichever texts are drawn, one that repeats nothing judges where there is one."""
    shared = text(9, 60)
    texts = [f"{shared} {text(number)}" for number in range(8)] + [text(20)]
    for seed in range(12):
        found = hold_out(documents(*texts), seed, FOLDER)
        assert [document.text for document in found.held_out] == [texts[-1]] and len(found.learned) == 8
