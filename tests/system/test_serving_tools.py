"""Structured answers and tools, as the official `openai` client asks for them and reads them."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict
from serving_helpers import Server

ASK: dict[str, Any] = {"model": "oliveira", "messages": [{"role": "user", "content": "a"}], "max_tokens": 40}
# Short ones: the context has 256 tokens of hardly more than a letter each.
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"enum": [{"x": 1}, {"x": 2}]}}} for name in "fg"
]


class Ficha(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cor: Literal["azul", "verde"]
    filhos: list[bool] | None
    perto: Literal[1, 2]


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.openai()


def test_an_answer_is_parsed_into_a_class(client: openai.OpenAI) -> None:
    """The client writes the schema of the class, and reads the answer back into it."""
    read = 0
    for seed in range(4):
        try:
            made = client.chat.completions.parse(**ASK | {"max_tokens": 90}, response_format=Ficha, seed=seed)
        except openai.LengthFinishReasonError:
            continue
        assert isinstance(made.choices[0].message.parsed, Ficha)
        read += 1
    assert read >= 2


def test_json_and_vllms_forms(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(**ASK, response_format={"type": "json_object"}, seed=3)
    text = found.choices[0].message.content or ""
    assert text.startswith("{")
    if found.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)
    ask = {"model": "oliveira", "prompt": "a", "max_tokens": 60, "seed": 1}
    for extra, wanted in (
        ({"regex": r"\d{3}-[ab]"}, r"\d{3}-[ab]"),
        ({"choice": ["sim", "não", 'um "talvez"']}, 'sim|não|um "talvez"'),
        ({"grammar": 'start: "a" b\nb: /[0-9]{2}/'}, r"a\d\d"),
        ({"json": {"enum": ["x", 5]}}, '"x"|5'),
        ({"json": '{"enum": ["x", 5]}'}, '"x"|5'),
    ):
        [choice] = client.completions.create(**ask, extra_body={"structured_outputs": extra}).choices
        assert re.fullmatch(wanted, choice.text) and choice.finish_reason == "stop", extra


def test_a_function_that_must_be_called(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(**ASK, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=1)
    [choice] = made.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    [call] = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name in ("f", "g")
    assert json.loads(call.function.arguments)["x"] in (1, 2)
    named: Any = {"type": "function", "function": {"name": "g"}}
    for seed in range(3):
        made = client.chat.completions.create(**ASK, tools=TOOLS, tool_choice=named, seed=seed)
        assert [call.function.name for call in made.choices[0].message.tool_calls or []] == ["g"]
    # What was called and what came of it are understood in the next turn.
    messages = [*ASK["messages"], choice.message, {"role": "tool", "tool_call_id": call.id, "content": "3"}]
    again = client.chat.completions.create(**{**ASK, "messages": messages, "max_tokens": 20})
    assert again.choices[0].message.content is not None and again.choices[0].message.tool_calls is None


def test_calls_in_a_stream_are_those_of_the_whole_answer(client: openai.OpenAI) -> None:
    def calls(made: ChatCompletion) -> list[tuple[str, str]]:
        return [(call.function.name, call.function.arguments) for call in made.choices[0].message.tool_calls or []]

    for choice in ("required", "auto"):
        ask = {**ASK, "tools": TOOLS, "tool_choice": choice, "seed": 5, "logprobs": True}
        whole = client.chat.completions.create(**ask)
        chunks = list(client.chat.completions.create(**ask, stream=True))
        names: dict[int, str] = {}
        arguments: dict[int, str] = {}
        content = ""
        for delta in (chunk.choices[0].delta for chunk in chunks):
            content += delta.content or ""
            for piece in delta.tool_calls or []:
                assert piece.function is not None
                if piece.id:
                    names[piece.index] = piece.function.name or ""
                arguments[piece.index] = arguments.get(piece.index, "") + (piece.function.arguments or "")
        assert [(names[i], arguments[i]) for i in sorted(names)] == calls(whole)
        assert content == (whole.choices[0].message.content or "")
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert (choice == "auto") or calls(whole)


def test_what_is_not_offered_is_refused_by_name(client: openai.OpenAI) -> None:
    def refused(**more: Any) -> str:
        with pytest.raises(openai.BadRequestError) as found:
            client.chat.completions.create(**{**ASK, **more})
        return found.value.message

    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    assert "not" in refused(response_format=form)
    with pytest.raises(openai.BadRequestError, match="look-around"):  # before the first token, with its status
        client.completions.create(
            model="oliveira", prompt="a", stream=True, extra_body={"structured_outputs": {"regex": "(?=a)b"}}
        )
    assert "tool_choice" in refused(tool_choice="required")
    assert "outra" in refused(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "outra"}})
    assert "f twice" in refused(tools=[*TOOLS, TOOLS[0]])
    assert "tools.0.type" in refused(tools=[{"type": "custom", "custom": {"name": "x"}}])
    assert "tools" in refused(tools=[{"type": "web_search"}])
    assert "tools" in refused(tools=TOOLS, response_format=form | {"json_schema": {"name": "x", "schema": {}}})
    assert "tool_call_id" in refused(messages=[{"role": "tool", "content": "3"}])
    assert "Give one" in refused(
        response_format={"type": "json_object"}, extra_body={"structured_outputs": {"regex": "a"}}
    )
