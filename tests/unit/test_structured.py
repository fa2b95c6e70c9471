"""What clients ask of an answer's form, and how calls are given to them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from oliveira.serving.calls import SYNTAXES
from oliveira.serving.front.call_shape import CallShape
from oliveira.serving.front.generation import Choice
from oliveira.serving.front.schemas import ChatRequest, CompletionRequest
from oliveira.serving.front.structured import functions_of
from oliveira.serving.protocol import Constraint, Done, Logprob, Token

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"b": {}, "a": {}}}}}
OTHER = {"type": "function", "function": {"name": "g"}}


def test_forms_become_constraints() -> None:
    def asked(**more: Any) -> Constraint | None:
        return ChatRequest.model_validate(CHAT | more).constraint()

    assert asked() is None and asked(response_format={"type": "text"}) is None
    assert asked(response_format={"type": "json_object"}) == Constraint(kind="json_schema", text='{"type": "object"}')
    form = {"name": "x", "strict": True, "schema": {"properties": {"ç": {}, "a": {}}}}
    found = asked(response_format={"type": "json_schema", "json_schema": form})
    assert found == Constraint(kind="json_schema", text='{"properties": {"ç": {}, "a": {}}}')  # in the order given
    body = CompletionRequest.model_validate({"model": "m", "structured_outputs": {"choice": ["a", 'b"c']}})
    assert body.sampling()["constraint"] == Constraint(kind="lark", text='start: "a" | "b\\"c"\n')


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "xml"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        {"structured_outputs": {"structural_tag": "x"}},
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        {"tools": [TOOL] * 129},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}]},
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}},
        {"tool_choice": "auto"},
        {
            "messages": [
                {
                    "role": "user",
                    "content": "a",
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}],
                }
            ]
        },
    ],
)
def test_what_is_not_understood_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate(CHAT | more)


def test_the_choice_says_which_functions_may_or_must_be_called() -> None:
    def asked(choice: Any, **more: Any) -> tuple[list[str], bool, bool] | None:
        found = ChatRequest.model_validate(CHAT | {"tools": [TOOL, OTHER], "tool_choice": choice, **more}).asked_tools()
        return found and ([f.name for f in functions_of(found)], found.must, found.parallel)

    assert asked(None) == asked("auto") == (["f", "g"], False, True)
    assert asked("required", parallel_tool_calls=False) == (["f", "g"], True, False)
    assert asked({"type": "function", "function": {"name": "g"}}) == (["g"], True, False)
    assert asked("none") is None and asked(None, tools=[]) is None
    found = ChatRequest.model_validate(CHAT | {"tools": [TOOL, OTHER]}).asked_tools()
    assert found and [f.schema.get("additionalProperties") for f in functions_of(found)] == [None, False]


def test_earlier_calls_are_text_for_a_model_without_a_form() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}, "index": 0}
    said = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}
    answered = {"role": "tool", "tool_call_id": "1", "content": "3"}
    body = ChatRequest.model_validate({"model": "m", "messages": [said, answered]})
    assert [message.plain() for message in body.messages] == ['{"name": "f", "arguments": {"a": 1}}', "3"]


def shape(syntax: str) -> CallShape:
    generation: Any = SimpleNamespace(calls=SYNTAXES[syntax], choices=1, request_id="r", digest="d" * 64)
    return CallShape("m", generation, with_usage=False)


def test_calls_have_their_own_place_in_an_answer() -> None:
    text = "Vou ver.\n" + "\n".join(SYNTAXES["hermes"].write(name, '{"a": 1}') for name in "fg")
    whole = shape("hermes").whole([Choice(text=text, reason="stop")], {})["choices"][0]
    assert whole["finish_reason"] == "tool_calls" and whole["message"]["content"] == "Vou ver.\n"
    calls = whole["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [{"name": name, "arguments": '{"a": 1}'} for name in "fg"]
    assert len({call["id"] for call in calls}) == 2
    plain = shape("json").whole([Choice(text="Olá", reason="length")], {})["choices"][0]
    assert "tool_calls" not in plain["message"] and plain["message"]["content"] == "Olá"
    assert plain["finish_reason"] == "length"
    cut = shape("json").whole([Choice(text='{"name": "f", "arguments": {"a', reason="length")], {})["choices"][0]
    assert cut["message"]["tool_calls"][0]["function"]["arguments"] == '{"a' and cut["finish_reason"] == "length"


def test_calls_in_pieces() -> None:
    """Name once, arguments as they come, numbers in order, log-probabilities kept."""
    text = "\n".join(SYNTAXES["json"].write(name, '{"a": 1}') for name in "fg")
    made, deltas, entries = shape("json"), [], 0
    entry = Logprob(token=[97], logprob=-1.0, top=[])
    for place, letter in enumerate(text):
        end = place == len(text) - 1
        fields: dict[str, Any] = {"id": "1", "index": 0, "text": letter, "logprobs": [entry]}
        message = Done(**fields, reason="stop", tokens=9) if end else Token(**fields)
        for chunk in made.chunks(0, message):
            [choice] = chunk["choices"]
            deltas.append(choice)
            entries += len((choice["logprobs"] or {}).get("content", []))
    pieces = [piece for choice in deltas for piece in choice["delta"].get("tool_calls", [])]
    for number, name in enumerate("fg"):
        own = [piece for piece in pieces if piece["index"] == number]
        assert own[0]["function"]["name"] == name and own[0]["type"] == "function" and own[0]["id"]
        assert all("id" not in piece for piece in own[1:])
        assert "".join(piece["function"]["arguments"] for piece in own) == '{"a": 1}'
    assert deltas[-1]["finish_reason"] == "tool_calls" and entries == len(text)
