"""Messages between front and engine: what comes out is what went in, and nothing that is not one comes in."""

from __future__ import annotations

import json
import math

import pytest

from oliveira.errors import OliveiraError
from oliveira.serving.protocol import (
    Alternative,
    Beat,
    Cancel,
    Detokenized,
    Generate,
    Logprob,
    Predict,
    Predicted,
    Prediction,
    Question,
    Said,
    TaskReady,
    Token,
    Tokenize,
)
from oliveira.serving.wire import MAX_LINE, pack, unpack

ENTRY = Logprob(token=[195], logprob=-0.5, top=[Alternative(token=[97], logprob=-0.25)], offset=3)
QUESTIONS = [
    Generate(id="1", tokens=[1, 2], stop=["a\nb\u2028\0"], temperature=0.5, seed=7),
    Tokenize(text="ç"),
    Predict(body={"any": [None, {"op": "cancel"}]}),
    Cancel(id="3"),
]
SAID = [
    Token(id="1", index=0, text="a\nb\u2028\0", logprobs=[ENTRY, ENTRY]),
    Predicted(id="2", queue_seconds=0.5, answers=[Prediction(answer={"x": 1}, observed={"level": 2.0})]),
    TaskReady(digest="d", weights="fp32", task={"task": "x"}, engine="torch"),
    Beat(),
]


def test_messages_come_out_as_they_went_in() -> None:
    lines = pack(QUESTIONS).splitlines(keepends=True)
    assert [unpack(line, Question) for line in lines] == QUESTIONS and json.loads(lines[-1])["op"] == "cancel"
    lines = pack(SAID).splitlines(keepends=True)
    assert [unpack(line, Said) for line in lines] == SAID and json.loads(lines[0])["type"] == "token"
    with pytest.raises(ValueError, match="JSON"):
        pack([Token(id="1", index=0, text="", logprobs=[Logprob(token=[1], logprob=math.nan, top=[])])])
    with pytest.raises(ValueError, match="surrogates"):
        pack([Detokenized(id="1", text="\ud800")])


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]\n", b"nonsense\n", b"\xff\n", b"1" * (MAX_LINE + 1)])
def test_what_is_no_line_of_json_is_refused(line: bytes) -> None:
    with pytest.raises(OliveiraError):
        unpack(line, Said)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"type": "eval"}, "eval"), ({"type": 3}, "Said"), ({"type": None, "op": "token"}, "Said"),
        ({"index": True}, "index"), ({"index": 1.0}, "index"), ({"text": None}, "text"), ({"more": 1}, "more"),
        ({"logprobs": {}}, "logprobs"), ({"logprobs": [1]}, "logprobs"), ({"logprobs": None}, "logprobs"),
        ({"logprobs": [{"token": ["a"], "logprob": 1.0, "top": []}]}, "token"),
        ({"logprobs": [{"token": [], "logprob": "1", "top": []}]}, "logprob"),
        ({"logprobs": [{"token": [], "top": []}]}, "missing"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_the_types_is_named(change: dict[str, object], word: str) -> None:
    good = {"type": "token", "id": "1", "index": 0, "text": "a", "logprobs": []}
    assert unpack(json.dumps(good).encode() + b"\n", Said)
    with pytest.raises(OliveiraError, match=word):
        unpack(json.dumps(good | change).encode() + b"\n", Said)


def test_a_field_that_is_missing_is_named_and_each_side_has_its_own_messages() -> None:
    with pytest.raises(OliveiraError, match="text is missing"):
        unpack(b'{"op":"tokenize"}\n', Question)
    with pytest.raises(OliveiraError, match="Said"):
        unpack(pack([Tokenize(text="")]), Said)
    with pytest.raises(OliveiraError, match="Question"):
        unpack(pack([Beat()]), Question)
