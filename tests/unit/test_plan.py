"""Windows and budgets follow the size of the text; too little is said with the figure that is enough."""

from __future__ import annotations

import re

import pytest

from oliveira.data.documents import Document
from oliveira.data.split import assign
from oliveira.errors import UserError
from oliveira.lifecycle.plan import (
    DUPLICATES,
    LARGE,
    SHORTEST_PIECE,
    Plan,
    lengths_of,
    needed_pieces,
    needed_tokens,
    piece_size,
    plan,
)
from oliveira.world import World, load_world

DEFAULT = load_world("default", environment={})
WORLDS = {"default": DEFAULT, "tiny": load_world("tiny", environment={})}


def text(characters: int, documents: int) -> dict[str, int]:
    word = "No princípio era o verbo, e o verbo estava na escola. "
    each = (word * (characters // documents // len(word) + 1))[: characters // documents]
    found = lengths_of(Document(f"{number}.txt", each) for number in range(documents))
    assert found is not None
    return found


def held_out(made: Plan, lengths: dict[str, int]) -> int:
    data = made.world.data
    split = assign({n: n for n in lengths}, seed=made.world.seed, validation=data.validation, test=data.test)
    return sum(length for name, length in lengths.items() if split[name] != "train")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("documents", [1, 5, 25, 100])
@pytest.mark.parametrize("size", [30_000, 100_000, 300_000])
def test_from_30_kB_on_there_is_a_plan(size: int, documents: int, world: str) -> None:
    """What the monitor asks for later (`check_held_out`) is there, by the sizes alone."""
    lengths = text(size, documents)
    made = plan(WORLDS[world], lengths)
    judged = int(held_out(made, lengths) * DUPLICATES)
    assert judged // (1.3 * piece_size(judged)) >= needed_pieces() - 1
    assert judged / 4 >= needed_tokens(made.world.monitor.window)
    assert made.world.monitor.window >= 100
    assert made.world.data.validation + made.world.data.test <= 0.4
    assert made.world.train.warmup_steps < made.world.train.steps <= WORLDS[world].train.steps
    assert made.world.data.vocab_size <= max(300, size // 40)
    again = plan(made.world, lengths)
    assert again == Plan(made.world), "what was planned needs no second plan"


@pytest.mark.parametrize("documents", [1, 40])
def test_10_kB_are_too_few_and_the_figure_is_enough(documents: int) -> None:
    with pytest.raises(UserError, match="characters, at least") as caught:
        plan(DEFAULT, text(10_000, documents))
    needed = re.search(r"at least ([\d,]+) are needed", str(caught.value))
    assert needed is not None and "\n" not in str(caught.value)
    plan(DEFAULT, text(int(1.3 * int(needed[1].replace(",", ""))), 60))


def test_the_larger_the_text_the_larger_the_windows() -> None:
    made = [plan(DEFAULT, text(size, 50)).world for size in (30_000, 100_000, 300_000, 1_000_000, 2_500_000)]
    windows = [world.monitor.window for world in made]
    assert max(windows[:2]) < windows[2] < windows[3] <= windows[4]  # among the small ones the shares differ
    for rows in (
        [world.data.vocab_size for world in made],
        [world.train.steps for world in made],
    ):
        assert rows == sorted(rows) and rows[0] < rows[-1]
    assert made[-1] == DEFAULT, "a text of 2.5 million characters bears everything"


def test_a_large_text_is_not_read_twice() -> None:
    read = 0

    def documents() -> object:
        nonlocal read
        for number in range(100):
            read += 1
            yield Document(str(number), "palavra " * (LARGE // 80))

    assert lengths_of(documents()) is None and read <= 12  # type: ignore[arg-type]


def test_what_a_person_set_is_kept_or_refused_with_the_figure() -> None:
    lengths = text(60_000, 1)
    world = load_world("default", {"train.steps": "900", "data.vocab_size": "2000"}, {})
    made = plan(world, lengths, {"train.steps", "data.vocab_size"})
    assert (made.world.train.steps, made.world.data.vocab_size) == (900, 2000)
    with pytest.raises(UserError, match=r"monitor\.window = 2000 needs about 60,000 held-out characters.*Use at most"):
        plan(DEFAULT, lengths, {"monitor.window"})
    with pytest.raises(UserError, match=r"model\.max_len = 16384 needs at least 16386 training tokens"):
        plan(load_world("tiny", {"model.max_len": "16384"}, {}), lengths)
    with pytest.raises(UserError, match=r"hold out more \(data\.validation, data\.test\)"):
        plan(load_world("default", {"data.test": "0.01"}, {}), lengths, {"data.test"})


def test_documents_of_very_unlike_length_are_named() -> None:
    lengths = {f"{number}": 60 for number in range(40)} | {"long": 200_000}
    with pytest.raises(UserError, match="documents differ too much in length"):
        plan(World(), lengths)


def test_a_note_tells_what_was_changed() -> None:
    note = plan(DEFAULT, text(30_000, 1)).note
    assert note.startswith("for a text of ") and "monitor.window 2000 → " in note and "train.steps 450 → " in note
    assert plan(DEFAULT, text(2_500_000, 50)).note == ""


def test_pieces_are_as_long_as_requests_where_there_is_text() -> None:
    assert piece_size(400_000) == 500 and piece_size(1000) == SHORTEST_PIECE and 100 < piece_size(12_000) < 500
