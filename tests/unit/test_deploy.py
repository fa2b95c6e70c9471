"""A restart keeps an updated champion; another world, or an old one that comes back, changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from oliveira.errors import OliveiraError
from oliveira.ledger import Ledger
from oliveira.lifecycle.deploy import deploy, root


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path)
    for name in ("a", "b"):
        found.add_artifact(name, "base", tmp_path / name, {"stage": "package", "key": f"key-{name}"}, {})
    found.add_artifact("a1", "challenger", tmp_path / "a1", {"stage": "update", "parent": "a"}, {})
    found.add_artifact("a2", "challenger", tmp_path / "a2", {"stage": "update", "parent": "a1"}, {})
    found.add_artifact("lost", "challenger", tmp_path / "lost", {"stage": "update", "parent": "nobody"}, {})
    return found


def test_roots(ledger: Ledger) -> None:
    assert [root(ledger, digest) for digest in ("a", "a2", "b", "lost", None)] == [
        "key-a",
        "key-a",
        "key-b",
        None,
        None,
    ]


def test_a_restart_keeps_the_updated_champion(ledger: Ledger) -> None:
    assert deploy(ledger, "a")
    ledger.promote("a2", actor="gate", numbers={})
    assert not deploy(ledger, "a") and ledger.alias("champion") == "a2"


def test_another_world_and_back(ledger: Ledger) -> None:
    for digest in ("a", "b", "a"):
        assert deploy(ledger, digest) and ledger.alias("champion") == digest
    assert [row.kind for row in ledger.decisions()] == ["deploy"] * 3


def test_what_is_no_package_is_refused(ledger: Ledger) -> None:
    with pytest.raises(OliveiraError, match="not a package"):
        deploy(ledger, "lost")
