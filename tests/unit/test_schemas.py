"""What clients may send: a number is a number."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from oliveira.serving.front.schemas import ChatRequest, CompletionRequest, EmbeddingRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
ASKED: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    *(
        (ChatRequest, CHAT, name)
        for name in ("n", "temperature", "top_p", "top_k", "seed", "max_tokens", "top_logprobs")
    ),
    *((CompletionRequest, {"model": "m"}, name) for name in ("n", "max_tokens", "logprobs", "seed")),
]


@pytest.mark.parametrize(("kind", "body", "field"), ASKED, ids=lambda value: getattr(value, "__name__", None))
def test_true_is_no_number(kind: type[BaseModel], body: dict[str, Any], field: str) -> None:
    for value in (True, False):
        with pytest.raises(ValidationError, match="true and false are no value of this field"):
            kind.model_validate(body | {field: value})


def test_what_is_true_or_false_stays_so() -> None:
    assert ChatRequest.model_validate(CHAT | {"stream": True, "logprobs": True}).stream
    assert CompletionRequest.model_validate({"model": "m", "prompt": [1, 2]}).prompts() == [[1, 2]]
    for prompt in ([True], [[1, True]], [1.5]):
        with pytest.raises(ValidationError):
            CompletionRequest.model_validate({"model": "m", "prompt": prompt})
        with pytest.raises(ValidationError):
            EmbeddingRequest.model_validate({"model": "m", "input": prompt})
