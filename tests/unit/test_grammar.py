"""Constraints: whatever is drawn under a mask is an answer; what cannot be held is refused; costs are bounded."""

from __future__ import annotations

import collections
import json
import time
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from oliveira.data.tokenizer import Tokenizer
from oliveira.serving.engine.grammar import GrammarError, Grammars, Masks, Matcher
from oliveira.serving.protocol import Constraint, Refused
from tests import random_schemas

TEXTS = ['{"nome": "Ana", "idade": 31, "ok": [true, false, null]}', "No princípio criou Deus os céus e a terra. 0.5e-3"]
LONGEST = 400  # tokens of a walk


def allowed(mask: Masks, n_tokens: int) -> np.ndarray:
    """As booleans. A mask that allows nothing ends its stream (`scheduler.py`)."""
    bits = np.unpackbits(mask.view(np.uint8), count=n_tokens, bitorder="little").astype(bool)
    if not bits.any():
        raise GrammarError("costly")
    return bits


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 20, 420)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer)


@pytest.fixture(scope="module")
def bias(tokenizer: Tokenizer) -> np.ndarray:
    """Random weights never come to an end: what closes something is somewhat likelier."""
    pieces = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    closing = [i == tokenizer.end_of_text or piece[:1] in (b'"', b"}", b"]") for i, piece in enumerate(pieces)]
    return 3.0 * np.array(closing)


def walk(
    grammars: Grammars, tokenizer: Tokenizer, constraint: Constraint, seed: int, bias: np.ndarray | float = 0.0
) -> tuple[list[int], bool]:
    """Tokens drawn at temperature 1 from random logits under the mask, and whether they came to an end."""
    chance = np.random.default_rng(seed)
    matcher, tokens = Matcher(grammars.compile(constraint)), []
    while len(tokens) < LONGEST and not matcher.done:
        [[mask]] = grammars.masks([(matcher, [])])
        logits = chance.normal(size=tokenizer.vocab_size) + bias
        logits[~allowed(mask, tokenizer.vocab_size)] = -np.inf
        token = int((logits + chance.gumbel(size=logits.size)).argmax())
        if token == tokenizer.end_of_text:
            assert matcher.inner.is_accepting()
            return tokens, True
        matcher.advance(token)
        tokens.append(token)
    return tokens, matcher.done


def json_constraint(schema: Any) -> Constraint:
    return Constraint(kind="json_schema", text=json.dumps(schema))


def finite(number: str) -> float:
    """JSON's numbers have any size; Python's do not."""
    return max(min(float(number), 1e308), -1e308)


@pytest.mark.parametrize("seeds", [range(150), pytest.param(range(150, 1000), marks=pytest.mark.slow)])
def test_whatever_is_drawn_fits_its_schema(
    seeds: range, grammars: Grammars, tokenizer: Tokenizer, bias: np.ndarray
) -> None:
    """Validated by another library than the one that makes the masks."""
    ended = refused = 0
    for seed in seeds:
        schema = random_schemas.schema(seed)
        try:
            tokens, end = walk(grammars, tokenizer, json_constraint(schema), seed, bias)
        except Refused:
            refused += 1
            continue
        ended += end
        text = b"".join(map(tokenizer.token_bytes, tokens))
        if end:
            value = json.loads(text.decode(), parse_float=finite)
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(value)
    assert refused <= len(seeds) * 0.05 and ended >= 0.6 * len(seeds), (refused, ended)


def test_formats_are_those_that_validators_know(grammars: Grammars, tokenizer: Tokenizer, bias: np.ndarray) -> None:
    for name in random_schemas.FORMATS:
        schema = {"type": ["string", "null"], "format": name}
        for seed in range(8):
            tokens, end = walk(grammars, tokenizer, json_constraint(schema), seed, bias)
            value = json.loads(b"".join(map(tokenizer.token_bytes, tokens))) if end else None
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(value)


def test_days_are_those_of_the_calendar(grammars: Grammars, tokenizer: Tokenizer) -> None:
    def fits(name: str, text: str) -> bool:
        matcher = Matcher(grammars.compile(json_constraint({"type": "string", "format": name})))
        tokens = tokenizer.encode(json.dumps(text))
        return matcher.fitting(tokens) == len(tokens)

    days = {"2024-02-29": True, "2000-02-29": True, "2023-02-29": False, "1900-02-29": False, "2023-02-28": True,
            "2023-12-31": True, "2023-02-09": True, "2023-11-31": False}  # fmt: skip
    for day, there in days.items():
        assert fits("date", day) == fits("date-time", f"{day}T10:20:30Z") == there, day
    assert fits("time", "23:59:59Z") and not fits("time", "23:59:60Z") and not fits("date-time", "2023-01-01T10:20:60Z")


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"not": {}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "cpf"}, "cpf"),
        ({"$ref": "#/$defs/none"}, "/$defs/none"),
        ({"$ref": "https://example.org/x.json"}, "https://example.org/x.json"),
        ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "oneOf"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"not": {}, "x-guidance": {"lenient": True}}, "not"),
        ({"type": "strin"}, "strin"),
        (False, "nsatisfiable"),
        ([], "neither an object"),
    ],
)
def test_a_schema_that_is_not_covered_is_refused_by_name(schema: Any, named: str, grammars: Grammars) -> None:
    with pytest.raises(Refused, match="this JSON schema is not covered: ") as found:
        grammars.compile(json_constraint(schema))
    assert named in str(found.value) and found.value.code == "constraint_unsupported"


def test_other_constraints_are_refused_by_name(grammars: Grammars) -> None:
    for constraint, said in (
        (Constraint(kind="regex", text="(a"), "this regular expression is not covered"),
        (Constraint(kind="regex", text="a(?!b)"), "look-around"),
        (Constraint(kind="lark", text="start: nothing"), "this grammar is not covered"),
        (Constraint(kind="json_schema", text="{"), "this JSON schema is not covered"),
    ):
        with pytest.raises(Refused, match=said):
            grammars.compile(constraint)


def _nested(depth: int) -> dict[str, Any]:
    return {"properties": {key: _nested(depth - 1) for key in "abcd"}} if depth else {"type": "string"}


@pytest.mark.parametrize(
    "bomb",
    [
        _nested(7),
        {"type": "object", "properties": {f"k{i}": {} for i in range(2000)}},
        {"allOf": [{"type": "integer", "multipleOf": 997}, {"multipleOf": 991.5}]},
        {"type": "integer", "multipleOf": 99991},
        {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for i in range(8)]} for j in range(8)]},
        {"enum": [f"{i * 7919 % 1000003} {'x' * 40}" for i in range(5000)]},
        json.loads('{"items":' * 90 + "{}" + "}" * 90),
    ],
)
def test_a_bomb_is_refused_before_it_costs(bomb: Any, grammars: Grammars) -> None:
    started = time.process_time()
    with pytest.raises(Refused):
        grammars.compile(json_constraint(bomb))
    assert time.process_time() - started < 5  # without bounds: up to half a minute, or no end


def test_a_constraint_that_becomes_too_costly_ends_its_stream_alone(grammars: Grammars, tokenizer: Tokenizer) -> None:
    """The lexer's states double with each token."""
    costly = Matcher(grammars.compile(Constraint(kind="regex", text="(.*a.{40}|.*b.{41}|.*c.{42})")))
    other = Matcher(grammars.compile(Constraint(kind="regex", text="[abc]*")))
    chance = np.random.default_rng(0)

    def step() -> None:
        [[mask], [mask_other]] = grammars.masks([(costly, []), (other, [])])
        [token] = tokenizer.encode("abc"[chance.integers(3)])
        assert allowed(mask_other, tokenizer.vocab_size)[token]
        other.advance(token)
        allowed(mask, tokenizer.vocab_size)
        costly.advance(token)

    with pytest.raises(GrammarError, match=r"costly|kept"):
        collections.deque((step() for _ in range(5000)), maxlen=0)


def test_masks_after_guesses_are_those_after_tokens(grammars: Grammars, tokenizer: Tokenizer) -> None:
    compiled = grammars.compile(json_constraint({"type": "object", "properties": {"nome": {"type": "string"}}}))
    tokens = tokenizer.encode('{"nome": "Ana"}')
    guessing, stepping = Matcher(compiled), Matcher(compiled)
    [masks] = grammars.masks([(guessing, tokens)])
    assert len(masks) == len(tokens) + 1
    for place, token in enumerate(tokens):
        [[mask]] = grammars.masks([(stepping, [])])
        assert np.array_equal(mask, masks[place]) and allowed(mask, tokenizer.vocab_size)[token]
        stepping.advance(token)
    assert stepping.done and stepping.inner.is_accepting() and not guessing.done
    [[end]] = grammars.masks([(stepping, [])])
    assert np.flatnonzero(allowed(end, tokenizer.vocab_size)).tolist() == [tokenizer.end_of_text]
    assert np.array_equal(end, masks[-1])


def test_guesses_that_do_not_fit_are_cut(grammars: Grammars, tokenizer: Tokenizer) -> None:
    matcher = Matcher(grammars.compile(Constraint(kind="regex", text="abc?")))
    [a], [b], [c] = (tokenizer.encode(letter) for letter in "abc")
    assert [matcher.fitting(guess) for guess in ([], [a, b, c], [a, c, b], [b])] == [0, 3, 1, 0]
    [first, second] = grammars.masks([(matcher, [a, b]), (matcher, [])])
    assert len(first) == 3 and np.array_equal(first[0], second[0])
    assert allowed(first[2], tokenizer.vocab_size)[[c, tokenizer.end_of_text]].all()  # may go on, or end here


def test_a_constraint_is_compiled_once(grammars: Grammars) -> None:
    same = grammars.compile(json_constraint({"type": "null"}))
    assert grammars.compile(json_constraint({"type": "null"})) is same
    with pytest.raises(Refused):
        grammars.compile(Constraint(kind="regex", text="x" * (200 << 10)))


def test_blanks_come_to_an_end(grammars: Grammars, tokenizer: Tokenizer) -> None:
    """A small model writes them for ever where it may."""
    matcher = Matcher(grammars.compile(json_constraint({"type": "object"})))
    for piece in ("{", "\n", *" " * 32):
        [token] = tokenizer.encode(piece)
        matcher.advance(token)
    assert matcher.fitting(tokenizer.encode(" ")) == 0 and matcher.fitting(tokenizer.encode("}")) == 1
