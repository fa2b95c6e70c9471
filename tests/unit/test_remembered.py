"""A home goes on with the world it was made with; another one is shown and asked for, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oliveira.errors import CorruptError, UserError
from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger
from oliveira.lifecycle.remembered import MEMORY, Asked, choose, fitted, remember
from oliveira.world import World, load_world

NOTHING: dict[str, str] = {}


def asked(world: str = "", text: str = "", environment: dict[str, str] | None = None, **sets: str) -> Asked:
    return Asked(world, text, {key.replace("__", "."): value for key, value in sets.items()}, environment or NOTHING)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Made with a private text and a set; something was learnt."""
    home = tmp_path / "home"
    first = asked("tiny", str(tmp_path / "private"), train__steps="77")
    remember(home, choose(home, first))
    learnt(home)
    return home


def learnt(home: Path) -> None:
    with Ledger(home) as ledger:
        ledger.begin_stage("key", "train", {}, {}, "me")


def test_without_flags_the_home_goes_on_with_its_own(home: Path, tmp_path: Path) -> None:
    """`up --home` without --text must not start learning the Bible in a private home."""
    world = choose(home, asked()).world
    assert world.data.base == f"path:{tmp_path / 'private'}" and world.train.steps == 77 and world.name == "tiny"
    remember(home, choose(home, asked()))
    assert choose(home, asked()).world == world, "however often"


def test_the_same_flags_are_no_question(home: Path, tmp_path: Path) -> None:
    world = choose(home, asked()).world
    assert choose(home, asked("tiny", str(tmp_path / "private"), train__steps="77")).world == world
    assert choose(home, asked("tiny")).world == world
    assert choose(home, asked(text=str(tmp_path / "private"))).world == world


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"world": "default"}, ["--world would change", "data.base = path:", "almeida", "--set data.base=almeida"]),
        ({"text": "/elsewhere"}, ["--text would change data.base", "--set data.base=path:/elsewhere"]),
        ({"world": "default", "text": "/elsewhere"}, ["--world and --text", "more"]),
    ],
)  # fmt: skip
def test_other_flags_are_refused_with_what_differs_and_the_remedy(
    home: Path, flags: dict[str, Any], says: list[str]
) -> None:
    before = (home / MEMORY).read_bytes()
    with pytest.raises(UserError) as caught:
        choose(home, asked(**flags))
    sentence = str(caught.value)
    assert caught.value.exit_code == 2 and "\n" not in sentence and len(sentence) < 900
    assert all(word in sentence for word in [*says, "out to go on with its own", "another --home"]), sentence
    assert (home / MEMORY).read_bytes() == before


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_at_the_terminal_is_asked(home: Path, answer: bool) -> None:
    questions: list[str] = []

    def confirm(question: str) -> bool:
        questions.append(question)
        return answer

    if answer:
        assert choose(home, asked(text="/other"), confirm).world.data.base == "path:/other"
    else:
        with pytest.raises(UserError, match="made with another world"):
            choose(home, asked(text="/other"), confirm)
    assert len(questions) == 1 and "path:/other" in questions[0]


def test_set_and_environment_name_what_they_change(home: Path) -> None:
    assert choose(home, asked(data__base="bncc")).world.data.base == "bncc"
    assert choose(home, asked(text="/other", data__base="path:/other")).world.data.base == "path:/other"
    chosen = choose(home, asked(environment={"OLIVEIRA_SERVE__THREADS": "3"}))
    assert chosen.world.serve.threads == 3 and chosen.world.train.steps == 77
    remember(home, choose(home, asked(train__steps="99")))
    assert choose(home, asked()).world.train.steps == 99, "and are remembered"


def test_a_world_file_that_was_edited_is_asked_for_and_sets_stay(tmp_path: Path) -> None:
    home, file = tmp_path / "home", tmp_path / "mine.toml"
    file.write_text('[data]\nbase = "bncc"\nvocab_size = 512\n')
    remember(home, choose(home, asked(str(file), train__steps="80")))
    learnt(home)
    assert choose(home, asked(str(file))).world.train.steps == 80
    file.write_text('[data]\nbase = "bncc"\nvocab_size = 600\n')
    with pytest.raises(UserError, match=r"data\.vocab_size = 512 → 600"):
        choose(home, asked(str(file)))
    world = choose(home, asked(str(file)), lambda question: True).world
    assert (world.data.vocab_size, world.train.steps) == (600, 80)
    file.unlink()
    chosen = choose(home, asked())
    assert chosen.world.data.vocab_size == 512
    remember(home, chosen)
    assert choose(home, asked()).world == chosen.world, "without its file the home still knows"


def test_before_something_is_learnt_nothing_binds(tmp_path: Path) -> None:
    """A first start that was refused for too little text does not stand in the way of the second."""
    home = tmp_path / "home"
    remember(home, choose(home, asked(text="/too-little")))
    with Ledger(home) as ledger:
        ledger.begin_stage("key", "collect", {}, {}, "me")
    assert choose(home, asked(text="/enough")).world.data.base == "path:/enough"
    assert choose(tmp_path / "none", asked()).world == load_world("default", environment={})
    assert not (tmp_path / "none").exists()


def test_a_home_of_an_older_version_is_known_by_what_was_in_force(tmp_path: Path) -> None:
    home = tmp_path / "home"
    old = load_world("tiny", {"data.base": "path:/private"}, {})
    write_json_atomic(home / "world.json", old.model_dump())
    learnt(home)
    assert choose(home, asked()).world == old
    with pytest.raises(UserError, match="made with another world"):
        choose(home, asked("default"))
    (home / "world.json").write_text('{"nonsense": 1}')
    with pytest.raises(UserError, match="not a world that this version reads"):
        choose(home, asked())


@pytest.mark.parametrize(
    "damage",
    [b"\xff\xfe\x00", b"{", b"", b"[" * 100_000, b"[]", b"{}", b"null", b'{"name": "tiny", "world": []}'],
)
def test_a_damaged_memory_of_the_world_says_how_to_go_on(home: Path, damage: bytes) -> None:
    (home / MEMORY).write_bytes(damage)
    with pytest.raises(CorruptError, match=r"is damaged\. Remove it and name the world again"):
        choose(home, asked())


def test_what_a_person_set_once_no_later_plan_changes(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text(
        " ".join(f"A frase número {i} fala de outra coisa, a saber {i * i}." for i in range(900))
    )
    home = tmp_path / "home"
    remember(home, choose(home, asked(text=str(text), train__steps="300")))
    learnt(home)
    chosen = choose(home, asked())
    planned = fitted(home, chosen)
    assert planned.world.train.steps == 300 and planned.world.monitor.window < World().monitor.window
    assert chosen.world.monitor.window == World().monitor.window, "the plan is made anew when the text has grown"
    assert planned.note
