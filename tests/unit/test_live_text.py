"""What a retraining learns from: each text of the traffic once, on one side, the newest first."""

from __future__ import annotations

from pathlib import Path

import pytest

from oliveira.lifecycle import text_lesson
from oliveira.lifecycle.text_lesson import HELD_OUT_SHARE, live_text
from oliveira.monitoring.traffic import TrafficLog


def send(home: Path, *texts: str) -> None:
    log = TrafficLog(home, 8)
    for number, text in enumerate(texts):
        log.append({"id": str(number), "time": 0.0, "digest": "", "text": text, "tokens": [], "loss": 1.0})
    log.close()


def test_each_text_is_kept_once(tmp_path: Path) -> None:
    """A client that asks the same a thousand times must not outweigh the others, nor be on both sides."""
    texts = [f"pedido número {number}" for number in range(200)]
    copies = [f" {texts[1]}\r\n", texts[2].upper() + "!", texts[3].replace(" ", "  ")]
    send(tmp_path, *copies, *texts, *[texts[0]] * 50, *texts, "", "  ")
    found = live_text(tmp_path)
    assert sorted(found.train + found.held_out) == sorted(texts)
    assert found.characters == sum(map(len, texts))
    share = len(found.held_out) / len(texts)
    assert HELD_OUT_SHARE / 2 < share < HELD_OUT_SHARE * 1.5


def test_a_text_keeps_its_side_whatever_comes_with_it(tmp_path: Path) -> None:
    """Else what was held out yesterday is learnt today, and the gate is deceived."""
    texts = [f"pedido número {number}" for number in range(60)]
    send(tmp_path / "a", *texts)
    send(tmp_path / "b", *(f"outro {text}" for text in texts), *reversed(texts))
    before, after = live_text(tmp_path / "a"), live_text(tmp_path / "b")
    assert before.held_out and set(before.held_out) <= set(after.held_out)
    assert set(before.train) <= set(after.train)


def test_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lesson, "MAX_CHARS", 100)
    send(tmp_path, *(f"{number:03d} pedido" for number in range(90)))
    found = live_text(tmp_path)
    assert sorted(found.train + found.held_out) == [f"{number:03d} pedido" for number in range(79, 90)]
