"""Requests to an engine in this process, without sockets."""

from __future__ import annotations

import time
from typing import Any

from serving_helpers import TEXTS

from oliveira.serving.engine.sampling import Sampling
from oliveira.serving.engine.scheduler import CHUNK, Request
from oliveira.serving.engine.text_engine import TextEngine
from oliveira.serving.protocol import Answer, Done, Embed, Embedded, End, Token
from oliveira.serving.wire import tagged


def request(
    name: str, prompt: list[int], max_tokens: int, *, temperature: float = 0.0, n: int = 1, **more: Any
) -> Request:
    fields = {"stop": [], "logprobs": None, "observe": True, **more}
    sampling = Sampling(temperature=temperature)
    return Request(
        id=name,
        prompt=prompt,
        n=n,
        max_tokens=max_tokens,
        sampling=sampling,
        arrived=time.monotonic(),
        **fields,
    )


def run(engine: TextEngine, waves: list[list[tuple[Request, int]]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Adds a wave of requests before each of the first steps. Returns each choice, and the ends of the requests."""
    scheduler, out = engine.scheduler, {}
    pending = list(waves)
    for _ in range(20_000):
        for made, seed in pending.pop(0) if pending else []:
            scheduler.add(made, seed)
        if not scheduler.busy and not pending:
            break
        for message in scheduler.step():
            assert isinstance(message, Token | Done | End), message
            if isinstance(message, End):
                out[message.id, -1] = tagged(message)
                continue
            choice = out.setdefault((message.id, message.index), {"text": "", "entries": []})
            choice["text"] += message.text
            choice["entries"] += message.logprobs
            if isinstance(message, Done):
                choice |= {"reason": message.reason, "tokens": message.tokens}
    assert not scheduler.busy and len(scheduler.pool.free) == scheduler.capacity  # none is lost
    return out


def prompts(engine: TextEngine) -> list[list[int]]:
    """Ten prompts of 1 to 150 tokens: shorter and longer than a chunk."""
    tokens = engine.tokenizer.encode(" ".join(TEXTS))
    return [
        tokens[i * 7 : i * 7 + length]
        for i, length in enumerate((1, 3, CHUNK - 1, CHUNK, CHUNK + 1, 150, 20, 40, 128, 2))
    ]


def embedding(engine: TextEngine, tokens: list[int]) -> list[float]:
    """Of one text, while nothing else is at work."""
    assert engine.answer(Embed(id="e", tokens=tokens)) == []
    out: list[Answer] = []
    for _ in range(1000):
        if not engine.scheduler.busy:
            break
        out += engine.turn([])
    [answer] = out
    assert isinstance(answer, Embedded) and answer.prompt_tokens == len(tokens), answer
    return answer.embedding
