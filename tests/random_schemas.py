"""JSON schemas by chance, as people write them: $ref, anyOf, pattern, enum, bounds, five levels deep."""

from __future__ import annotations

import random
from typing import Any

PATTERNS = (
    "^[a-z]{1,8}$", "^\\d{3}-\\d{2}$", "[A-Z][a-z]+", "^(sim|não|talvez)$", "^[^@ ]+@[a-z]+\\.br$", "x|y", "^$",
    "\\w+ \\w+",
)  # fmt: skip
WORDS = ("ana", "cidade", "nome", "año", "a b", 'c"d', "e\\f", "ç", "😀", "", "type")
FORMATS = ("date", "time", "date-time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri")


def schema(seed: int, depth: int = 5) -> dict[str, Any]:
    """One with definitions that refer to themselves and to each other."""
    chance = random.Random(seed)
    names = [f"d{i}" for i in range(chance.randrange(1, 4))]
    definitions = {name: _any(chance, 2, names) for name in names}
    # A definition that is nothing but a reference could go round for ever.
    definitions = {name: one if "$ref" not in one else {"type": "null"} for name, one in definitions.items()}
    body = _object(chance, depth, names) if chance.random() < 0.7 else _any(chance, depth, names)
    return {**body, "$defs": definitions}


def _any(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    leaves = (_string, _number, _choice, _plain)
    inner = (_object, _object, _array, _either, _reference)
    make = chance.choice(leaves if depth <= 1 else (*leaves, *inner, *inner))
    return make(chance, depth, names)


def _object(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    keys = chance.sample(WORDS, chance.randrange(0, 5))
    made: dict[str, Any] = {
        "type": "object",
        "properties": {key: _any(chance, depth - 1, names) for key in keys},
        "required": [key for key in keys if chance.random() < 0.6],
    }
    match chance.randrange(4):
        case 0 | 1:
            made["additionalProperties"] = False
        case 2:
            made["additionalProperties"] = _any(chance, 1, names)
    if chance.random() < 0.1:
        made = {"allOf": [made, {"type": "object", "properties": {"nome": {"type": "string", "maxLength": 9}}}]}
    return made


def _array(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    low = chance.randrange(3)
    made: dict[str, Any] = {"type": "array", "items": _any(chance, depth - 1, names), "maxItems": low + 2}
    if chance.random() < 0.5:
        made["minItems"] = low
    if chance.random() < 0.2:
        made["prefixItems"] = [_any(chance, 1, names)]
    return made


def _either(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    if chance.random() < 0.2:  # told apart by a constant, as pydantic writes a tagged union
        kinds = [
            {
                "type": "object",
                "properties": {"kind": {"const": tag}, "v": _any(chance, 1, names)},
                "required": ["kind"],
            }
            for tag in ("a", "b")
        ]
        return {"oneOf": kinds}
    return {"anyOf": [_any(chance, depth - 1, names) for _ in range(chance.randrange(2, 4))]}


def _reference(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{chance.choice(names)}"}


def _string(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    match chance.randrange(4):
        case 0:
            return {"type": "string", "pattern": chance.choice(PATTERNS)}
        case 1:
            return {"type": "string", "minLength": chance.randrange(3), "maxLength": chance.randrange(3, 12)}
        case 2:
            return {"type": "string", "format": chance.choice(FORMATS)}
    return {"type": "string"}


def _number(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    made: dict[str, Any] = {"type": chance.choice(("integer", "number"))}
    if chance.random() < 0.7:
        low = chance.randrange(-50, 50)
        made[chance.choice(("minimum", "exclusiveMinimum"))] = low
        made[chance.choice(("maximum", "exclusiveMaximum"))] = low + chance.randrange(2, 1000)
    if made["type"] == "integer" and chance.random() < 0.2:
        made["multipleOf"] = chance.choice((2, 7, 10))
    return made


def _choice(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    values = [*WORDS, 1, 2.5, True, None, [], {"a": 1}]
    return {"const": chance.choice(values)} if chance.random() < 0.3 else {"enum": chance.sample(values, 3)}


def _plain(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    return chance.choice(
        ({"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {"type": ["integer", "boolean"]}, {})
    )
