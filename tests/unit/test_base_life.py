"""A life that begins with trained weights: brought in once, adapted in 4 bits, judged, served with its template."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from oliveira.artifact import open_artifact
from oliveira.console.flow import BASE_FLOW, flow_of, mermaid
from oliveira.errors import UserError
from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger
from oliveira.lifecycle import bases
from oliveira.lifecycle.loop import stages_of
from oliveira.lifecycle.pipeline import Pipeline
from oliveira.lifecycle.remembered import Asked, choose, fitted, remember
from oliveira.lifecycle.update import update
from oliveira.monitoring.traffic import TrafficLog
from oliveira.process.progress import Reporter
from oliveira.world import World
from tests.tiny_base import TEMPLATE, write_base

TEXT = "\n\n".join(text for _, text in sorted(topics.items())[:30])
SMALL: dict[str, str] = {
    "data.base": "bncc-computacao",
    "data.new": "bncc-computacao",
    "base.general": "bncc-computacao",
    "data.validation": "0.15",
    "data.test": "0.15",
    "model.max_len": "64",
    "train.evaluate_tokens": "600",
    "adapt.steps": "6",
    "adapt.batch_size": "4",
    "adapt.lr": "0.02",
    "adapt.rank": "4",
    "monitor.window": "200",
    "monitor.check_windows": "10",
    "gate.max_forgetting": "0.5",
    "gate.max_latency": "9",
    "update.steps": "4",
    "update.min_new_chars": "2000",
}


class Lived:
    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / "home"
        self.base = write_base(root / "tiny.gguf", TEXT)
        self.asked = Asked(base=bases.spec_of(str(self.base)), overrides=SMALL, environment={})
        self.chosen = choose(self.home, self.asked)
        self.world = self.chosen.world
        self.home.mkdir()
        write_json_atomic(self.home / "world.json", self.world.model_dump())
        self.outputs = self.live()

    def live(self) -> dict[str, dict[str, Any]]:
        with Ledger(self.home) as ledger, Reporter(quiet=True) as report:
            return Pipeline(stages_of(self.world), self.home, self.world, ledger, report).run()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    return Lived(tmp_path_factory.mktemp("based"))


def test_the_stages_are_the_ones_that_are_shown(lived: Lived) -> None:
    assert tuple(stage.name for stage in stages_of(lived.world)) == BASE_FLOW == flow_of(lived.home)
    assert lived.world.name == "assistant", "a base without a world gets the one that is made for it"


def test_the_adapted_weights_are_served_in_four_bits_with_licence_and_template(lived: Lived) -> None:
    adapt, package = lived.outputs["adapt"], lived.outputs["package"]
    assert adapt["served"] == "adapted" and adapt["base_after"] < adapt["base_before"]
    with Ledger(lived.home) as ledger:
        assert ledger.alias("champion") == package["served"] == package["adapted"]
        row = ledger.artifact(package["served"])
    assert row is not None
    made = open_artifact(row.path, row.digest)
    assert made.weights == "nf4" and (made.path / "chat_template.jinja").read_text() == TEMPLATE
    assert made.lineage["base"]["licence"] == "cc0-1.0"
    assert lived.base.name in json.dumps(made.lineage["base"]["source"])
    answers = json.loads(adapt["answers"])
    assert len(answers) == 3 and all(row["prompt"] and row["before"] != row["after"] for row in answers)


def test_the_graph_shows_what_was_brought_in_where_others_train() -> None:
    assert "Treinamento Base<br/>done" in mermaid({"bring_in": "done"})


def test_a_second_start_does_nothing(lived: Lived) -> None:
    def finished() -> list[float | None]:
        with Ledger(lived.home) as ledger:
            return [row.finished for row in ledger.stages()]

    before = finished()
    lived.live()
    assert finished() == before


def test_a_moved_file_is_the_same_base_and_another_is_refused(lived: Lived) -> None:
    home, moved = lived.home, lived.root / "elsewhere.gguf"
    remember(home, lived.chosen)
    moved.write_bytes(lived.base.read_bytes())
    assert choose(home, Asked(base=bases.spec_of(str(moved)), environment={})).world.base.name == f"path:{moved}"
    for other in (f"path:{write_base(lived.root / 'other.gguf', TEXT, seed=1)}", "smollm2"):
        with pytest.raises(UserError, match=r"lives with another base .*--life NAME"):
            choose(home, Asked(base=other, environment={}))


def test_other_weights_at_its_place_are_refused(lived: Lived) -> None:
    kept = lived.base.read_bytes()
    try:
        write_base(lived.base, TEXT, seed=2)
        with pytest.raises(UserError, match=r"are not those that home .* began with"):
            bases.check_unchanged(lived.home, lived.world)
    finally:
        lived.base.write_bytes(kept)
    bases.check_unchanged(lived.home, lived.world)


def test_without_its_file_it_is_served_and_that_is_told(lived: Lived) -> None:
    remember(lived.home, lived.chosen)
    away = lived.base.rename(lived.root / "away")
    try:
        planned = fitted(lived.home, choose(lived.home, Asked(environment={})))
        assert str(lived.base) in planned.warning
        assert lived.live() == lived.outputs
    finally:
        away.rename(lived.base)


def test_it_is_retrained_in_its_bits_and_the_gate_hears_of_the_text_that_lost_more(lived: Lived) -> None:
    log = TrafficLog(lived.home / "traffic", 8)
    for number, (_, text) in enumerate(sorted(topics.items())[:40]):
        for part in range(0, min(len(text), 3000), 300):
            record = {"id": f"{number}-{part}", "time": 0.0, "digest": "", "tokens": [], "loss": 1.0}
            log.append(record | {"text": text[part : part + 300]})
    log.close()
    with Ledger(lived.home) as ledger:
        numbers = update(lived.home, ledger, "by hand")
        made = ledger.artifact(numbers["digest"])
    assert made is not None
    opened = open_artifact(made.path, made.digest)
    assert opened.weights == "nf4" and "chat_template.jinja" in opened.files
    assert numbers["gain"] > 0 and set(numbers["forgotten"]) == {"base", "general"}
    base = numbers["validation_bits_per_byte"]["base"]
    worse = max(numbers["forgotten"].values(), key=lambda pair: pair["after"] / pair["before"])
    assert base == worse


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"base.name": '"smollm2"', "task.name": '"classify/digits"'}, "task.name"),
        ({"base.name": '"smollm2"', "base.context": "64"}, "base.context"),
    ],
)
def test_a_world_that_cannot_be_is_refused(given: dict[str, str], word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word):
        choose(tmp_path, Asked(overrides=given, environment={}))


def test_an_unknown_base_is_refused_with_what_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="smollm2"):
        bases.spec_of(str(tmp_path / "nowhere.gguf"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no weights"):
        bases.fingerprint(f"path:{tmp_path / 'empty'}", tmp_path)


def test_only_the_windows_follow_a_small_text(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name, text in sorted(topics.items())[:30]:
        (tmp_path / "texts" / f"{name}.txt").write_text(text[:4000], encoding="utf-8")
    chosen = choose(tmp_path / "home", Asked(base="smollm2", text=str(tmp_path / "texts"), environment={}))
    planned = fitted(tmp_path / "home", chosen)
    assert planned.world.data.vocab_size == World().data.vocab_size and "train." not in planned.note
