"""What clients may send: a number is a number."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.openai_routes import shortened
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


@pytest.mark.parametrize(
    "odd",
    [
        {"min_p": 1.5}, {"min_p": -0.1}, {"repetition_penalty": 0}, {"repetition_penalty": 2.5},
        {"frequency_penalty": 3}, {"presence_penalty": -3}, {"logit_bias": {"a": 1}}, {"logit_bias": {"-1": 1}},
        {"logit_bias": {"1": 101}}, {"logit_bias": {str(i): 1 for i in range(2000)}}, {"logit_bias": [1]},
        {"best_of": 3}, {"max_tokens": 0}, {"suffix": "x"},
    ],
)  # fmt: skip
def test_what_is_out_of_range_or_not_offered_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"model": "m", "prompt": "a"} | odd)


def test_settings_of_chance_reach_the_engine_as_they_were_asked() -> None:
    asked = {"min_p": 0.1, "repetition_penalty": 1.1, "frequency_penalty": -1, "presence_penalty": 2}
    told = ChatRequest.model_validate(CHAT | asked | {"logit_bias": {"17": -100}}).sampling()
    assert {name: told[name] for name in asked} == asked and told["logit_bias"] == {"17": -100.0}
    told = ChatRequest.model_validate(CHAT | dict.fromkeys(asked)).sampling()
    neutral = {"min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    assert {name: told[name] for name in asked} == neutral and told["logit_bias"] == {}
    assert CompletionRequest.model_validate({"model": "m", "prompt": "a", "max_tokens": 0, "echo": True}).echo


def test_an_embedding_is_shortened_to_length_one() -> None:
    assert shortened([3.0, 4.0, 12.0], 2) == [0.6, 0.8] and shortened([0.6, 0.8], None) == [0.6, 0.8]
    with pytest.raises(ApiError, match="dimensions = 3"):
        shortened([0.6, 0.8], 3)
