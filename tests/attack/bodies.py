"""With a key: bodies that are no JSON, and JSON that is no request."""

from __future__ import annotations

import itertools
import json
from typing import Any

from tests.attack.attacks import attack
from tests.attack.life import ASK, Life

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": ASK,
    "/v1/chat/completions": {"model": "oliveira", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    "/v1/embeddings": {"model": "oliveira", "input": "um texto"},
    "/tokenize": {"text": "um texto"},
    "/detokenize": {"tokens": [5, 6]},
}
FIELDS: dict[str, tuple[str, ...]] = {
    "/v1/completions": (
        "model", "prompt", "max_tokens", "n", "stream", "stream_options", "temperature", "top_p", "top_k", "stop",
        "seed", "logprobs", "best_of", "echo", "suffix", "logit_bias", "user", "metadata", "tools",
    ),
    "/v1/chat/completions": (
        "model", "messages", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "stream_options",
        "response_format", "stop", "seed", "temperature", "tool_choice",
    ),
    "/v1/embeddings": ("model", "input", "encoding_format", "dimensions", "user"),
    "/tokenize": ("text",),
    "/detokenize": ("tokens",),
    "/admin/swap": ("digest",),
    "/admin/approve": ("digest", "override"),
    "/admin/alerts": ("alerts",),
}  # fmt: skip
NOBODY = ("/admin/approve", "/admin/alerts")  # nothing waits for approval, no alert asks for anything
WRONG: list[str] = [
    "null", "true", "-1", "0", "1.5", "1e400", "-1e400", "NaN", "Infinity", "1" + "0" * 400, "9223372036854775808",
    '""', '"\\u0000"', '"\\ud800"', '"' + "a" * 5000 + '"', "[]", "{}", "[[]]", "[{}]", "[null]", "[1e300]", "[-1]",
    "[[4294967296]]", '["a", 1]', '{"a": {"a": {"a": 1}}}', "[" * 5000 + "]" * 5000,
]  # fmt: skip


@attack
def broken_json(life: Life) -> str:
    """400 digits, 1e400, NaN, depth, lone surrogates, NUL, no UTF-8, no JSON: 400 with a sentence, never 500."""
    bodies = [
        b"", b"{", b"\0", b"\xff\xfe{\0}\0", b"\xed\xa0\x80", b"null", b"[]", b"3", b'"text"', b"{}" * 2,
        b'{"model": "oliveira", "prompt": "\xff"}', b'{"prompt": "a", "prompt": ', b"[" * 200_000, b'{"a":' * 200_000,
        b'{"model": "oliveira", "prompt": "\\ud800"}', b'{"model": "oliveira", "max_tokens": 1' + b"0" * 400 + b"}",
        b'{"model": "oliveira", "temperature": 1e400}', b'{"model": "oliveira", "seed": NaN}',
        b'{"model": "oliveira", "metadata": {"a": -Infinity}}', b"{" + b" " * 500_000,
    ]  # fmt: skip
    for path, body in itertools.product(ROUTES, bodies):
        answer = life.house.post(path, life.use, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["message"], (path, body[:60], answer.text[:200])
    return f"{len(ROUTES) * len(bodies)} bodies"


@attack
def wrong_types(life: Life) -> str:
    """Every field with every kind of value: an answer or a sentence, never 500."""
    seen: dict[int, int] = {}
    for path, fields in FIELDS.items():
        key = life.admin if path.startswith("/admin") else life.use
        for field, value in itertools.product(fields, WRONG):
            valid = {name: kept for name, kept in ROUTES.get(path, {}).items() if name != field}
            body = json.dumps(valid)[:-1] + (", " if valid else "") + f'"{field}": {value}}}'
            answer = life.house.post(path, key, content=body.encode(), headers={"Content-Type": "application/json"})
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            assert answer.status_code < 500 and (answer.status_code != 202 or path in NOBODY), (
                path,
                field,
                value[:40],
                answer.text[:300],
            )
            assert answer.status_code in (200, 202) or answer.json()["error"]["message"], (path, field, value[:40])
    return ", ".join(f"{number} × {status}" for status, number in sorted(seen.items()))


@attack
def sizes_and_types_of_bodies(life: Life) -> None:
    """A body of 5 MiB, other content types, a form, a prompt of 65,536 numbers, 256 prompts."""
    large = life.house.post("/v1/completions", life.use, content=b" " * (5 << 20))
    assert large.status_code == 413, large.text
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = life.house.post("/v1/completions", life.use, content=b"{}", headers={"Content-Type": kind})
        assert answer.status_code == 415, (kind, answer.text)
    for changed in (
        {"prompt": [1] * 65_536},
        {"prompt": ["a"] * 256},
        {"prompt": "a " * 60_000},
        {"n": 4, "prompt": ["a"] * 4},
    ):
        answer = life.house.post("/v1/completions", life.use, json=ASK | changed)
        assert answer.status_code in (200, 400), answer.text[:200]


@attack
def keys_that_are_none(life: Life) -> None:
    """No key, half a key, a revoked one, another scope: 401 or 403, and the same words for all that are unknown."""
    words = set()
    for key in (
        "x",
        life.use[:-1],
        life.use + "a",
        life.revoked,
        "sk-oli-00000000-" + "a" * 43,
        "a" * 5000,
        "' OR 1=1 --",
    ):
        answer = life.house.get("/v1/models", key)
        assert answer.status_code == 401, (key, answer.text)
        words.add(answer.json()["error"]["message"])
    assert len(words) == 1, words
    assert life.house.get("/v1/models").status_code == 401
    for path in ("/admin/state", "/admin/swap", "/admin/nowhere"):
        assert life.house.get(path, life.use).status_code == 403, path
