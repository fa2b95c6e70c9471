"""Homes that earlier versions wrote open for ever: tests/homes/schema-N.tar.gz, one for each schema of the ledger."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import apsw
import pytest
import torch

from oliveira import artifact
from oliveira.cli import main
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import UserError
from oliveira.ledger import Ledger
from oliveira.ledger.schema import SCHEMA_VERSION
from oliveira.lifecycle.backup import back_up
from oliveira.lifecycle.overview import overview, overview_lines
from oliveira.lifecycle.remembered import Asked, choose
from oliveira.lifecycle.restore import restore
from oliveira.process.progress import Reporter
from oliveira.world import World

HOMES = sorted((Path(__file__).parents[1] / "homes").glob("schema-*.tar.gz"))


@pytest.fixture(params=HOMES, ids=lambda path: path.name.partition(".")[0])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The home, and what is in it."""
    with tarfile.open(request.param) as packed:
        packed.extractall(tmp_path, filter="data")
    written = apsw.Connection(str(tmp_path / "home" / "ledger.sqlite")).pragma("user_version")
    assert written == int(request.param.name.removeprefix("schema-").partition(".")[0]), "it is migrated already"
    return tmp_path / "home", json.loads((tmp_path / "expected.json").read_bytes())


def test_there_is_a_home_of_every_schema_since_the_first() -> None:
    written = [int(path.name.removeprefix("schema-").partition(".")[0]) for path in HOMES]
    assert 1 in written and written == list(range(1, max(written) + 1)) and max(written) <= SCHEMA_VERSION
    assert all(path.stat().st_size < 200_000 for path in HOMES)


def check(home: Path, expected: dict[str, Any], *, restored: bool = False) -> None:
    with Ledger(home) as ledger:
        assert ledger.check() and ledger._connection.pragma("user_version") == SCHEMA_VERSION
        assert ledger._rows("PRAGMA foreign_key_check") == []
        assert [row.digest for row in ledger.artifacts()] == expected["artifacts"]
        assert [row.verdict for row in ledger.decisions()] == expected["decisions"]
        first, second = expected["artifacts"]
        assert ledger.aliases() == {"champion": second, "previous": first, "challenger": first}
        assert (key := ledger.verify_key(expected["key"])) is not None and key.name == "ana"
        assert [row.name for row in ledger.life()] == ["train"] and ledger.runs()[0]["metrics"] == {"loss": 2.0}
        assert [wish.kind for wish in ledger.pending_wishes()] == ([] if restored else ["retrain"])
        assert ledger.last_event("swap") is not None and len(ledger.gauges()) == 2
        answers = [] if restored else expected.get("answers", [])  # since schema 2; private: in no backup
        assert [vars(row) for row in ledger.answers()] == answers
        told = overview(ledger)
        assert told["paused"] and list(overview_lines(told))
        row = ledger.artifact(expected["champion"])
        assert row is not None and row.digest == ledger.alias("champion")
        tokens = Tokenizer.load(row.path / "tokenizer.json").encode("No princípio")
        with torch.no_grad():
            logits = artifact.open_artifact(row.path, row.digest).load_model()(torch.tensor([tokens]))[0, -1]
        assert tokens == expected["tokens"] and logits[:8].tolist() == pytest.approx(expected["logits"], abs=1e-4)


def test_it_opens_and_its_champion_computes_the_same(old: tuple[Path, dict[str, Any]]) -> None:
    home, expected = old
    check(home, expected)
    check(home, expected)  # opened a second time: what was migrated stays


def test_its_world_goes_on(old: tuple[Path, dict[str, Any]]) -> None:
    chosen = choose(old[0], Asked(environment={}))
    assert (chosen.world.name, chosen.world.serve.slots) == ("tiny", 3) and "serve.slots" in chosen.explicit
    World.model_validate_json((old[0] / "world.json").read_bytes())


def test_it_is_backed_up_and_restored(old: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with Ledger(old[0]) as ledger:
        back_up(ledger, tmp_path / "home.zip", Reporter(quiet=True), with_traffic=False)
    restore(tmp_path / "home.zip", tmp_path / "new", Reporter(quiet=True))
    check(tmp_path / "new", old[1], restored=True)


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "--json"),
        ("status", "--mermaid"),
        ("history",),
        ("keys", "list"),
        ("adapters", "list"),
        ("backup", "FILE"),
        ("keys", "create", "bea"),
        ("pause",),
    ],
    ids=" ".join,
)
def test_who_only_looks_leaves_it_to_the_version_that_wrote_it(
    old: tuple[Path, dict[str, Any]], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = old[0]
    words = tuple(str(home.parent / "home.zip") if word == "FILE" else word for word in words)
    with apsw.Connection(str(home / "ledger.sqlite")) as file:
        before = file.pragma("user_version")
    monkeypatch.setattr(sys, "argv", ["oliveira", *words, "--home", str(home)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    writes = words[:2] == ("keys", "create") or words == ("pause",)
    assert apsw.Connection(str(home / "ledger.sqlite")).pragma("user_version") == (SCHEMA_VERSION if writes else before)


def test_what_it_has_not_is_told(old: tuple[Path, dict[str, Any]]) -> None:
    choose(old[0], Asked(environment={}))
    with Ledger(old[0], reads=True) as ledger:
        if ledger._schema() < 2:
            with pytest.raises(UserError, match=r"of an older version.*`oliveira up` brings it up to date"):
                ledger.answers()
