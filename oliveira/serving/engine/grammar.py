"""What an answer may look like: a JSON schema, a regular expression or a grammar, held token by token (llguidance).

Before each token an Earley parser over the tokenizer's trie says which tokens may follow; the others' logits become
−∞. What cannot be expressed exactly is refused, never approximated. A constraint is compiled beside the streams, in a
thread that holds no lock of the interpreter, and is found again by its digest.

Shapes: mask (V + 31) // 32 words of 32 bits, the lowest bit of the first word is token 0. V vocab_size.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import fill_next_token_bitmask_par, fill_next_token_bitmask_par_with_draft_tokens
from numpy.typing import NDArray

from oliveira.data.tokenizer import Tokenizer
from oliveira.serving.protocol import Constraint, Refused

Masks = NDArray[np.int32]

KEPT = 64  # compiled constraints
MAX_TEXT = 128 << 10  # bytes of a constraint
MAX_NODES, MAX_DEPTH, MAX_PROPERTIES = 20_000, 64, 1_000  # of a schema
MAX_MULTIPLE = 10_000  # states that `multipleOf` needs: the least common multiple where several meet
# Between two tokens of JSON: nothing, a blank, or a new line and its indentation. Without a bound a small model can
# write blanks for ever.
JSON_OPTIONS: dict[str, Any] = {
    "lenient": False,
    "coerce_one_of": False,
    "whitespace_pattern": r" |\n {0,32}",
}
# The library's formats admit more than validators do: names of any length, the 60th second and 29 February at any time.
_LEAP = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
_DAY = f"^([0-9]{{4}}-(0[13-9]|1[0-2])|[0-9]{{4}}-02-([01]|2[0-8])|{_LEAP}-02-29)"
_FORMATS = {
    "email": "^[^@]{1,64}@[^.]{1,48}([.][^.]{1,48}){0,4}$",
    "date": _DAY,
    "time": "^[0-9]{2}:[0-9]{2}:[0-5]",
    "date-time": _DAY + "[^:]{1,6}:[0-9]{2}:[0-5]",
}
_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")  # keywords that hold schemas by name
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_ONE = ("items", "additionalProperties")
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # 50,000 a millisecond
    step_lexer_fuel=100_000,  # 14,000 a millisecond
    step_max_items=50_000,  # 20,000 a millisecond
    max_lexer_states=20_000,  # 2 kB each
    max_grammar_size=200_000,
    verbose_errors=False,
)
_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}


class GrammarError(Refused):
    """A stream's constraint cannot go on: it became too costly, or no token of the vocabulary fits."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. Make the constraint simpler.", "constraint_too_costly")


class Grammars:
    """Constraints for the tokens of one tokenizer. `compile` may be called by another thread than the rest."""

    def __init__(self, tokenizer: Tokenizer, *, threads: int = 1) -> None:
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Words(tokenizer)), eos_token=list(_ends(tokenizer)))
        self._words = (tokenizer.vocab_size + 31) // 32
        self._executor = LLExecutor(threads)
        self._kept: OrderedDict[bytes, Compiled] = OrderedDict()

    def compile(self, constraint: Constraint) -> Compiled:
        """What the streams of a request begin from. Raises `Refused`, naming what is not covered."""
        digest = hashlib.sha256(f"{constraint.kind}\n{constraint.text}".encode()).digest()
        known = self._kept.pop(digest, None)
        if known is None:
            known = Compiled(self, self._compile(constraint))
        self._kept[digest] = known  # the last one to be forgotten
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return known

    def _compile(self, constraint: Constraint) -> LLMatcher:
        if (size := len(constraint.text.encode())) > MAX_TEXT:
            raise _refused(constraint, f"it has {size} bytes, more than {MAX_TEXT}")
        try:
            made = LLMatcher(self._tokenizer, _grammar(constraint), log_level=0, limits=_LIMITS)
        except (ValueError, RecursionError) as error:
            raise _refused(constraint, str(error)) from None
        if not made.is_error():
            made.compute_bitmask()  # some costs show with the first token only
        if made.is_error():
            raise _refused(constraint, made.get_error())
        return made

    def masks(self, asked: Sequence[tuple[Matcher, Sequence[int]]]) -> list[Masks]:
        """For each stream the masks (1 + guesses, words): of its next token, and of the one after each guess.

        Behind a guess that does not fit nothing may be read. One call for all streams, on several threads.
        """
        rows = np.zeros((sum(1 + len(guess) for _, guess in asked), self._words), dtype=np.int32)
        alone, guessed, out, row = [], [], [], 0
        for matcher, guess in asked:
            if guess:
                guessed.append((matcher.inner, row, list(guess)))
            else:
                alone.append((matcher.inner, row))
            out.append(rows[row : row + 1 + len(guess)])
            row += 1 + len(guess)
        if alone:
            fill_next_token_bitmask_par(self._executor, alone, rows)
        if guessed:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, guessed, rows)
        return out


@dataclass(frozen=True)
class Compiled:
    grammars: Grammars
    start: LLMatcher


class Matcher:
    """How far one stream has come in its constraint."""

    def __init__(self, compiled: Compiled) -> None:
        self.grammars, self.inner = compiled.grammars, compiled.start.deep_copy()

    def fitting(self, guess: Sequence[int]) -> int:
        """How many of the guessed tokens, from the first on, may stand here."""
        return int(self.inner.validate_tokens(list(guess)))

    def advance(self, token: int) -> None:
        """Raises `GrammarError`."""
        if not self.inner.consume_token(token):
            raise GrammarError(f"the constraint cannot be kept: {_first_line(self.inner.get_error())}")

    @property
    def done(self) -> bool:
        """Nothing but the end may follow."""
        return bool(self.inner.is_stopped())


def masks_of(asked: Sequence[tuple[Matcher, Sequence[int]]]) -> list[Masks]:
    """As `Grammars.masks`, of streams of one engine."""
    return asked[0][0].grammars.masks(asked)


def _grammar(constraint: Constraint) -> str:
    assert constraint.kind in _NAMES
    match constraint.kind:
        case "json_schema":
            schema = checked(json.loads(constraint.text))
            return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=cast(Any, JSON_OPTIONS))
        case "regex":
            return LLMatcher.grammar_from_regex(constraint.text)
    return LLMatcher.grammar_from_lark(constraint.text)


def checked(schema: Any) -> dict[str, Any]:
    """The schema as the library is to hold it, also within a grammar. Raises `ValueError`."""
    _check(schema)
    strict: dict[str, Any] = _strict(schema if isinstance(schema, dict) else {"anyOf": [{}] if schema is True else []})
    return strict


def _check(schema: Any) -> None:
    """Refuses what would cost seconds before the library's own limits are reached. Raises `ValueError`."""
    if not isinstance(schema, dict | bool):
        raise ValueError("it is neither an object nor true nor false")
    nodes = properties = 0
    multiples: set[Decimal] = set()
    todo = [(schema, 0)]
    while todo:
        value, depth = todo.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            found = value.get("properties")
            properties += len(found) if isinstance(found, dict) else 0
            if isinstance(multiple := value.get("multipleOf"), int | float):
                multiples.add(Decimal(str(multiple)))
            todo += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            todo += [(inner, depth + 1) for inner in value]
        if nodes > MAX_NODES or properties > MAX_PROPERTIES:
            raise ValueError(f"it has more than {MAX_PROPERTIES} properties or {MAX_NODES} values")
    if _common(multiples) > MAX_MULTIPLE:
        raise ValueError(f"its multipleOf have a common multiple above {MAX_MULTIPLE}")


def _strict(schema: Any) -> Any:
    """The schema with what `_FORMATS` adds to its formats."""
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    for key, value in schema.items():
        if key in _SCHEMAS and isinstance(value, dict):
            out[key] = {name: _strict(one) for name, one in value.items()}
        elif key in _LISTS and isinstance(value, list):
            out[key] = [_strict(one) for one in value]
        elif key in _ONE:
            out[key] = _strict(value)
    if isinstance(name := schema.get("format"), str) and name in _FORMATS and isinstance(out.get("allOf", []), list):
        out["allOf"] = [*out.get("allOf", []), {"pattern": _FORMATS[name]}]
    return out


def _common(multiples: set[Decimal]) -> int:
    """Their least common multiple in units of their last digit."""
    unit = min((int(m.normalize().as_tuple().exponent) for m in multiples if m.is_finite()), default=0)
    return math.lcm(*(int(m.scaleb(-min(unit, 0))) for m in multiples if m.is_finite()))


def _refused(constraint: Constraint, reason: str) -> Refused:
    return Refused(
        f"this {_NAMES[constraint.kind]} is not covered: {_first_line(reason)}. Change it.", "constraint_unsupported"
    )


def _first_line(text: str) -> str:
    """The library's reason, in one line of bounded length."""
    return " ".join(text.split())[:300].rstrip(". ")


def _ends(tokenizer: Tokenizer) -> tuple[int, ...]:
    return tokenizer.end_of_text, *(t for t in getattr(tokenizer, "stops", ()) if t != tokenizer.end_of_text)


class _Words:
    """A tokenizer as llguidance reads it. Special tokens, which stand for no text, are named by their numbers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = tokenizer.end_of_text, None
        self.tokens = [tokenizer.token_bytes(i) or b"<|%d|>" % i for i in range(tokenizer.vocab_size)]
        self.special_token_ids = [i for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i)]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text.decode() if isinstance(text, bytes) else text)
