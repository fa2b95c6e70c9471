"""One retraining, in process: a good challenger is promoted; shuffled labels, NaN and truncated data never are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import life_helpers as life
import pytest
import torch
from torch import nn

from oliveira import artifact
from oliveira.adaptation.lora import merge
from oliveira.errors import OliveiraError
from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger
from oliveira.lifecycle import text_lesson
from oliveira.lifecycle import update as room
from oliveira.lifecycle.latency import Latency
from oliveira.training.loss import cross_entropy
from oliveira.world import World, load_world

pytestmark = pytest.mark.slow


@pytest.fixture
def home(updatable: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(updatable, tmp_path / "home"))


def champion(home: Path) -> str | None:
    with Ledger(home) as ledger:
        return ledger.alias("champion")


def set_world(home: Path, **changes: str) -> World:
    world = load_world("tiny", life.UPDATE | changes, environment={})
    write_json_atomic(home / "world.json", world.model_dump())
    return world


def test_a_good_challenger_is_promoted_with_its_numbers(home: Path) -> None:
    before = champion(home)
    with Ledger(home) as ledger:
        result = room.update(home, ledger, "test")
        assert result["verdict"] == "promoted", result
        assert (ledger.alias("champion"), ledger.alias("previous")) == (result["digest"], before)
        decision = ledger.decisions(1)[0]
        row = ledger.artifact(result["digest"])
    assert (
        decision.numbers["validation_bits_per_byte"]["new"]["after"]
        == result["validation_bits_per_byte"]["new"]["after"]
    )
    assert row is not None and row.lineage["parent"] == before
    assert row.lineage["traffic"] == {"keys": [""], "first": 0.0, "last": 0.0}, "whose prompts it learnt from"
    artifact.open_artifact(row.path, row.digest).load_model()


def shuffled_labels() -> Callable[..., Callable[[nn.Module, torch.Tensor], torch.Tensor]]:
    def make(*_: object) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
        def loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
            targets = rows[:, 1:]
            mixed = targets.flatten()[torch.randperm(targets.numel())].view_as(targets)
            return cross_entropy(model(rows[:, :-1]), mixed)

        return loss

    return make


def nan_loss() -> Callable[..., Callable[[nn.Module, torch.Tensor], torch.Tensor]]:
    return lambda *_: lambda model, rows: cross_entropy(model(rows[:, :-1]), rows[:, 1:]) * float("nan")


@pytest.mark.parametrize("sabotage", ["shuffled labels", "NaN", "truncated data", "too high a rate"])
def test_a_worse_challenger_is_never_promoted(home: Path, monkeypatch: pytest.MonkeyPatch, sabotage: str) -> None:
    before = champion(home)
    match sabotage:
        case "shuffled labels":
            monkeypatch.setattr(text_lesson, "next_token_loss", shuffled_labels())
        case "NaN":
            monkeypatch.setattr(text_lesson, "next_token_loss", nan_loss())
        case "truncated data":
            whole = text_lesson.live_text
            cut = ["a a a a " * 200]
            monkeypatch.setattr(
                text_lesson, "live_text", lambda folder: text_lesson.LiveText(cut, whole(folder).held_out)
            )
        case "too high a rate":
            set_world(home, **{"adapt.lr": "30.0"})
    with Ledger(home) as ledger:
        result = room.update(home, ledger, "test")
        assert result["verdict"] == "rejected" and result["reasons"], result
        assert ledger.alias("champion") == before and ledger.alias("previous") is None
        assert ledger.decisions(1)[0].verdict == "rejected"
    json.dumps(result, allow_nan=False)


def test_a_person_must_approve_when_the_world_says_so(home: Path) -> None:
    set_world(home, **{"gate.require_approval": "true"})
    before = champion(home)
    with Ledger(home) as ledger:
        result = room.update(home, ledger, "test")
        assert result["verdict"] == "awaiting approval"
        assert ledger.alias("champion") == before and ledger.alias("challenger") == result["digest"]


def test_too_little_live_text_is_said(home: Path) -> None:
    set_world(home, **{"update.min_new_chars": "10000000"})
    with Ledger(home) as ledger, pytest.raises(OliveiraError, match=r"update\.min_new_chars"):
        room.update(home, ledger, "test")


def test_the_same_text_judged_again_overwrites_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promoted, rolled back, judged again on a busy machine and rejected: the first one can still be served."""

    def merge_otherwise(model: nn.Module) -> None:
        merge(model)
        with torch.no_grad():
            next(model.parameters()).mul_(1.001)

    with Ledger(home) as ledger:
        first = room.update(home, ledger, "test")
        ledger.rollback(actor="test", reason="test")
        monkeypatch.setattr(text_lesson, "measure", lambda *_: Latency(0.01, 1.0, 100.0, 90.0, 110.0))
        monkeypatch.setattr(text_lesson, "merge", merge_otherwise)
        again = room.update(home, ledger, "test")
        assert (first["verdict"], again["verdict"]) == ("promoted", "rejected")
        assert first["digest"] != again["digest"]
        for digest in (first["digest"], again["digest"]):
            row = ledger.artifact(digest)
            assert row is not None
            artifact.open_artifact(row.path, digest).load_model()
