"""Calls of functions: what the grammar allows is read back as it was meant, whole and in pieces."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from test_grammar import TEXTS, walk

from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import UserError
from oliveira.serving.calls import SYNTAXES, Arguments, Call, Content, Event, Function, Reader, grammar, syntax_of
from oliveira.serving.engine.grammar import JSON_OPTIONS, Grammars
from oliveira.serving.protocol import Constraint

FUNCTIONS = (
    Function(
        "get_weather",
        "The weather of a place.",
        {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"city": {"type": "string", "maxLength": 12}},
        },
    ),
    Function(
        "add-2", "", {"properties": {"x": {"type": "integer"}, "y": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}}}
    ),
    Function("now", "", {"additionalProperties": False}),
)
TOOLS = {function.name: function for function in FUNCTIONS}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*TEXTS, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'] * 20, 420)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer)


def read(syntax: str, text: str, chance: random.Random | None = None) -> list[Event]:
    """In pieces of random length, joined again."""
    reader, events = Reader(SYNTAXES[syntax]), []
    while text:
        size = chance.randrange(1, 9) if chance else len(text)
        events += reader.push(text[:size])
        text = text[size:]
    joined: list[Event] = []
    for event in [*events, *reader.finish()]:
        if joined and type(joined[-1]) is type(event) and not isinstance(event, Call):
            event = type(event)(joined.pop().text + event.text)
        joined.append(event)
    return joined


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_written_is_read_back_whole_and_in_pieces(syntax: str) -> None:
    arguments = ['{"city": "a } \\" \\\\", "x": [{"y": {}}]}', "{}"]
    calls = [SYNTAXES[syntax].write(*pair) for pair in zip(("get_weather", "now"), arguments, strict=True)]
    before = "I shall < look <tool_ca it up.\n" if syntax == "hermes" else ""
    wanted = [Call("get_weather"), Arguments(arguments[0]), Call("now"), Arguments(arguments[1])]
    wanted = [Content(before), *wanted] if before else wanted
    text = before + "\n".join(calls)
    assert read(syntax, text) == wanted
    for seed in range(30):
        assert read(syntax, text, random.Random(seed)) == wanted


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("text", ["Olá {mundo}", "a <tool_cal", "x", ' {"name": "now"}'])
def test_text_is_text(syntax: str, text: str) -> None:
    for seed in range(10):
        assert read(syntax, text, random.Random(seed)) == [Content(text)]
    assert read(syntax, "") == []


def test_a_call_that_is_cut_is_read_as_far_as_it_goes() -> None:
    assert read("json", '{"name": "now", "arguments": {"a": "b') == [Call("now"), Arguments('{"a": "b')]
    assert read("json", '{"name": "no') == [] and read("hermes", 'x<tool_call>\n{"na') == [Content("x")]


def _check(events: list[Event]) -> list[str]:
    """Names of the calls, whose arguments fit."""
    names = []
    for call, arguments in zip(events[::2], events[1::2], strict=True):
        assert isinstance(call, Call) and isinstance(arguments, Arguments)
        jsonschema_rs.Draft202012Validator(TOOLS[call.name].schema).validate(json.loads(arguments.text))
        names.append(call.name)
    return names


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("parallel", [False, True])
def test_a_call_that_must_be_is_one(syntax: str, parallel: bool, grammars: Grammars, tokenizer: Tokenizer) -> None:
    text = grammar(FUNCTIONS, SYNTAXES[syntax], must=True, parallel=parallel, json_options=JSON_OPTIONS)
    bias = _towards_the_end(tokenizer)
    seen: set[str] = set()
    most = ended = 0
    for seed in range(12):
        tokens, end = walk(grammars, tokenizer, Constraint(kind="lark", text=text), seed, bias)
        if end:
            names = _check(read(syntax, b"".join(map(tokenizer.token_bytes, tokens)).decode()))
            seen, most, ended = seen | set(names), max(most, len(names)), ended + 1
    assert ended >= 6 and len(seen) == 3 and (most > 1) == parallel


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_call_that_may_be_is_held_from_its_mark_on(syntax: str, grammars: Grammars, tokenizer: Tokenizer) -> None:
    """Text is free; once a call begins it cannot go wrong."""
    form = SYNTAXES[syntax]
    text = grammar(FUNCTIONS, form, must=False, parallel=True, json_options=JSON_OPTIONS)
    compiled = grammars.compile(Constraint(kind="lark", text=text))

    def fits(answer: str) -> bool:
        tokens = tokenizer.encode(answer)
        matcher = compiled.start.deep_copy()
        return (
            matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens) and matcher.is_accepting()
        )

    weather = form.write("get_weather", '{"city": "Olinda"}')
    assert (
        fits('Olá, mundo! {"a": 1}\n') and fits("") and fits(weather) and fits(weather + "\n" + form.write("now", "{}"))
    )
    assert not fits(form.write("other", "{}")) and not fits(form.write("get_weather", "{}")) and not fits(weather + "x")
    if form.begin:
        assert fits("Vou ver.\n" + weather) and not fits("Vou ver.\n" + form.write("other", "{}"))
    alone = grammar(FUNCTIONS, form, must=False, parallel=False, json_options=JSON_OPTIONS)
    compiled = grammars.compile(Constraint(kind="lark", text=alone))
    assert fits(weather) and not fits(weather + "\n" + weather)


def test_an_answer_in_json_or_a_call(grammars: Grammars, tokenizer: Tokenizer) -> None:
    content: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "additionalProperties": False,
    }
    text = grammar(FUNCTIONS, SYNTAXES["hermes"], must=False, parallel=True, json_options=JSON_OPTIONS, content=content)
    compiled = grammars.compile(Constraint(kind="lark", text=text))
    for answer, fits in (('{"a": 1}', True), ("Olá", False), (SYNTAXES["hermes"].write("now", "{}"), True)):
        tokens = tokenizer.encode(answer)
        assert (compiled.start.deep_copy().validate_tokens(tokens) == len(tokens)) == fits
    with pytest.raises(UserError, match="cannot be told from a call"):
        grammar(FUNCTIONS, SYNTAXES["json"], must=False, parallel=True, json_options=JSON_OPTIONS, content={})


def test_the_template_says_how_calls_are_written() -> None:
    assert syntax_of("{{ '<tool_call>' }}").name == "hermes" and syntax_of("{{ '<|python_tag|>' }}").name == "llama3"
    assert syntax_of(None).name == syntax_of("{{ messages }}").name == "json"
    with pytest.raises(UserError, match="the parameters of f are no object"):
        Function("f", "", {"type": "array"})


def _towards_the_end(tokenizer: Tokenizer) -> np.ndarray:
    pieces = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    return 3.0 * np.array([i == tokenizer.end_of_text or piece[:1] in (b'"', b"}") for i, piece in enumerate(pieces)])
