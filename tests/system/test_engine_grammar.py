"""Answers that a constraint holds, from random weights: always valid, alone, in a batch and with guesses."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from serving_helpers import MAX_LEN, Home

from oliveira.artifact import Artifact
from oliveira.kernels.build import unavailable
from oliveira.serving.calls import SYNTAXES, Arguments, Call, Reader
from oliveira.serving.engine import grammar
from oliveira.serving.engine.decoders import Settings
from oliveira.serving.engine.speculation import LookUp, Speculator
from oliveira.serving.engine.text_engine import TextEngine
from oliveira.serving.protocol import Answer, Cancel, Constraint, Done, End, Error, Generate, Token, Tools
from tests import random_schemas

pytestmark = pytest.mark.skipif(unavailable() is not None, reason="no compiler: torch decodes, without guesses")

SCHEMA = {
    "type": "object",
    "properties": {
        "nome": {"type": "string", "pattern": "^[a-z]{1,6}$"},
        "idade": {"type": "integer", "minimum": 0, "maximum": 150},
        "cor": {"enum": ["azul", "verde", None]},
        "filhos": {"type": "array", "items": {"$ref": "#/$defs/filho"}, "maxItems": 2},
    },
    "required": ["nome", "idade", "cor", "filhos"],
    "additionalProperties": False,
    "$defs": {"filho": {"anyOf": [{"type": "boolean"}, {"const": "ñ"}]}},
}
SEEDS = range(48)
JSON = Constraint(kind="json_schema", text=json.dumps(SCHEMA))
PHONE = Constraint(kind="regex", text=r"\(\d{2}\) \d{4}-\d{4}")
FUNCTION = {"name": "soma", "description": "", "parameters": {"properties": {"x": {"enum": [1, 22]}}, "required": ["x"],
            "additionalProperties": False}}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Artifact:
    home = Home(tmp_path_factory.mktemp("grammar"), tokenizer_file)
    found = home.make(seed=3)
    home.ledger.close()
    return found


@pytest.fixture(scope="module")
def engine(made: Artifact) -> TextEngine:
    return TextEngine(made, Settings(slots=16, guesses=False))


def question(number: str, **more: Any) -> Generate:
    asked = Generate(id=number, text="Uma ficha: ", max_tokens=150, temperature=1.0, stop=[], seed=int(number))
    return replace(asked, **more)


def run(engine: TextEngine, questions: Sequence[Generate]) -> dict[str, tuple[str, str]]:
    """Text and reason of each choice."""
    out: list[Answer] = engine.turn(questions)
    for _ in range(5000):
        if not engine.busy:
            break
        out += engine.turn([])
    assert not engine.busy and len(engine.scheduler.pool.free) == engine.scheduler.capacity
    texts: dict[str, tuple[str, str]] = {}
    for message in out:
        if isinstance(message, Error):
            texts[message.id] = (f"{message.status} {message.code}", message.message)
        elif isinstance(message, Token | Done):
            name = f"{message.id}.{message.index}"
            text = texts.get(name, ("", ""))[0] + message.text
            texts[name] = (text, message.reason if isinstance(message, Done) else "")
    assert all(isinstance(message, End | Token | Done | Error) or message.id for message in out)
    return texts


def valid(text: str, reason: str) -> bool:
    if reason == "length":
        return False
    jsonschema_rs.Draft202012Validator(SCHEMA).validate(json.loads(text))
    return True


def test_sixteen_streams_alone_in_a_batch_and_with_guesses(engine: TextEngine, made: Artifact) -> None:
    """Half of them held, half free: whoever sits beside them, and whatever is guessed, the texts are the same."""
    asked = [question(str(i), **({"constraint": (JSON, PHONE)[i % 4 == 2]} if i % 2 == 0 else {})) for i in range(16)]
    together = run(engine, asked)
    ended = [valid(*together[f"{i}.0"]) for i in range(16) if i % 4 == 0]
    assert sum(ended) >= 3
    assert all(re.fullmatch(PHONE.text, together[f"{i}.0"][0]) for i in range(16) if i % 4 == 2)
    for i in (0, 1, 2):
        assert run(engine, [asked[i]])[f"{i}.0"] == together[f"{i}.0"]
    guessing = TextEngine(made, Settings(slots=16))
    assert guessing.scheduler.speculator is not None
    guessing.scheduler.speculator.cost = 0.0  # guess whenever something can be found
    assert run(guessing, asked) == together


def test_random_schemas_with_guesses(tmp_path: Path, tokenizer_file: Path) -> None:
    """Sixteen streams, temperature 1: an answer fits its schema unless it is cut."""
    home = Home(tmp_path, tokenizer_file)
    engine = TextEngine(home.make(seed=4, max_len=512), Settings(slots=16))
    home.ledger.close()
    engine.scheduler.speculator = Speculator(LookUp(), 0.0)
    schemas = {str(seed): random_schemas.schema(seed) for seed in SEEDS}
    found = run(
        engine,
        [
            question(seed, constraint=Constraint(kind="json_schema", text=json.dumps(schema)), max_tokens=300)
            for seed, schema in schemas.items()
        ],
    )
    ended = 0
    for seed, schema in schemas.items():
        text, reason = found.get(f"{seed}.0", ("", "refused"))
        if reason == "stop":
            value = json.loads(text, parse_float=lambda number: max(min(float(number), 1e308), -1e308))
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(value)
            ended += 1
    assert ended >= 0.3 * len(schemas), ended


def test_guesses_are_cut_to_what_fits_and_are_taken(made: Artifact) -> None:
    """A text that repeats itself: what is guessed is right, and is checked against the constraint as well."""
    repeated = Constraint(kind="regex", text="(ab cd ef gh ){30}")
    slow, fast = (TextEngine(made, Settings(slots=1, guesses=guesses)) for guesses in (False, True))
    assert fast.scheduler.speculator is not None
    fast.scheduler.speculator.cost = 0.0
    asked = [question("1", constraint=repeated, max_tokens=200)]
    steps = []
    for one in (slow, fast):
        count, step = [0], one.scheduler.step

        def counted(count: list[int] = count, step: Any = step) -> Any:
            count[0] += 1
            return step()

        one.scheduler.step = counted  # type: ignore[method-assign]
        steps.append((run(one, asked), count[0]))
    assert steps[0][0] == steps[1][0] and steps[1][1] < 0.6 * steps[0][1]
    assert re.fullmatch(r"(ab cd ef gh )+.*", steps[0][0]["1.0"][0])


def test_the_end_is_where_the_constraint_says(engine: TextEngine) -> None:
    """Without a step for the end of text; several choices each have their own place."""
    found = run(engine, [question("1", constraint=Constraint(kind="lark", text='start: "sim" | "não"\n'), n=4)])
    assert {text for text, _ in found.values()} <= {"sim", "não"} and {reason for _, reason in found.values()} == {
        "stop"
    }
    cut = run(engine, [question("1", constraint=JSON, max_tokens=3)])["1.0"]
    assert cut[1] == "length" and cut[0].startswith("{")
    stopped = run(engine, [question("1", constraint=JSON, stop=[":"])])["1.0"]
    assert stopped[1] == "stop" and re.fullmatch(r'\{\s*"nome"\s*', stopped[0])


def test_what_cannot_be_held_is_refused_and_the_others_go_on(engine: TextEngine) -> None:
    alone = run(engine, [question("1")])
    multiples = {"allOf": [{"type": "integer", "multipleOf": n} for n in (997, 991, 983)]}  # a state for each remainder
    bomb = {**FUNCTION, "name": "b", "parameters": {"properties": {"n": multiples}}}
    found = run(
        engine,
        [
            question("1"),
            question("2", constraint=Constraint(kind="json_schema", text='{"not": {}}')),
            question(
                "3", constraint=Constraint(kind="regex", text="(.*a.{60}|.*b.{61}|.*c.{62}|.*d.{63}|.*e.{64})x{900}")
            ),
            question("4", tools=Tools(functions=[FUNCTION], must=False, parallel=True), constraint=PHONE),
            question("5", tools=Tools(functions=[FUNCTION], must=False, parallel=True), constraint=JSON),
            question("6", tools=Tools(functions=[FUNCTION, bomb], must=True, parallel=True)),
            question("7", constraint=Constraint(kind="lark", text=f"start: %json {json.dumps(bomb['parameters'])}")),
        ],
    )
    assert found["1.0"] == alone["1.0"]
    assert found["2"][0] == "400 constraint_unsupported" and "not" in found["2"][1]
    assert found["4"][0] == "400 invalid_value" and found["5"][0] == "400 invalid_value"
    assert found["6"][0] == found["7"][0] == "400 constraint_unsupported" and "multipleOf" in found["6"][1]
    assert found["3.0"][1] == "length" or found["3"][0] == "400 constraint_too_costly"


def test_an_exception_in_a_constraint_ends_its_request_alone(
    engine: TextEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [question("1"), question("2", constraint=JSON), question("3", constraint=PHONE)]
    alone = run(engine, asked)
    advance = grammar.Matcher.advance

    def fails(self: grammar.Matcher, token: int) -> None:
        advance(self, token)
        if self.grammars is marked.get("grammars") and self.inner.is_accepting():
            raise RuntimeError("broken")

    marked: dict[str, Any] = {"grammars": engine.constraints._grammars}
    with monkeypatch.context() as patch:
        patch.setattr(grammar.Matcher, "advance", fails)
        found = run(engine, [asked[0], asked[2]])
    assert found["1.0"] == alone["1.0"] and found["3"][0] == "500 internal"

    def no_masks(self: grammar.Grammars, wanted: Any) -> Any:
        if any(matcher.broken for matcher, _ in wanted):
            raise RuntimeError("broken")
        return masks(self, wanted)

    masks, made = grammar.Grammars.masks, []
    begin = grammar.Matcher.__init__

    def numbered(self: grammar.Matcher, compiled: Any) -> None:
        begin(self, compiled)
        made.append(self)
        self.broken = len(made) == 1  # type: ignore[attr-defined]

    with monkeypatch.context() as patch:
        patch.setattr(grammar.Matcher, "__init__", numbered)
        patch.setattr(grammar.Grammars, "masks", no_masks)
        found = run(engine, asked)
    assert found["1.0"] == alone["1.0"] and found["2"][0] == "500 internal" and found["3.0"] == alone["3.0"]


def test_a_request_that_is_cancelled_while_it_is_compiled_never_joins(engine: TextEngine) -> None:
    slow = Constraint(kind="json_schema", text=json.dumps({"properties": {f"k{i}": {} for i in range(900)}}))
    asked = question("1", constraint=slow)
    assert [type(message).__name__ for message in engine.turn([asked, Cancel(id="1")])] == ["Accepted"]
    assert not engine.busy


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_calls_are_what_must_be_called(syntax: str, engine: TextEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.constraints, "syntax", SYNTAXES[syntax])
    assert engine.ready().calls == syntax
    tools = Tools(functions=[FUNCTION, {**FUNCTION, "name": "outra"}], must=True, parallel=False)
    for number in "123":
        text, reason = run(engine, [question(number, tools=tools)])[f"{number}.0"]
        call, arguments = Reader(SYNTAXES[syntax]).push(text)
        assert isinstance(call, Call) and call.name in ("soma", "outra") and reason == "stop"
        assert isinstance(arguments, Arguments) and json.loads(arguments.text)["x"] in (1, 22)
    free = run(engine, [question("1", tools=replace(tools, must=False)), question("2")])
    assert free["1.0"][0] and len(free["1.0"][0]) < 40 * MAX_LEN
