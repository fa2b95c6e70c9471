"""Whether prompts are kept is asked once, in a home that is new, of a person; and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oliveira.files import write_json_atomic
from oliveira.language import PORTUGUESE, VARIABLE, translate
from oliveira.ledger import Ledger
from oliveira.lifecycle.overview import overview, overview_lines
from oliveira.lifecycle.recording import QUESTION, ask_recording
from oliveira.lifecycle.remembered import Asked, choose, remember

NOBODY: dict[str, str] = {}


def answering(answer: bool, asked: list[str]) -> Callable[[str], bool]:
    def confirm(question: str) -> bool:
        asked.append(question)
        return answer

    return confirm


@pytest.mark.parametrize("answer", [True, False])
def test_it_is_asked_at_the_first_start_and_remembered(tmp_path: Path, answer: bool) -> None:
    asked: list[str] = []
    wish = Asked("tiny", "", {}, NOBODY)
    chosen = ask_recording(tmp_path, choose(tmp_path, wish), answering(answer, asked))
    assert chosen.world.serve.keep_traffic is answer and asked == [QUESTION.format("prompts", tmp_path)]
    remember(tmp_path, chosen)
    with Ledger(tmp_path) as ledger:
        ledger.begin_stage("key", "train", {}, {}, "me")
    again = ask_recording(tmp_path, choose(tmp_path, Asked(environment=NOBODY)), answering(not answer, asked))
    assert again.world.serve.keep_traffic is answer and len(asked) == 1


@pytest.mark.parametrize(
    "wish",
    [
        Asked("tiny", "", {"serve.keep_traffic": "false"}, NOBODY),
        Asked("tiny", "", {}, {"OLIVEIRA_SERVE__KEEP_TRAFFIC": "false"}),
    ],
    ids=["--set", "environment"],
)
def test_who_has_said_it_is_not_asked(tmp_path: Path, wish: Asked) -> None:
    asked: list[str] = []
    chosen = ask_recording(tmp_path, choose(tmp_path, wish), answering(True, asked))
    assert not asked and not chosen.world.serve.keep_traffic


@pytest.mark.parametrize(
    ("sets", "says", "diz"),
    [
        ({}, "prompts are kept, at most 64 MiB", "os textos são guardados, no máximo 64 MiB"),
        (
            {"serve.traffic_days": "30"},
            "prompts are kept, at most 64 MiB and 30 days",
            "os textos são guardados, no máximo 64 MiB e 30 dias",
        ),
        (
            {"serve.keep_traffic": "false"},
            "no prompts are kept: no drift",
            "os textos não são guardados: não se vê",
        ),
        ({"task.name": "'forecast/power'"}, "requests are kept, at most 64 MiB", "os pedidos são guardados"),
    ],
)
def test_status_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: dict[str, str], says: str, diz: str
) -> None:
    with Ledger(tmp_path) as ledger:
        assert "recording" not in dict(overview_lines(overview(ledger))), "nothing was started"
        write_json_atomic(tmp_path / "world.json", choose(tmp_path, Asked("tiny", "", sets, NOBODY)).world.model_dump())
        line = dict(overview_lines(overview(ledger)))["recording"]
    monkeypatch.setenv(VARIABLE, PORTUGUESE)
    assert line.startswith(says) and translate(line).startswith(diz)
