"""Chats read by a model's own template in the engine: roles, marks, what ends an answer, what stays text."""

from __future__ import annotations

from typing import Any

import pytest

from oliveira import artifact
from oliveira.convert.hub import bring_in
from oliveira.registry import decoding
from oliveira.serving.engine.decoders import Settings
from oliveira.serving.engine.text_engine import TextEngine
from oliveira.serving.front.schemas import ChatMessage, TokenizeRequest
from oliveira.serving.protocol import Accepted, Done, End, Error, Generate, Tokenize, Tokenized
from oliveira.tasks.language_modelling import generate
from tests.tiny_base import MARKS, TEMPLATE, write_base

CHAT: list[Any] = [{"role": "user", "content": "Oi <|im_end|>"}]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, TextEngine]:
    """With the template of the base, and without."""
    root = tmp_path_factory.mktemp("chats")
    brought = bring_in(write_base(root / "tiny.gguf", "o rato roeu a roupa do rei de Roma " * 20))
    brought.tokenizer.save(root / "tokenizer.json")
    made = {}
    for templated in (True, False):
        written = artifact.write(
            root / str(templated), model=brought.model, name=brought.name, tokenizer=root / "tokenizer.json",
            files={artifact.TEMPLATE: TEMPLATE.encode()} if templated else {}, lineage={}, metrics={},
        )  # fmt: skip
        made[templated] = TextEngine(written, Settings(guesses=False))
    return made


def said(engine: TextEngine, **what: Any) -> list[Any]:
    wanted = {"max_tokens": 12, "temperature": 0.0, "stop": [], **what}
    out: list[Any] = engine.turn([Generate(id="1", **wanted)])
    while engine.busy:
        out += engine.turn([])
    return out


def test_messages_become_the_tokens_of_the_template_and_marks_in_them_stay_text(
    engines: dict[bool, TextEngine],
) -> None:
    engine = engines[True]
    [found] = engine.handle(Tokenize(id="1", text="Oi <|im_end|>", messages=CHAT))
    assert isinstance(found, Tokenized)
    marks = [engine.tokenizer._backend.token_to_id(mark) for mark in MARKS]
    assert [token for token in found.tokens if token in marks] == [marks[0], marks[1], marks[0]]
    assert [
        accepted.prompt_tokens for accepted in said(engine, text="", messages=CHAT) if isinstance(accepted, Accepted)
    ] == [len(found.tokens)]
    [plain] = engines[False].handle(Tokenize(id="1", text="Oi", messages=CHAT))
    assert isinstance(plain, Tokenized) and engines[False].tokenizer.decode(plain.tokens) == "Oi"


def test_each_token_that_ends_a_turn_ends_the_answer(engines: dict[bool, TextEngine]) -> None:
    engine = engines[True]
    assert len(engine.tokenizer.stops) == 2 and engine.scheduler.stops == set(engine.tokenizer.stops)
    free = next(m for m in said(engine, text="o rato") if isinstance(m, Done))
    assert free.tokens == 12 and free.reason == "length"
    model = decoding(engine.artifact.load_model())
    first = generate(model, engine.tokenizer.prompt("o rato"), 3, max_len=64)[2]
    kept = engine.scheduler.stops
    try:
        engine.scheduler.stops = kept | {first}
        ended = next(m for m in said(engine, text="o rato") if isinstance(m, Done))
    finally:
        engine.scheduler.stops = kept
    assert ended.reason == "stop" and ended.tokens < 12


def test_a_chat_is_told_and_not_measured(engines: dict[bool, TextEngine]) -> None:
    end = next(m for m in said(engines[True], text="Oi", messages=CHAT, observe=True) if isinstance(m, End))
    assert end.prompt and end.loss is None
    end = next(m for m in said(engines[True], text="o rato roeu", observe=True) if isinstance(m, End))
    assert end.prompt and end.loss is not None


def test_what_the_template_refuses_is_refused(engines: dict[bool, TextEngine]) -> None:
    [found] = said(engines[True], text="x", messages=["no message"])
    assert isinstance(found, Error) and found.status == 400


def test_messages_are_told_to_the_template_as_it_reads_them() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = ChatMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message.for_template()["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert ChatMessage(role="developer", content="x").for_template() == {"role": "system", "content": "x"}
    with pytest.raises(ValueError, match="text or messages"):
        TokenizeRequest()
